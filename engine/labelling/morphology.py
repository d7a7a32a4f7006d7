"""What is done to a mask after it has been cut: smoothed along the image's edges, closed, filled, opened, weeded out.

All of it works on one image in its own shape, H × W pixels, without a letterbox.
"""

from __future__ import annotations

from itertools import product

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F

from engine.labelling.spec import RefinementSpec

REACHES = (1, 2, 4, 8, 16)
"""Distances, in pixels, of the eight neighbours each that a pixel listens to."""
SHARPNESS = 0.1
"""How unlike a neighbour may be, in standard deviations of the colours around, before it counts for little."""


def smooth(image: Tensor, likely: Tensor, iterations: int) -> Tensor:
    """Spread what is known of each pixel to neighbours of its colour (Araslanov & Roth 2020, arXiv 2005.08104).

    Each iteration replaces p by Σ_q a(p, q) likely(q) over 8 neighbours q at each of five distances, a the softmax over
    q of −mean over channels |x(p) − x(q)| / (0.1 σ(p)), σ the standard deviation of x over these neighbours. Beyond the
    border the image goes on as it ends.

    Args:
        image: [3, H, W]; likely: [H, W], 0..1.

    Returns:
        [H, W], 0..1.
    """
    offsets = [(dy * r, dx * r) for r in REACHES for dy, dx in product((-1, 0, 1), repeat=2) if dy or dx]
    height, width = likely.shape

    def neighbours(values_CHW: Tensor) -> list[Tensor]:
        margin = max(REACHES)
        padded = F.pad(values_CHW[None], (margin,) * 4, mode="replicate")[0]
        return [padded[:, margin + y : margin + y + height, margin + x : margin + x + width] for y, x in offsets]

    around_NCHW = torch.stack(neighbours(image))
    # In two passes: `std` over the first dimension takes ten times as long on a CPU.
    variance_CHW = (around_NCHW - around_NCHW.mean(0)).square_().sum(0) / (len(offsets) - 1)
    spread_CHW = variance_CHW.sqrt().clamp(min=1e-6)
    unlike_NHW = ((around_NCHW - image).abs() / (SHARPNESS * spread_CHW)).mean(1)
    affinity_NHW = (-unlike_NHW).softmax(0)
    for _ in range(iterations):
        total = torch.zeros_like(likely)
        for affinity, neighbour in zip(affinity_NHW, neighbours(likely[None]), strict=True):
            total.addcmul_(affinity, neighbour[0])  # one by one: all at once would not stay in a CPU's cache
        likely = total
    return likely


def tidy(mask: Tensor, heat: Tensor, settings: RefinementSpec) -> Tensor:
    """Closing, hole filling, opening, and no connected components where M̂ is low, as far as the settings ask for them.

    Args:
        mask: [H, W] bool; heat: [H, W], M̂.
    """
    if not (settings.closing or settings.opening or settings.fill_holes or settings.component_heat):
        return mask
    tidied = mask.cpu().numpy()
    if radius := settings.closing:
        # Beyond the border lies neither object nor background: repeat what is at it.
        tidied = _erode(_dilate(np.pad(tidied, radius, mode="edge"), radius), radius)
    if settings.fill_holes:
        tidied = _fill_holes(tidied)
    if radius := settings.opening:
        tidied = _dilate(_erode(np.pad(tidied, radius, mode="edge"), radius), radius)
    if settings.component_heat:
        tidied = _drop_cool_components(tidied, heat.cpu().numpy(), settings.component_heat)
    return torch.from_numpy(np.ascontiguousarray(tidied)).to(mask.device)


def _drop_cool_components(mask: np.ndarray, heat: np.ndarray, least: float) -> np.ndarray:
    """Without the connected components whose hottest pixel is cooler than `least` times the hottest pixel of all."""
    pieces, count = ndimage.label(mask, np.ones((3, 3)))
    if count < 2:
        return mask
    peaks = np.full(count + 1, -np.inf, heat.dtype)  # the first, of what is no piece, stays
    np.maximum.at(peaks, pieces[mask], heat[mask])
    return (peaks >= least * peaks.max())[pieces] & mask


def _fill_holes(mask: np.ndarray) -> np.ndarray:
    """With the pieces of background, connected by their sides, that do not reach the border."""
    pieces, count = ndimage.label(~mask)
    outside = np.zeros(count + 1, bool)
    for border in (pieces[0], pieces[-1], pieces[:, 0], pieces[:, -1]):
        outside[border] = True
    outside[0] = False  # the mask itself
    return ~outside[pieces]


def _erode(mask: np.ndarray, radius: int) -> np.ndarray:
    """True where all within the radius are; smaller by the radius on all sides."""
    return _combine(mask, radius, np.logical_and)


def _dilate(mask: np.ndarray, radius: int) -> np.ndarray:
    """True where any within the radius is; nothing lies beyond the border."""
    return _combine(np.pad(mask, radius), radius, np.logical_or)


def _combine(mask: np.ndarray, radius: int, combine: np.ufunc) -> np.ndarray:
    # Shifted as a whole: several times as fast as `ndimage`, which looks up the disc at every pixel.
    height, width = (side - 2 * radius for side in mask.shape)
    found = mask[radius : radius + height, radius : radius + width].copy()
    for y, x in product(range(-radius, radius + 1), repeat=2):
        if 0 < y * y + x * x <= radius * radius:
            combine(found, mask[radius + y :, radius + x :][:height, :width], out=found)
    return found
