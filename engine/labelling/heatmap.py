"""Heatmaps M̂ in the scales and sizes that others need.

Shapes: B images, h × w latent cells; an image occupies the upper left of its cells, the rest is letterbox.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F


def scale_to_unit(heatmap: Tensor, valid: Tensor) -> Tensor:
    """Min-max scaling of each image's valid cells to 0..1: float [B, h, w], 0 outside.

    Constant or non-finite maps become 0 everywhere.
    """
    low = heatmap.masked_fill(~valid, torch.inf).amin((1, 2), keepdim=True)
    high = heatmap.masked_fill(~valid, -torch.inf).amax((1, 2), keepdim=True)
    unit = ((heatmap - low) / (high - low)).nan_to_num(0.0, 0.0, 0.0).clamp(0, 1)
    return unit.masked_fill(~valid, 0.0)


def scale_to_bytes(heatmap: Tensor, valid: Tensor) -> Tensor:
    """`scale_to_unit` in 256 steps, as the paper normalises scores: uint8 [B, h, w]."""
    return (scale_to_unit(heatmap, valid) * 255).round().to(torch.uint8)


def advantage_to_bytes(advantage: Tensor) -> Tensor:
    """A in 256 steps of 1/512, 128 standing for 0 and the ends for what is beyond: uint8 [B, h, w]."""
    return (128 + 512 * advantage).round().clamp(0, 255).to(torch.uint8)


def bytes_to_advantage(values: np.ndarray) -> np.ndarray:
    """What `advantage_to_bytes` was given, up to its steps: float32 of the same shape."""
    return (values.astype(np.float32) - 128) / 512


def weigh(heatmap: Tensor, advantage: Tensor, valid: Tensor, power: float) -> Tensor:
    """M̂, scaled to 0..1, times exp(A) to a power: float [B, h, w]. See `engine.labelling.attend` for A."""
    return scale_to_unit(heatmap, valid) * (power * advantage).exp()


def enlarge(mask: Tensor, factor: int) -> Tensor:
    """Masks of cells [B, h, w] as masks of pixels [B, f h, f w]."""
    return mask.repeat_interleave(factor, 1).repeat_interleave(factor, 2)


def enlarge_smoothly(heatmap: Tensor, valid: Tensor, factor: int) -> Tensor:
    """`scale_to_unit`, bilinearly from cells to pixels [B, f h, f w]; each image goes on at its border as it ends."""
    unit = scale_to_unit(heatmap, valid)
    large = unit.new_zeros(len(unit), factor * unit.shape[1], factor * unit.shape[2])
    for i, inside in enumerate(valid):
        rows, columns = int(inside[:, 0].sum()), int(inside[0].sum())
        own = unit[i, None, None, :rows, :columns]
        large[i, : factor * rows, : factor * columns] = F.interpolate(
            own, scale_factor=factor, mode="bilinear", align_corners=False
        )[0, 0]
    return large
