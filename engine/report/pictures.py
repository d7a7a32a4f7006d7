"""The pictures of a label side by side in one file, of which the page shows a part at a time."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image

from engine.diffusion.geometry import upsample_mask
from engine.evaluation.contact_sheet import colour_heatmap, outline_mask
from engine.labelling.png import png_to_array

COLUMNS = ("heatmap", "preliminary_mask", "mask")
HEAT = 0.7
"""Share of the heatmap's colour; the rest is the image in grey."""
QUALITY, EFFORT = 80, 3
GAP = 16
"""Pixels between layers, a block of WebP's: colours of one layer must not bleed into the next."""
WIDEST = 16383
"""Pixels that a WebP may be wide."""


def draw_layers(image: np.ndarray, row: dict[str, Any], side: int, background: np.ndarray | None = None) -> bytes:
    """One WebP of image, mask, heatmap, preliminary mask and, if there is one, background.

    Each is of at most ``side`` x ``side`` pixels and in the image's proportions.

    Args:
        image: (H, W, 3) uint8.
        row: with `COLUMNS`.
        background: (H, W, 3) uint8, the image without the object.
    """
    height, width = image.shape[:2]
    size = layer_size(width, height, side)
    picture = Image.fromarray(image).resize(size, Image.Resampling.LANCZOS)
    heat = Image.fromarray(colour_heatmap(png_to_array(row["heatmap"]))).resize(size, Image.Resampling.BICUBIC)
    layers = [
        picture,
        outline_mask(picture, shrink_mask(png_to_array(row["mask"]), size)),
        Image.blend(picture.convert("L").convert("RGB"), heat, HEAT),
        outline_mask(picture, shrink_mask(upsample_mask(png_to_array(row["preliminary_mask"]), width, height), size)),
    ]
    if background is not None:
        layers.append(Image.fromarray(background).resize(size, Image.Resampling.LANCZOS))
    strip = Image.new("RGB", ((size[0] + GAP) * len(layers) - GAP, size[1]))
    for index, layer in enumerate(layers):
        # Its edge goes on in the gap, as far as the picture itself is concerned.
        wide = np.pad(np.asarray(layer), ((0, 0), (GAP // 2, GAP // 2), (0, 0)), mode="edge")
        strip.paste(Image.fromarray(wide), (index * (size[0] + GAP) - GAP // 2, 0))
    buffer = io.BytesIO()
    strip.save(buffer, format="WEBP", quality=QUALITY, method=EFFORT)
    return buffer.getvalue()


def layer_size(width: int, height: int, side: int) -> tuple[int, int]:
    """Width and height of one layer of an image's picture; small images are not enlarged."""
    scale = min(1.0, side / max(height, width))
    return max(1, round(width * scale)), max(1, round(height * scale))


def largest_side(layers: int) -> int:
    """Side of the largest layers of which so many fit into a picture."""
    return (WIDEST + GAP) // layers - GAP


def shrink_mask(mask: np.ndarray, size: tuple[int, int]) -> Image.Image:
    """A mask (H, W) as 0 and 255 at the size (width, height) of a picture."""
    # Boxes, not single pixels: what is thin must not vanish.
    return Image.fromarray(mask.astype(np.uint8) * 255).resize(size, Image.Resampling.BOX).point(_HALF)


_HALF = [0] * 128 + [255] * 128
