"""What a step sees: captioned images, and two of them in one, a picture in a picture whose caption names both.

A model that sees one thing at a time may spend a word on whatever goes with the thing: horses stand on grass, and a
word that paints the grass needs no region. Where a second image is pasted into the first at a random place, each word
is of use only where its own image lies, so the words learn to look. No mask is involved: the caption stays the
only thing that is known of either image.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class CaptionedLatents:
    """Scaled latents of N captioned images, and how they are drawn from.

    Attributes:
        whole: [k N, C, h, w]: each N of them are another view of the images (mirrored, letterboxed).
        small: the same at half the size, [k N, C, h/2, w/2]; needed where `inset` is above 0.
        captions: N texts.
        weights: [N] float64, of the images when they are drawn; None draws all alike.
        inset: probability that a small image is pasted into an image, and its caption added.
        dropout: probability that a caption is replaced by `dropped`.
    """

    whole: Tensor
    small: Tensor | None
    captions: list[str]
    weights: Tensor | None
    inset: float
    dropout: float
    dropped: str

    def draw(self, count: int, generator: torch.Generator) -> tuple[Tensor, list[str]]:
        """`count` latents, float32 [B, C, h, w], in any of their views, and their captions."""
        return self._draw_from(self.whole, count, generator)

    def compose(self, z0: Tensor, texts: list[str], generator: torch.Generator) -> tuple[Tensor, list[str]]:
        """What `draw` gave, with insets pasted and captions dropped as often as asked for."""
        texts = self._drop(texts, generator)
        if not self.inset:
            return z0, texts
        assert self.small is not None
        insets, others = self._draw_from(self.small, len(z0), generator)
        chosen = torch.rand(len(z0), generator=generator) < self.inset
        z0 = paste_insets(z0, insets, chosen, generator)
        both = zip(texts, self._drop(others, generator), chosen.tolist(), strict=True)
        return z0, [join_captions(text, other) if yes else text for text, other, yes in both]

    def _draw_from(self, source: Tensor, count: int, generator: torch.Generator) -> tuple[Tensor, list[str]]:
        images = len(self.captions)
        index = draw_images(count, images, self.weights, generator)
        view = torch.randint(len(source) // images, (count,), generator=generator)
        return source[index + view * images].float(), [self.captions[i] for i in index.tolist()]

    def _drop(self, texts: list[str], generator: torch.Generator) -> list[str]:
        dropped = (torch.rand(len(texts), generator=generator) < self.dropout).tolist()
        return [self.dropped if drop else text for text, drop in zip(texts, dropped, strict=True)]


def join_captions(first: str, second: str) -> str:
    """The caption of an image with another in it."""
    return f"{first} and {second}"


def caption_weights(captions: list[str], balance: float) -> Tensor | None:
    """Weight of each image when images are drawn, ∝ (images of the same caption)^-balance: [N] float64.

    Args:
        balance: 0 draws images alike (None is returned), 1 draws captions alike.
    """
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
