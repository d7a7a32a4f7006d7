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
    """Whether any of the first images of the corpus has a mask or a box of the concept that can be used.

    Raises:
        CorpusError: a corpus that cannot be read.
    """
    left = PROBED
    for shard in list_shards(corpus):
        with open_lease(Lease(shard=shard, limit=left), masks=True) as samples:
            for sample in samples:
                left -= 1
                if isinstance(sample, Sample) and _has_truth(sample, concept):
                    return True
        if left < 1:
            break
    return False


def _has_truth(sample: Sample, concept: str) -> bool:
    with suppress(ValueError):
        return find_mask(sample, concept) is not None or find_box(sample, concept) is not None
    return False


def find_mask(sample: Sample, concept: str, *, alone: bool = True) -> np.ndarray | None:
    """The concept's mask (H, W) bool; None without.

    Args:
        alone: as `Sample.truth` takes it.

    Raises:
        DecodeError: it is there and no picture.
    """
    data = sample.truth(concept, alone=alone)
    return None if data is None else decode_mask(data)


def find_box(sample: Sample, concept: str, *, alone: bool = True) -> Box | None:
    """The concept's box in the sample's JSON, ``{"bbox": [x, y, w, h]}`` or by concept; None without.

    Args:
        alone: as `Sample.truth` takes it.

    Raises:
        ValueError: it is there and no box.
    """
    found = sample.metadata.get("bbox")
    if isinstance(found, dict):
        found = found.get(concept)
    elif not sample.is_of(concept, alone=alone):
        found = None
    if found is None:
        return None
    try:
        x, y, width, height = map(float, found)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"its bbox is {found!r}, not [x, y, width, height]") from None
    if not all(map(math.isfinite, (x, y, width, height))) or width <= 0 or height <= 0:
        raise ValueError(f"its bbox is {found!r}; width and height must be positive")
    return x, y, width, height
