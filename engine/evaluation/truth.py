"""Ground truth as a corpus holds it: which of a sample's masks or boxes is the concept's."""

from __future__ import annotations

import math
from contextlib import suppress

import numpy as np

from engine.corpus import Lease, Sample, list_shards, open_lease
from engine.corpus.decode import decode_mask

Box = tuple[float, float, float, float]
"""x, y, width, height in pixels of the upright image."""

PROBED = 64
"""So many images tell whether a corpus has ground truth."""


def has_truth(corpus: str, concept: str) -> bool:
    """Whether any of the first images of the corpus has a mask or a box of the concept.

    Raises:
        CorpusError: a corpus that cannot be read.
    """
    with open_lease(Lease(shard=list_shards(corpus)[0], limit=PROBED), masks=True) as samples:
        return any(isinstance(sample, Sample) and _has_truth(sample, concept) for sample in samples)


def _has_truth(sample: Sample, concept: str) -> bool:
    with suppress(ValueError):  # unusable truth is told of by the evaluation
        return sample.truth(concept) is not None or find_box(sample, concept) is not None
    return True


def find_mask(sample: Sample, concept: str) -> np.ndarray | None:
    """The concept's mask (H, W) bool; None without.

    Raises:
        DecodeError: it is there and no picture.
    """
    data = sample.truth(concept)
    return None if data is None else decode_mask(data)


def find_box(sample: Sample, concept: str) -> Box | None:
    """The concept's box in the sample's JSON, ``{"bbox": [x, y, w, h]}`` or by concept; None without.

    Raises:
        ValueError: it is there and no box.
    """
    found = sample.metadata.get("bbox")
    if isinstance(found, dict):
        found = found.get(concept)
    elif sample.metadata.get("concept", concept) != concept:
        found = None
    if found is None:
        return None
    try:
        x, y, width, height = map(float, found)
    except (TypeError, ValueError):
        raise ValueError(f"its bbox is {found!r}, not [x, y, width, height]") from None
    if not all(map(math.isfinite, (x, y, width, height))) or width <= 0 or height <= 0:
        raise ValueError(f"its bbox is {found!r}; width and height must be positive")
    return x, y, width, height
