"""Masks by a trained segmenter: a run like any other, whose labeller needs no diffusion model. No Ray."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow.parquet as pq

from engine import storage
from engine.corpus.catalogue import LONGEST_NAME
from engine.corpus.lease import Lease
from engine.labelling.png import heatmap_to_png, masks_to_classes, png_to_array
from engine.run.directory import LabelRun, find_input
from engine.run.plan import LabelPlan, plan_run
from engine.run.shard import Labels
from engine.segmenter.files import read_files

CLASSES_VERSION = 2
"""Raised whenever the same segmenter of several concepts labels differently, so that no run holds both."""


@dataclass(frozen=True, kw_only=True)
class PredictionSpec:
    """What to predict and how; an `engine.run.source.RunSpec`.

    Attributes:
        concept: its name; of several, all names.
        concepts: of a segmenter of several; empty for one.
        short_side: that images are resized to, pixels.
        window: side of the windows that they are seen through; 0 sees them at once.
    """

    concept: str
    short_side: int
    window: int = 0
    concepts: tuple[str, ...] = ()

    prompt = ""
    stage = "refined"
    seed = 0

    def fingerprint_fields(self) -> dict[str, Any]:
        """Everything of this spec that a run's fingerprint covers, as JSON values."""
        values = asdict(self)
        several = list(values.pop("concepts"))
        return {**values, "concepts": several, "classes_version": CLASSES_VERSION} if several else values


@dataclass(frozen=True, kw_only=True)
class SegmenterSource:
    """Labellers of a segmenter, which `model` is the absolute folder of (see `engine.run.source`)."""

    model: str
    revision: str | None = None

    def check(self, spec: PredictionSpec) -> dict[str, Any]:
        """Hash of the weights; ValueError for a missing or damaged segmenter, or a window it cannot take."""
        from engine.segmenter.segmenter import Segmenter

        Segmenter.from_pretrained(self.model, short_side=spec.short_side, window=spec.window)
        return {"segmenter_weights": hashlib.sha256(read_files(self.model)[1]).hexdigest()}

    def build(
        self, spec: PredictionSpec, *, device: str, threads: int | None = None, weights: Sequence[bytes] = ()
    ) -> Labels:
        """Loads the segmenter onto the device."""
        import torch

        from engine.segmenter.labeller import SegmenterLabeller
        from engine.segmenter.segmenter import Segmenter

        if threads is not None:
            torch.set_num_threads(threads)
        options = {"short_side": spec.short_side, "window": spec.window}
        return SegmenterLabeller(Segmenter.from_pretrained(self.model, device, **options))

    def load(self, *, device: str) -> Any:
        """There is no diffusion model to be fine-tuned."""
        raise NotImplementedError("a segmenter cannot be fine-tuned on a concept; train another one")


def plan_prediction(
    *,
    model: str,
    input_url: str,
    output_url: str,
    short_side: int | None = None,
    window: int = 0,
    limit: int | None = None,
    batch_size: int = 32,
    config: dict[str, Any] | None = None,
) -> LabelPlan:
    """Checks segmenter, corpus and output; reads all of them and writes nothing.

    Args:
        model: folder or URL of a segmenter.
        short_side: of the images as the network sees them; default that of its training.

    Raises:
        ValueError: something is wrong with what the user asked for; one sentence says what, and what to do.
    """
    source = SegmenterSource(model=storage.absolute(model))
    kept = read_files(source.model)[0]
    side = kept.short_side if short_side is None else short_side
    spec = PredictionSpec(concept=kept.concept, short_side=side, window=window, concepts=kept.concepts)
    return plan_run(
        spec=spec,
        source=source,
        fields={**spec.fingerprint_fields(), **source.check(spec)},
        input_url=find_input(input_url, kept.concept),
        run_url=output_url,
        limit=limit,
        batch_size=batch_size,
        config=config,
        option="--output",
    )


def write_masks(run: LabelRun, lease: Lease) -> int:
    """Writes each image's mask of a finished lease as masks/SHARD/KEY.png, unless the last is there.

    Of several concepts it is 8-bit: 0 is background, 1 the concept whose row comes first.

    Returns:
        how many there are.
    """
    data = storage.read_bytes(run.labels_url(lease.id))
    masks: dict[str, list[dict[str, Any]]] = {}
    for row in pq.read_table(io.BytesIO(data), columns=["key", "mask"]).to_pylist():
        masks.setdefault(row["key"], []).append(row["mask"])

    def url(key: str) -> str:
        return storage.join(run.url, "masks", lease.shard.stem, f"{shorten(key)}.png")

    if masks and not storage.exists(url(list(masks)[-1])):
        for key, own in masks.items():
            storage.atomic_put(own[0]["bytes"] if len(own) == 1 else _to_class_png(own), url(key))
    return len(masks)


def _to_class_png(masks: list[dict[str, Any]]) -> bytes:
    """PNG structs of disjoint masks as one 8-bit PNG of classes."""
    return heatmap_to_png(masks_to_classes([png_to_array(mask) for mask in masks]))


def shorten(key: str) -> str:
    """The key as a path; what no file system takes, or what is taken for a URL, is cut and marked with a hash of it."""
    fits = len(key.encode()) <= 1000 and all(len(part.encode()) <= LONGEST_NAME for part in key.split("/"))
    if fits and "::" not in key and "://" not in key:
        return key
    start = key.rpartition("/")[2].replace(":", "_").encode()[: LONGEST_NAME // 2].decode(errors="ignore")
    return f"{start}-{hashlib.sha256(key.encode()).hexdigest()[:16]}"
