"""Images at the size the segmenter sees them: their short side is brought to a fixed length."""

from __future__ import annotations

import numpy as np
from PIL import Image

LONGEST = 16
"""No image gets longer than so many short sides: one of 1 × 5000 pixels would fill the memory."""


def target_size(height: int, width: int, short_side: int) -> tuple[int, int]:
    """Height and width of an image whose short side is `short_side`, or less if it were longer than `LONGEST` of it."""
    scale = min(short_side / min(height, width), LONGEST * short_side / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


def resize_image(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """(H, W, 3) uint8 -> (height, width, 3) uint8; bilinear, over all pixels that an output pixel covers."""
    if image.shape[:2] == (height, width):
        return image
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))


def resize_classes(classes: np.ndarray, height: int, width: int) -> np.ndarray:
    """(H, W) bool or uint8 -> (height, width), each pixel of the class that lies in its middle."""
    if classes.shape == (height, width):
        return classes
    small = Image.fromarray(classes.astype(np.uint8)).resize((width, height), Image.Resampling.NEAREST)
    return np.asarray(small).astype(classes.dtype)


def resize_map(values: np.ndarray, height: int, width: int) -> np.ndarray:
    """(h, w) float32 -> (height, width) float32, bilinear."""
    if values.shape == (height, width):
        return values
    return np.asarray(Image.fromarray(values).resize((width, height), Image.Resampling.BILINEAR))
