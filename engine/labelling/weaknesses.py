"""Known weaknesses of the method, seen in an image and flagged on its row."""

from __future__ import annotations

import numpy as np

WEAKNESSES = ("low_contrast", "several_contrasts", "colourless", "uniform_background", "covers_most")
"""All flags of `find_weaknesses`."""

LOW_CONTRAST = 0.06
"""By how much M differs more from what was painted than the rest of the image does (in CIELAB, 1 is black from white):
below, object and painted background look alike."""
COLOURLESS = 0.06
"""Mean chroma (largest minus smallest of RGB, of 1) of an object: below, it is black, grey or white."""
UNIFORM = 0.03
"""Standard deviation, of 1, of the pixels around M_pre: below, there is nothing that tells what belongs there."""
MISSED = 0.3
"""Share of the differences where M̂ is warm that M leaves out: above, parts of an object of several contrasts lack."""
MOST = 0.6
"""Fraction of the image covered by M_pre: above, little is left to paint from."""


def find_weaknesses(
    pixels: np.ndarray, mask: np.ndarray, region: np.ndarray, *, contrast: float, clusters: int, missed: float
) -> list[str]:
    """Flags of one refined mask.

    low_contrast: M hardly differs from what was painted; several_contrasts: the difference has three clusters, and M
    leaves out a good part of it; colourless: the object is black, grey or white; uniform_background: nothing but one
    colour around it; covers_most: M_pre leaves little of the image.

    Args:
        pixels: (3, H, W) in [-1, 1]; mask, region: (H, W) bool, M and the pixels painted over.
        contrast, clusters, missed: of `engine.labelling.refinement.Refined`.
    """
    unit_CN = ((pixels + 1) / 2).reshape(3, -1)
    flags = []
    if contrast < LOW_CONTRAST:
        flags.append("low_contrast")
    if clusters == 3 and missed > MISSED:
        flags.append("several_contrasts")
    object_CN = unit_CN.compress(mask.ravel(), axis=1)
    if object_CN.size and (object_CN.max(0) - object_CN.min(0)).mean() < COLOURLESS:
        flags.append("colourless")
    around_CN = unit_CN.compress(~region.ravel(), axis=1)
    if around_CN.size and _deviation(around_CN).mean() < UNIFORM:
        flags.append("uniform_background")
    if np.count_nonzero(region) / region.size > MOST:
        flags.append("covers_most")
    return flags


def _deviation(values_CN: np.ndarray) -> np.ndarray:
    """Standard deviation of each channel: [C].

    Added up one by one, in float32, and not pairwise as `std` does with a channel that lies by itself in memory: flags
    at the edge of `UNIFORM` hang on the last digits, and must stay what they were.
    """
    count = values_CN.shape[1]
    mean_C1 = np.add.accumulate(values_CN, axis=1)[:, -1:] / count
    squares_CN = np.square(values_CN - mean_C1)
    return np.sqrt(np.add.accumulate(squares_CN, axis=1)[:, -1] / count)
