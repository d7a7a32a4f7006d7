"""Where an image of any size lies on the square canvas of the model, and the way back.

The image is scaled to fit the canvas and put into its upper left corner. Its scaled sides are whole multiples of the
latent cell, so that a latent cell lies either inside or outside, and mapping between image and latent is a plain
resize: there is no offset that could be off by one. The rest of the canvas is mid-grey and takes part in nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from PIL import Image
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Placement:
    """An image of `width` × `height` pixels occupies `columns` × `rows` latent cells of a `cells` × `cells` canvas."""

    width: int
    height: int
    columns: int
    rows: int
    cells: int
    factor: int

    @classmethod
    def fit(cls, width: int, height: int, *, cells: int, factor: int) -> Placement:
        """The largest placement that keeps the aspect ratio to within half a cell; at least one cell a side."""
        scale = cells / max(width, height)
        return cls(
            width=width,
            height=height,
            columns=min(cells, max(1, round(width * scale))),
            rows=min(cells, max(1, round(height * scale))),
            cells=cells,
            factor=factor,
        )

    def unscaled(self) -> Placement:
        """The same cells, of an image that is as large as the model sees it."""
        return replace(self, width=self.columns * self.factor, height=self.rows * self.factor)


def image_to_canvas(image: np.ndarray, place: Placement) -> Tensor:
    """(H, W, 3) uint8 -> [3, f cells, f cells] float32 in [-1, 1], 0 outside the image."""
    assert image.shape[:2] == (place.height, place.width), (image.shape, place)
    size = (place.columns * place.factor, place.rows * place.factor)
    if (place.width, place.height) != size:
        image = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS))
    side = place.cells * place.factor
    canvas = torch.zeros(3, side, side)
    canvas[:, : size[1], : size[0]] = torch.from_numpy(image.copy()).permute(2, 0, 1) / 127.5 - 1
    return canvas


def canvas_to_image(canvas: Tensor, place: Placement) -> np.ndarray:
    """[3, f cells, f cells] in about [-1, 1] -> (H, W, 3) uint8, the image's own part at its own size."""
    size = (place.columns * place.factor, place.rows * place.factor)
    pixels = ((canvas[:, : size[1], : size[0]].float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    image = pixels.permute(1, 2, 0).cpu().numpy()
    if (place.width, place.height) == size:
        return np.ascontiguousarray(image)
    return np.asarray(Image.fromarray(image).resize((place.width, place.height), Image.Resampling.LANCZOS))


def valid_cells(places: list[Placement]) -> Tensor:
    """[B, cells, cells] bool: the latent cells that belong to the images."""
    valid = torch.zeros(len(places), places[0].cells, places[0].cells, dtype=torch.bool)
    for index, place in enumerate(places):
        valid[index, : place.rows, : place.columns] = True
    return valid


def upsample_mask(mask: np.ndarray, width: int, height: int) -> np.ndarray:
    """(h, w) bool at latent size -> (height, width) bool at image size, each pixel taking the cell it lies in."""
    picture = Image.fromarray(mask.astype(np.uint8))
    return np.asarray(picture.resize((width, height), Image.Resampling.NEAREST)).astype(bool)


def resize_mask(mask: np.ndarray, width: int, height: int) -> np.ndarray:
    """(h, w) bool at the model's resolution -> (height, width) bool at image size, with smooth edges between pixels."""
    if mask.shape == (height, width):
        return mask
    picture = Image.fromarray(mask.astype(np.uint8) * 255)
    return np.asarray(picture.resize((width, height), Image.Resampling.BILINEAR)) >= 128


def bounding_box(mask: np.ndarray) -> tuple[int, int, int, int]:
    """x, y, width, height in pixels of the smallest box around the mask ((H, W) bool); zeros if it is empty."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return 0, 0, 0, 0
    x, y = int(columns[0]), int(rows[0])
    return x, y, int(columns[-1]) - x + 1, int(rows[-1]) - y + 1
