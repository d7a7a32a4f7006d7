"""Rectangles to learn background from, against the bounds of the paper counted cell by cell."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from engine.distillation.regions import draw_rectangle, draw_region

SIZES = [16, 32, 64]


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def draw_mask(seed: int, size: int, rows: int, columns: int) -> torch.Tensor:
    """M_pre with a rectangle or two in the image."""
    rng = np.random.default_rng(seed)
    mask = torch.zeros(size, size, dtype=torch.bool)
    for _ in range(rng.integers(0, 3)):
        top, left = rng.integers(0, rows), rng.integers(0, columns)
        mask[top : min(rows, top + rng.integers(1, rows + 1)), left : min(columns, left + rng.integers(1, 9))] = True
    return mask


def check_bounds(rectangle: tuple[int, int, int, int], mask: torch.Tensor, rows: int, columns: int) -> None:
    top, left, height, width = rectangle
    assert top >= 0 and top + height <= rows and left >= 0 and left + width <= columns
    assert height > 10 / 64 * rows and width > 10 / 64 * columns
    assert 1 / 16 * rows * columns <= height * width <= 1 / 4 * rows * columns
    inside = sum(bool(mask[y, x]) for y in range(top, top + height) for x in range(left, left + width))
    assert 3 * inside <= height * width


@pytest.mark.parametrize("size", SIZES)
@given(seed=st.integers(0, 2**31))
def test_a_rectangle_obeys_the_bounds_of_the_paper(size, seed):
    mask = draw_mask(seed, size, size, size)
    rectangle = draw_rectangle(mask, size, size, generator(seed))
    assume(rectangle is not None)
    check_bounds(rectangle, mask, size, size)


@pytest.mark.parametrize("size", SIZES)
@given(seed=st.integers(0, 2**31), short=st.floats(0.2, 1), upright=st.booleans())
def test_a_rectangle_stays_inside_a_letterboxed_image(size, seed, short, upright):
    sides = (size, max(4, round(short * size)))
    rows, columns = sides if upright else sides[::-1]
    mask = draw_mask(seed, size, rows, columns)
    rectangle = draw_rectangle(mask, rows, columns, generator(seed))
    assume(rectangle is not None)
    check_bounds(rectangle, mask, rows, columns)
    region = draw_region(mask, rows, columns, generator(seed))
    assert not region[rows:].any() and not region[:, columns:].any()


def test_rectangles_of_a_full_latent_take_the_whole_range_of_the_paper():
    """Sides from 11, areas from near 256 to near 1024, corners anywhere: not one favourite rectangle."""
    mask = torch.zeros(64, 64, dtype=torch.bool)
    g = generator(0)
    drawn = np.array([draw_rectangle(mask, 64, 64, g) for _ in range(2000)])
    tops, lefts, heights, widths = drawn.T
    assert heights.min() == 11 and widths.min() == 11
    assert (heights * widths).min() < 280 and (heights * widths).max() > 1000
    assert tops.min() == 0 and lefts.min() == 0 and (tops + heights).max() == 64 and (lefts + widths).max() == 64


@pytest.mark.parametrize("size", SIZES)
@given(seed=st.integers(0, 2**31))
def test_a_region_is_the_rectangle_without_the_preliminary_mask(size, seed):
    mask = draw_mask(seed, size, size, size)
    rectangle = draw_rectangle(mask, size, size, generator(seed))
    region = draw_region(mask, size, size, generator(seed))
    top, left, height, width = rectangle or (0, 0, size, size)
    y, x = np.mgrid[:size, :size]
    within = (top <= y) & (y < top + height) & (left <= x) & (x < left + width)
    assert np.array_equal(region.numpy(), within & ~mask.numpy())


@pytest.mark.parametrize(("rows", "columns"), [(32, 32), (32, 20), (9, 32)])
def test_where_no_rectangle_fits_the_region_is_all_background(rows, columns):
    mask = torch.zeros(32, 32, dtype=torch.bool)
    expected = torch.zeros_like(mask)
    expected[0:rows:3, :columns] = True  # at least half of every rectangle is object
    mask[:rows, :columns] = ~expected[:rows, :columns]
    assert draw_rectangle(mask, rows, columns, generator(0)) is None
    assert torch.equal(draw_region(mask, rows, columns, generator(0)), expected)


def test_a_mask_of_everything_leaves_an_empty_region():
    assert not draw_region(torch.ones(16, 16, dtype=torch.bool), 16, 16, generator(0)).any()


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (1, 16), (2, 3)])
def test_images_of_a_few_cells_have_a_region_too(rows, columns):
    region = draw_region(torch.zeros(16, 16, dtype=torch.bool), rows, columns, generator(0))
    assert region[:rows, :columns].any() and region.sum() == region[:rows, :columns].sum()


def test_the_generator_decides_the_region():
    mask = draw_mask(1, 32, 32, 32)
    regions = [draw_region(mask, 32, 32, generator(seed)) for seed in (3, 3, 4)]
    assert torch.equal(regions[0], regions[1]) and not torch.equal(regions[0], regions[2])


def test_rectangles_that_do_not_span_the_image_reach_its_last_row_and_column():
    mask, g = torch.zeros(64, 64, dtype=torch.bool), generator(0)
    tops, lefts, heights, widths = np.array([draw_rectangle(mask, 64, 64, g) for _ in range(2000)]).T
    assert (tops + heights)[heights < 64].max() == 64 and (lefts + widths)[widths < 64].max() == 64
