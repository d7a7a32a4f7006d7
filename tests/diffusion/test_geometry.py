"""Placing images of any size on the canvas, and masks back on the images."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage

from engine.diffusion.geometry import (
    Placement,
    bounding_box,
    canvas_to_image,
    covered,
    image_to_canvas,
    resize_mask,
    upsample_mask,
    valid_cells,
)

SIZES = [(512, 512), (640, 427), (427, 640), (31, 17), (1, 900), (5000, 8), (128, 96)]


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_a_placement_keeps_the_aspect_ratio_to_half_a_cell(width, height):
    place = Placement.fit(width, height, cells=32, factor=4)
    assert max(place.columns, place.rows) == 32
    scale = 32 / max(width, height)
    assert abs(place.columns - width * scale) <= 0.5 or place.columns == 1
    assert abs(place.rows - height * scale) <= 0.5 or place.rows == 1


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_the_canvas_outside_the_image_is_grey_and_not_valid(width, height):
    place = Placement.fit(width, height, cells=16, factor=8)
    canvas = image_to_canvas(np.full((height, width, 3), 255, np.uint8), place)
    inside = valid_cells([place])[0].repeat_interleave(8, 0).repeat_interleave(8, 1)
    assert torch.equal(canvas[0] == 1, inside)
    assert torch.equal(canvas[0] == 0, ~inside)


@pytest.mark.parametrize(("width", "height"), [(640, 428), (96, 128), (333, 77)])
def test_a_square_comes_back_where_it_was(width, height):
    """A known object survives image -> canvas -> cells -> image with its edges within one cell: no shift, no flip."""
    image = np.zeros((height, width, 3), np.uint8)
    x0, x1, y0, y1 = width // 4, width // 2, height // 3, height - height // 8
    image[y0:y1, x0:x1] = 255
    place = Placement.fit(width, height, cells=64, factor=8)
    canvas = image_to_canvas(image, place)[0]
    cells = torch.nn.functional.avg_pool2d(canvas[None], 8)[0][: place.rows, : place.columns] > 0
    mask = upsample_mask(cells.numpy(), width, height)
    assert mask.shape == (height, width)
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    cell = max(width, height) / 64
    for got, want in ((columns[0], x0), (columns[-1] + 1, x1), (rows[0], y0), (rows[-1] + 1, y1)):
        assert abs(got - want) <= cell


@pytest.mark.parametrize("size", [(128, 128), (128, 64), (90, 60), (33, 77)])
def test_an_image_comes_back_from_its_canvas(size):
    width, height = size
    place = Placement.fit(width, height, cells=16, factor=8)
    rows, columns = np.indices((height, width))
    image = np.stack([columns * 2, rows * 3, columns + rows], 2).clip(0, 255).astype(np.uint8)
    back = canvas_to_image(image_to_canvas(image, place), place)
    assert back.shape == image.shape and back.dtype == np.uint8
    if (width, height) == (place.columns * 8, place.rows * 8):
        assert np.array_equal(back, image)
    assert np.abs(back.astype(int) - image).mean() < 3


def masks_and_sizes() -> list[tuple[np.ndarray, int, int]]:
    """Blobs, nothing and everything; taller, wider, both or neither than the masks."""
    rng, drawn = np.random.default_rng(0), []
    for number in range(60):
        blobs = ndimage.gaussian_filter(rng.standard_normal(rng.integers(1, 90, 2)), 4)
        mask = blobs > (0, 0.5, 2, 99, -99)[number % 5] * blobs.std()
        width, height = (int(side) for side in rng.integers(1, (9, 90, 400)[number % 3], 2))
        drawn.append((mask, width, height))
    return drawn


def test_masks_are_resized_bit_for_bit_as_by_pillow():
    for mask, width, height in masks_and_sizes():
        coarse = Image.fromarray(mask.astype(np.uint8)).resize((width, height), Image.Resampling.NEAREST)
        assert np.array_equal(upsample_mask(mask, width, height), np.asarray(coarse).astype(bool))
        smooth = Image.fromarray(mask.astype(np.uint8) * 255).resize((width, height), Image.Resampling.BILINEAR)
        assert np.array_equal(resize_mask(mask, width, height), np.asarray(smooth) >= 128)


def test_the_box_and_the_area_of_a_mask_are_those_of_its_pixels():
    for mask, _, _ in masks_and_sizes():
        y, x = np.nonzero(mask)
        box = (x.min(), y.min(), np.ptp(x) + 1, np.ptp(y) + 1) if len(x) else (0, 0, 0, 0)
        assert bounding_box(mask) == box and covered(mask) == mask.mean()
