"""Which captioned images a step sees, and two of them in one: a picture in a picture whose caption names both.

A model that sees one thing at a time may spend a word on whatever goes with the thing: horses stand on grass, and a
word that paints the grass needs no region. Where a second image is pasted into the first at a random place, each word
is of use only where its own image lies, so the words learn to look. No mask is involved: the caption stays the
only thing that is known of either image.
"""

from __future__ import annotations

from collections import Counter

import torch
from torch import Tensor


def caption_weights(captions: list[str], balance: float) -> Tensor | None:
    """Weight of each image when images are drawn, ∝ (images of the same caption)^-balance: [N] float64.

    Args:
        balance: 0 draws images alike (None is returned), 1 draws captions alike.

    Raises:
        ValueError: a balance outside 0..1.
    """
    if not 0 <= balance <= 1:
        raise ValueError(f"balance is {balance}; it must lie between 0 (images alike) and 1 (captions alike)")
    if not balance:
        return None
    counts = Counter(captions)
    return torch.tensor([counts[caption] ** -balance for caption in captions], dtype=torch.float64)


def draw_images(count: int, images: int, weights: Tensor | None, generator: torch.Generator) -> Tensor:
    """`count` positions in 0..images - 1, int64, drawn with replacement."""
    if weights is None:
        return torch.randint(images, (count,), generator=generator)
    return torch.multinomial(weights, count, replacement=True, generator=generator)


def paste_insets(z0: Tensor, insets: Tensor, chosen: Tensor, generator: torch.Generator) -> Tensor:
    """`z0` ([B, C, H, W]) with insets[i] ([B, C, h, w]) at a random place of z0[i] where `chosen` ([B] bool)."""
    (height, width), (h, w) = z0.shape[-2:], insets.shape[-2:]
    top = torch.randint(height - h + 1, (len(z0),), generator=generator).tolist()
    left = torch.randint(width - w + 1, (len(z0),), generator=generator).tolist()
    pasted = z0.clone()
    for i in chosen.nonzero().flatten().tolist():
        pasted[i, :, top[i] : top[i] + h, left[i] : left[i] + w] = insets[i]
    return pasted
