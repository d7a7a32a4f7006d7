"""Runs whose masks are what a test says, made by the machinery that makes every run."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from engine.diffusion.geometry import bounding_box
from engine.distillation.spec import DistillationSpec
from engine.labelling.label import Label
from engine.labelling.spec import LabelSpec, SeveralSpec
from engine.run.directory import start_run
from engine.run.fake import FakeSource
from engine.run.plan import plan_labelling
from engine.run.shard import label_lease
from tests.segmenter.bright import to_png, write_tar

TURNED = 6
"""EXIF orientation: stored lying on its side."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """An image, what is labelled in it, and how."""

    shard: str
    key: str
    mask: np.ndarray
    quality: float = 0.9
    flags: list[str] = field(default_factory=list)
    turned: bool = False
    concept: str = "box"

    @property
    def pixels(self) -> np.ndarray:
        """(H, W, 3) uint8, upright."""
        rng = np.random.default_rng(len(self.key))
        height, width = self.mask.shape
        tiles = rng.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8)
        return tiles.repeat(8, axis=0).repeat(8, axis=1)[:height, :width]

    def encode(self) -> tuple[str, bytes]:
        """Suffix and content of its file."""
        if not self.turned:
            return "png", to_png(self.pixels)
        exif = Image.Exif()
        exif[0x0112] = TURNED
        buffer = io.BytesIO()
        stored = Image.fromarray(self.pixels).transpose(Image.Transpose.ROTATE_90)
        stored.save(buffer, format="JPEG", quality=95, exif=exif)
        return "jpg", buffer.getvalue()


def _blank(height: int, width: int) -> np.ndarray:
    return np.zeros((height, width), dtype=bool)


def _disc(height: int, width: int, radius: float) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    return (x - width / 2) ** 2 + (y - height / 2) ** 2 < radius**2


def difficult_masks() -> dict[str, np.ndarray]:
    """What formats trip over, by what it is."""
    dot, line, corner, parts = _blank(9, 17), _blank(24, 31), _blank(20, 20), _blank(40, 64)
    dot[3, 5] = True
    line[2:20, 7] = line[23, 3:30] = True
    corner[4:8, 4:8] = corner[8:12, 8:12] = True  # they touch at a corner alone
    parts[2:8, 3:20] = parts[30:40, 50:64] = True
    island = _disc(64, 48, 20) & ~_disc(64, 48, 14) | _disc(64, 48, 8) & ~_disc(64, 48, 3)
    sieve = _disc(50, 70, 24)
    sieve[::4, ::4] = False
    noise = np.random.default_rng(0).random((33, 45)) < 0.5
    return {
        "disc": _disc(60, 90, 25),
        "dot": dot,
        "line": line,
        "corner": corner,
        "parts": parts,
        "island": island,
        "sieve": sieve,
        "noise": noise,
        "full": np.ones((12, 10), dtype=bool),
        "empty": _blank(16, 24),
    }


def cases() -> list[Case]:
    """Every difficult mask, in two shards, and keys that are no good file names."""
    masks = difficult_masks()
    found = [
        Case(shard=f"{number % 2:06d}", key=name, mask=mask, flags=["empty"] if name == "empty" else [])
        for number, (name, mask) in enumerate(masks.items())
    ]
    return [
        *found,
        Case(shard="000000", key="turned", mask=masks["island"], turned=True),
        Case(shard="000001", key="poor", mask=masks["disc"], quality=0.2),
        Case(shard="000001", key="a b/<ü>&'\"", mask=masks["parts"]),
        Case(shard="000001", key="images/dot", mask=masks["dot"]),
    ]


SEVERAL = ("fire truck", "car")
"""Concepts in an order that is not the alphabet's."""


def scenes() -> list[Case]:
    """Images with both, one and neither of two concepts, and one with a poor label, in two shards."""
    masks = difficult_masks()
    ring, left, right = masks["disc"].copy(), masks["parts"].copy(), masks["parts"].copy()
    ring[20:40, 30:60] = False
    left[:, 32:] = False
    right[:, :32] = False
    drawn = {
        "both": (left, right),
        "around": (ring, masks["disc"] & ~ring),
        "all": (masks["noise"], ~masks["noise"]),
        "truck": (masks["island"], _blank(64, 48)),
        "poor": (left, right),
        "neither": (_blank(16, 24), _blank(16, 24)),
        "turned <&>": (_blank(64, 48), masks["island"]),
    }
    found = []
    for number, (key, pair) in enumerate(drawn.items()):
        for concept, mask in zip(SEVERAL, pair, strict=True):
            quality = 0.2 if (key, concept) == ("poor", "car") else 0.9
            how = {"quality": quality} if mask.any() else {"quality": 0.0, "flags": ["absent"]}
            shard, turned = f"{number % 2:06d}", key == "turned <&>"
            found.append(Case(shard=shard, key=key, mask=mask, turned=turned, concept=concept, **how))
    return found


class PrescribedLabeller:
    """Labels each image as its cases say, those of several concepts in their order."""

    def __init__(self, shard: Sequence[Case], concepts: Sequence[str]) -> None:
        self._concepts = concepts
        self._cases = {(case.key, case.concept): case for case in shard}

    def __call__(self, images: list[np.ndarray], keys: list[str]) -> list[list[Label]]:
        return [[self._label(self._cases[key, concept]) for concept in self._concepts] for key in keys]

    def _label(self, case: Case) -> Label:
        small = case.mask[::4, ::4]
        return Label(
            heatmap=np.where(small, 255, 0).astype(np.uint8),
            preliminary_mask=small,
            mask=case.mask,
            bbox=bounding_box(case.mask),
            area=float(case.mask.mean()),
            separation=0.5,
            refined_separation=0.75,
            presence=0.1,
            quality=case.quality,
            flags=case.flags,
            concept=case.concept,
        )


def write_run(folder: Path, given: Sequence[Case]) -> Path:
    """Corpus and run, of one concept or several; the folder of the latter."""
    corpus, run = folder / "corpus", folder / "run"
    _write_corpus(corpus, given)
    concepts = tuple(dict.fromkeys(case.concept for case in given))

    specs = [LabelSpec(concept=concept, prompt=f"a photo of a {concept}") for concept in concepts]
    plan = plan_labelling(
        spec=specs[0] if len(specs) == 1 else SeveralSpec(specs=tuple(specs)),
        source=FakeSource(),
        input_url=str(corpus),
        run_url=str(run),
        distillation=DistillationSpec(method="none"),
    )
    start_run(plan.run.url, plan.manifest)
    for lease in plan.leases:
        own = [case for case in given if case.shard == lease.shard.stem]
        label_lease(lease, PrescribedLabeller(own, concepts), plan.run)
    return run


def _write_corpus(corpus: Path, given: Sequence[Case]) -> None:
    shards: dict[str, dict[str, bytes]] = {}
    for case in given:
        suffix, data = case.encode()
        shards.setdefault(case.shard, {})[f"{case.key}.{suffix}"] = data
    for shard, members in shards.items():
        write_tar(corpus / f"{shard}.tar", members)


def change_rows(run: Path, change: Callable[[dict[str, Any]], dict[str, Any] | None]) -> None:
    """Writes a run's labels again, each row changed, or left out where that gives None."""
    for path in (run / "labels").glob("*.parquet"):
        table = pq.read_table(path)
        rows = [changed for row in table.to_pylist() if (changed := change(row)) is not None]
        pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), path)
