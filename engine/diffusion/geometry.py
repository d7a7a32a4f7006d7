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
    canvas = np.zeros((3, side, side), np.float32)
    inside = canvas[:, : size[1], : size[0]]
    np.divide(image.transpose(2, 0, 1), np.float32(127.5), out=inside)
    inside -= 1
    return torch.from_numpy(canvas)


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
    rows, columns = (_nearest(*sides) for sides in zip(mask.shape, (height, width), strict=True))
    return mask.astype(bool).take(columns, axis=1).take(rows, axis=0)


def _nearest(cells: int, pixels: int) -> np.ndarray:
    """The cell that each pixel along a side lies in, rounded as Pillow does."""
    line = Image.fromarray(np.arange(cells, dtype=np.int32)[None])
    return np.asarray(line.resize((pixels, 1), Image.Resampling.NEAREST))[0]


def resize_mask(mask: np.ndarray, width: int, height: int) -> np.ndarray:
    """(h, w) bool at the model's resolution -> (height, width) bool at image size, with smooth edges between pixels."""
    if mask.shape == (height, width):
        return mask
    grey = mask.astype(np.uint8) * 255
    if height < len(mask):
        return _resize(grey, width, height) >= 128
    # What grows in height is resized along its rows first, then along its columns: here that is done by hand, and left
    # out where the object is not.
    rows = _extent(mask, 0)
    wide = np.zeros((len(mask), width), np.uint8)
    if rows.stop:
        wide[rows] = _resize(grey[rows], width, rows.stop - rows.start)
    columns = _extent(wide, 1)
    full = np.zeros((height, width), bool)
    if columns.stop:
        full[:, columns] = _resize(wide[:, columns], columns.stop - columns.start, height) >= 128
    return full


def _resize(values: np.ndarray, width: int, height: int) -> np.ndarray:
    return np.asarray(Image.fromarray(values).resize((width, height), Image.Resampling.BILINEAR))


def bounding_box(mask: np.ndarray) -> tuple[int, int, int, int]:
    """x, y, width, height in pixels of the smallest box around the mask ((H, W) bool); zeros if it is empty."""
    rows = _extent(mask, 0)
    columns = _extent(mask[rows], 1)
    return columns.start, rows.start, columns.stop - columns.start, rows.stop - rows.start


def _extent(mask: np.ndarray, axis: int) -> slice:
    """From the first row (axis 0) or column (1) with anything in it to the last; an empty slice at 0 without any."""
    places = np.flatnonzero(mask.any(axis=1 - axis))
    return slice(int(places[0]), int(places[-1]) + 1) if len(places) else slice(0, 0)


def covered(mask: np.ndarray) -> float:
    """Fraction of the pixels ((H, W) bool) that are True."""
    return float(np.count_nonzero(mask) / mask.size)
