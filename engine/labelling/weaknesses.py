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
    unit = (pixels + 1) / 2
    flags = []
    if contrast < LOW_CONTRAST:
        flags.append("low_contrast")
    if clusters == 3 and missed > MISSED:
        flags.append("several_contrasts")
    if mask.any() and (unit.max(0) - unit.min(0))[mask].mean() < COLOURLESS:
        flags.append("colourless")
    around = unit[:, ~region]
    if around.size and around.std(axis=1).mean() < UNIFORM:
        flags.append("uniform_background")
    if region.mean() > MOST:
        flags.append("covers_most")
    return flags
