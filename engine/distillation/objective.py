"""The loss of fine-tuning: the squared error of the U-Net's prediction inside a region."""

from __future__ import annotations

from torch import Tensor


def masked_loss(prediction: Tensor, target: Tensor, region: Tensor) -> Tensor:
    """Mean over the batch of Σ region (prediction − target)² / (C Σ region).

    Dividing by each region's own area gives a small rectangle the weight of a whole image. An empty region weighs
    nothing.

    Args:
        prediction, target: [B, C, h, w]; region: [B, h, w] bool.
    """
    weight = region[:, None].to(prediction.dtype)
    error = ((prediction - target) * weight).square().sum((1, 2, 3))
    area = weight.sum((1, 2, 3)) * prediction.shape[1]
    return (error / area.clamp(min=1)).mean()
