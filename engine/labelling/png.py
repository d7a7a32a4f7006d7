"""Masks and maps as PNG, as label rows hold them.

Shapes: H × W pixels of an image, h × w latent cells.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image


def mask_to_png(mask: np.ndarray) -> bytes:
    """A boolean mask (H, W) as a 1-bit PNG: white is the object."""
    return _to_png(Image.fromarray(np.ascontiguousarray(mask, dtype=bool)))


def heatmap_to_png(heatmap: np.ndarray) -> bytes:
    """A uint8 map (h, w) as an 8-bit grey PNG."""
    assert heatmap.dtype == np.uint8 and heatmap.ndim == 2
    return _to_png(Image.fromarray(np.ascontiguousarray(heatmap)))


def png_to_array(png: dict[str, Any]) -> np.ndarray:
    """The PNG struct of a label row as (h, w): bool if it is 1-bit, else uint8."""
    with Image.open(io.BytesIO(png["bytes"]), formats=("PNG",)) as image:
        return np.asarray(image if image.mode == "1" else image.convert("L"))


def masks_to_classes(masks: Sequence[np.ndarray], numbers: Sequence[int] | None = None) -> np.ndarray:
    """Masks (h, w) bool of several concepts -> (h, w) uint8: 0 background, 1 the first; an earlier one hides others.

    Args:
        numbers: of the classes, where they are not the masks' places.
    """
    classes = np.zeros(masks[0].shape, np.uint8)
    for mask, number in reversed(list(zip(masks, numbers or range(1, len(masks) + 1), strict=True))):
        classes[mask] = number
    return classes


def _to_png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()
