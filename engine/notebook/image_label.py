"""A label beside the image that it is of."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from PIL import Image

from engine.evaluation.contact_sheet import outline_mask
from engine.labelling.label import Label
from engine.report.pictures import layer_size, shrink_mask

SIDE = 512
"""Of a picture, at most, pixels."""


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class ImageLabel(Label):
    """A label and its image, which a notebook shows as a picture.

    Attributes:
        key: with the seed, what the noise was drawn from.
        image: (H, W, 3) uint8 RGB, upright.
    """

    key: str
    image: np.ndarray

    def overlay(self, side: int = SIDE) -> Image.Image:
        """The image with the mask's outline, dark and without colour outside; its longer side is at most `side`."""
        height, width = self.mask.shape
        size = layer_size(width, height, side)
        picture = Image.fromarray(self.image).resize(size, Image.Resampling.LANCZOS)
        return outline_mask(picture, shrink_mask(self.mask, size))

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.overlay().save(buffer, format="PNG")
        return buffer.getvalue()

    def __repr__(self) -> str:
        height, width = self.mask.shape
        facts = f"quality={self.quality:.2f}, area={self.area:.2f}, flags={self.flags}"
        return f"ImageLabel(key={self.key!r}, {width} x {height}, {facts})"
