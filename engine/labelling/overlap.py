"""Pixels that the masks of several concepts claim, given to one of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image


def resolve_overlap(masks: Sequence[np.ndarray], heatmaps: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Masks that do not overlap: a pixel that several claim goes to the concept whose heatmap is highest there.

    Heatmaps are compared as they are, each min-max scaled within its image: where is this concept, of all places in
    this image? At a tie the first of them keeps the pixel.

    Args:
        masks: (H, W) bool each, of one image.
        heatmaps: (h, w) uint8 each, of the same concepts in the same order; enlarged bilinearly.
    """
    claims = np.stack(masks)
    if not (claims.sum(0) > 1).any():
        return list(masks)
    height, width = claims.shape[1:]
    heat = np.stack(
        [
            np.asarray(Image.fromarray(heatmap.astype(np.float32)).resize((width, height), Image.Resampling.BILINEAR))
            for heatmap in heatmaps
        ]
    )
    winner = np.where(claims, heat, -1.0).argmax(0)
    return [mask & (winner == place) for place, mask in enumerate(masks)]
