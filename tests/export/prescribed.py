"""A run whose masks are what a test says, made by the machinery that makes every run."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from engine.corpus import plan_leases
from engine.corpus.catalogue import list_shards
from engine.diffusion.geometry import bounding_box
from engine.distillation.spec import DistillationSpec
from engine.labelling.label import Label
from engine.labelling.spec import LabelSpec
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


class PrescribedLabeller:
    """Labels each image as its case says."""

    def __init__(self, shard: Sequence[Case]) -> None:
        self._cases = {case.key: case for case in shard}

    def __call__(self, images: list[np.ndarray], keys: list[str]) -> list[Label]:
        return [self._label(self._cases[key]) for key in keys]

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
        )


def write_run(folder: Path, given: Sequence[Case]) -> Path:
    """Corpus and run; the folder of the latter."""
    corpus, run = folder / "corpus", folder / "run"
    shards: dict[str, dict[str, bytes]] = {}
    for case in given:
        suffix, data = case.encode()
        shards.setdefault(case.shard, {})[f"{case.key}.{suffix}"] = data
    for shard, members in shards.items():
        write_tar(corpus / f"{shard}.tar", members)
    spec = LabelSpec(concept="box", prompt="a photo of a box")
    plan = plan_labelling(
        spec=spec,
        source=FakeSource(),
        input_url=str(corpus),
        run_url=str(run),
        distillation=DistillationSpec(method="none"),
    )
    start_run(plan.run.url, plan.manifest)
    for lease in plan_leases(list_shards(str(corpus))):
        own = [case for case in given if case.shard == lease.shard.stem]
        label_lease(lease, PrescribedLabeller(own), plan.run)
    return run
