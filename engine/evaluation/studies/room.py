"""Whether the examples of a U-Net, which a study holds all at once, have room in the memory."""

from __future__ import annotations

from engine.memory import available_memory
from engine.run.quantities import format_bytes
from engine.run.segmenter import SegmenterTask
from engine.run.training import estimate_counts

PIXEL = 4
"""Bytes of an example's pixel: three of the image, one of the mask."""


def estimate_bytes(training: SegmenterTask) -> float:
    """Of the examples that the training reads, were all of its images square: others take more."""
    examples = 0.0
    for source in training.sources:
        counts = source.counts or estimate_counts(source.leases, source.indexes)
        examples += sum(min(most, count) for most, count in zip(source.wanted, counts, strict=True))
    wanted = training.spec.steps * training.spec.batch_size
    return min(examples, wanted) * PIXEL * training.spec.short_side**2


def check_room(training: SegmenterTask) -> None:
    """Nothing if the examples of the training have room in this machine's memory, or if that is not known.

    Raises:
        ValueError: they have none.
    """
    needed, there = estimate_bytes(training), available_memory()
    if there is not None and needed > there:
        raise ValueError(
            f"the examples of a U-Net take {format_bytes(needed)} at least, and this machine has {format_bytes(there)} "
            "of memory left; give fewer --steps, a smaller --train-batch-size, or a smaller --short-side"
        )
