"""Pixels that the masks of several concepts claim, given to one of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image
from scipy import ndimage

REACH = 0.15
"""Standard deviation of the Gaussian by which neighbours have a say, of the longer side: what explains one part of an
object explains the rest of it, too."""
CRUMBS = 0.3
"""A mask that keeps less than this share of its pixels loses them all: most of it was another concept's object, and
so is what is left."""


def resolve_overlap(
    masks: Sequence[np.ndarray], scores: Sequence[np.ndarray], priors: Sequence[float] | None = None
) -> list[np.ndarray]:
    """Masks that do not overlap: a pixel that several claim goes to the one with the highest score around it.

    The mean of each score is taken over the cells nearby, as far as any mask claims them, so that the background has no
    say. Means change slowly from cell to cell: they are taken among the scores, and then enlarged. At a tie the first
    keeps the pixel. A mask that others take most of is emptied (`CRUMBS`), one after another, the least first.

    Args:
        masks: (H, W) bool each, of one image.
        scores: (h, w) each, of one size and in the order of the masks: min-max scaled heatmaps, or the advantages of
            the prompts, which are comparable because all have seen the same noise.
        priors: added to each score, in its unit: how likely the concept is to be in the image at all.
    """
    owned = [np.asarray(mask, bool) for mask in masks]
    while np.sum(owned, 0).max(initial=0) > 1:
        kept = _give_to_one(owned, scores, priors)
        shares = [own.sum() / mask.sum() if mask.any() else 1.0 for own, mask in zip(kept, owned, strict=True)]
        least = int(np.argmin(shares))
        if shares[least] >= CRUMBS:
            return kept
        owned[least] = np.zeros_like(owned[least])  # what it had claimed is shared out anew
    return owned


def _give_to_one(
    masks: Sequence[np.ndarray], scores: Sequence[np.ndarray], priors: Sequence[float] | None
) -> list[np.ndarray]:
    claims = np.stack(masks)
    rows, columns = scores[0].shape
    claimed = _resize(np.asarray(claims.any(0)), columns, rows, Image.Resampling.BOX)
    share = np.maximum(_blur(claimed), 1e-6)
    height, width = claims.shape[1:]
    means = np.stack(
        [_resize(_blur(score * claimed) / share, width, height, Image.Resampling.BILINEAR) for score in scores]
    )
    if priors is not None:
        means += np.asarray(priors, np.float32)[:, None, None]
    winner = np.where(claims, means, -np.inf).argmax(0)
    return [mask & (winner == place) for place, mask in enumerate(masks)]


def _resize(values: np.ndarray, width: int, height: int, how: Image.Resampling) -> np.ndarray:
    return np.asarray(Image.fromarray(values.astype(np.float32)).resize((width, height), how))


def _blur(values: np.ndarray) -> np.ndarray:
    blurred: np.ndarray = ndimage.gaussian_filter(values, REACH * max(values.shape), mode="nearest")
    return blurred
