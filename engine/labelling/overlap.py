"""Pixels that the masks of several concepts claim, given to one of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from PIL import Image
from scipy import ndimage

from engine.diffusion.geometry import bounding_box, covered
from engine.labelling.for_each import ForEach
from engine.labelling.heatmap import bytes_to_advantage
from engine.labelling.label import USELESS, Label

REACH = 0.15
"""Standard deviation of the Gaussian by which neighbours have a say, of the longer side: what explains one part of an
object explains the rest of it, too."""
CRUMBS = 0.3
"""A mask that keeps less than this share of its pixels loses them all: most of it was another concept's object, and
so is what is left."""
PRESENCE_WEIGHT = 3.0
"""Of a concept's presence in the whole image beside its advantage around a pixel, which fewer cells tell."""
OF_A_MASK = ("empty", "touches_border")
"""Flags that a mask's own pixels decide. Not `full`: what was all of the image says as little where others have taken a
part of it."""


def share_pixels(
    concepts: Sequence[str], found: Sequence[Sequence[Label]], *, for_each: ForEach = map
) -> list[list[Label]]:
    """For each image its labels of all concepts, by name, with masks that do not overlap.

    Args:
        found: of each concept, its labels of all images.
    """
    named = [[replace(label, concept=name) for label in own] for name, own in zip(concepts, found, strict=True)]
    return list(for_each(make_disjoint, zip(*named, strict=True)))


def make_disjoint(labels: Sequence[Label]) -> list[Label]:
    """The labels of one image with masks that do not overlap, and with what follows from a mask that has changed.

    A useless label claims only what is left by those that say something, so that it takes nothing from them.
    """
    masks = [label.mask for label in labels]
    useless = [bool(USELESS & set(label.flags)) for label in labels]
    advantages = [label.advantage for label in labels if label.advantage is not None]
    nobody_asked = len(advantages) < len(labels) or any(math.isnan(label.presence) for label in labels)
    if nobody_asked or all(np.array_equal(each, advantages[0]) for each in advantages):  # the latter: of one prompt
        shared = _resolve_in_turn(masks, useless, [label.heatmap for label in labels])
    else:
        # Both say, the presence in first order, by what share the prompt's error is smaller: around a place, and where
        # the concept's heat is.
        priors = [PRESENCE_WEIGHT * label.presence for label in labels]
        shared = _resolve_in_turn(masks, useless, [bytes_to_advantage(each) for each in advantages], priors)
    found = zip(labels, masks, shared, strict=True)
    return [label if np.array_equal(old, new) else _with_mask(label, new) for label, old, new in found]


def _with_mask(label: Label, mask: np.ndarray) -> Label:
    flags = [flag for flag in label.flags if flag not in OF_A_MASK]
    if not mask.any():  # what it was taken for is another concept
        flags.append("absent")
    elif mask[0].any() or mask[-1].any() or mask[:, 0].any() or mask[:, -1].any():
        flags.append("touches_border")
    return replace(
        label,
        mask=mask,
        bbox=bounding_box(mask),
        area=covered(mask),
        quality=label.quality if mask.any() else 0.0,
        flags=flags,
    )


def _resolve_in_turn(
    masks: Sequence[np.ndarray],
    useless: Sequence[bool],
    scores: Sequence[np.ndarray],
    priors: Sequence[float] | None = None,
) -> list[np.ndarray]:
    """As `resolve_overlap`, first among the useful masks, then among what these leave of the useless ones."""
    nothing = np.zeros_like(masks[0])
    firsts = [nothing if last else mask for mask, last in zip(masks, useless, strict=True)]
    firsts = resolve_overlap(firsts, scores, priors)
    free = ~np.logical_or.reduce(firsts)
    lasts = [mask & free if last else nothing for mask, last in zip(masks, useless, strict=True)]
    lasts = [rest if rest.sum() >= CRUMBS * mask.sum() else nothing for rest, mask in zip(lasts, masks, strict=True)]
    lasts = resolve_overlap(lasts, scores, priors)
    return [rest if last else first for first, rest, last in zip(firsts, lasts, useless, strict=True)]


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
    while (contested := _contested(owned)).any():
        kept = _give_to_one(owned, bounding_box(contested), scores, priors)
        counts = [(np.count_nonzero(own), np.count_nonzero(mask)) for own, mask in zip(kept, owned, strict=True)]
        shares = [own / total if total else 1.0 for own, total in counts]
        least = int(np.argmin(shares))
        if shares[least] >= CRUMBS:
            return kept
        owned[least] = np.zeros_like(owned[least])  # what it had claimed is shared out anew
    return owned


def _contested(masks: Sequence[np.ndarray]) -> np.ndarray:
    """Pixels of more than one mask: (H, W) bool."""
    once, again = np.zeros((2, *masks[0].shape), bool)
    for mask in masks:
        again |= once & mask
        once |= mask
    return again


def _give_to_one(
    masks: Sequence[np.ndarray],
    box: tuple[int, int, int, int],
    scores: Sequence[np.ndarray],
    priors: Sequence[float] | None,
) -> list[np.ndarray]:
    """Masks that do not overlap; outside of the box (x, y, width, height) they do not anyway."""
    (height, width), (rows, columns) = masks[0].shape, scores[0].shape
    x, y, across, down = box
    inside = (slice(y, y + down), slice(x, x + across))
    claimed = _resize(np.logical_or.reduce(masks), columns, rows, Image.Resampling.BOX)
    share = np.maximum(_blur(claimed), 1e-6)
    means = np.stack([_enlarge(_blur(score * claimed) / share, width, height, inside) for score in scores])
    if priors is not None:
        means += np.asarray(priors, np.float32)[:, None, None]
    winner = np.where([mask[inside] for mask in masks], means, -np.inf).argmax(0)
    kept = [mask.copy() for mask in masks]
    for place, own in enumerate(kept):
        own[inside] &= winner == place
    return kept


def _enlarge(values: np.ndarray, width: int, height: int, part: tuple[slice, slice]) -> np.ndarray:
    """The part (of rows and columns) of values (h, w) brought to (height, width)."""
    rows, columns = part
    if height < len(values):
        return _resize(values, width, height, Image.Resampling.BILINEAR)[part]
    # As in `resize_mask`: along the rows first, then along those columns that are asked for.
    wide = _resize(values, width, len(values), Image.Resampling.BILINEAR)[:, columns]
    return _resize(wide, wide.shape[1], height, Image.Resampling.BILINEAR)[rows]


def _resize(values: np.ndarray, width: int, height: int, how: Image.Resampling) -> np.ndarray:
    return np.asarray(Image.fromarray(values.astype(np.float32)).resize((width, height), how))


def _blur(values: np.ndarray) -> np.ndarray:
    blurred: np.ndarray = ndimage.gaussian_filter(values, REACH * max(values.shape), mode="nearest")
    return blurred
