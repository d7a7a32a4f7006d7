"""Masks lie on their images: a known rectangle comes back where it is, from images of all shapes in one batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from engine.diffusion.geometry import Placement, image_to_canvas, resize_mask
from engine.labelling import labeller as labelling
from engine.labelling.attend import Attention
from engine.labelling.labeller import Labeller
from engine.labelling.spec import LabelSpec, RefinementSpec
from tests.diffusion.models import make_model

SIZES = [(101, 67), (67, 101), (331, 203), (128, 128), (59, 83), (517, 149)]
CELLS, FACTOR = 16, 8


def box(width: int, height: int) -> tuple[int, int, int, int]:
    """Left, right, top and bottom edge of the rectangle; nothing about it is symmetric."""
    return round(0.23 * width), round(0.61 * width), round(0.31 * height), round(0.83 * height)


def picture(width: int, height: int, *, with_rectangle: bool = True) -> np.ndarray:
    rng = np.random.default_rng(width)
    image = rng.integers(20, 40, (height, width, 3), dtype=np.uint8)
    x0, x1, y0, y1 = box(width, height)
    if with_rectangle:
        image[y0:y1, x0:x1] = (250, 220, 200)
    return image


def place_of(width: int, height: int) -> Placement:
    return Placement.fit(width, height, cells=CELLS, factor=FACTOR)


def furthest_edge(mask: np.ndarray, width: int, height: int) -> float:
    """Largest distance of an edge of the mask from the rectangle's, in pixels of the image or of the canvas,
    whichever is larger."""
    assert mask.shape == (height, width) and mask.dtype == bool
    rows, columns = np.flatnonzero(mask.mean(1) > 0.1), np.flatnonzero(mask.mean(0) > 0.1)
    got = columns[0], columns[-1] + 1, rows[0], rows[-1] + 1
    pixel = max(1.0, max(width, height) / (CELLS * FACTOR))
    return max(abs(a - b) for a, b in zip(got, box(width, height), strict=True)) / pixel


def cut_canvas(canvas: torch.Tensor, place: Placement) -> np.ndarray:
    return (canvas[0] > 0)[: place.rows * FACTOR, : place.columns * FACTOR].numpy()


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_a_rectangle_cut_from_the_canvas_comes_back_to_the_pixel(width, height):
    place = place_of(width, height)
    canvas = image_to_canvas(picture(width, height), place)
    assert furthest_edge(resize_mask(cut_canvas(canvas, place), width, height), width, height) <= 1


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("cells", [-1, 1])
@pytest.mark.parametrize(("width", "height"), SIZES)
def test_a_shift_by_one_cell_would_be_seen(width, height, cells, axis):
    place = place_of(width, height)
    mask = cut_canvas(image_to_canvas(picture(width, height), place), place)
    shifted = np.roll(mask, cells * FACTOR, axis)
    assert furthest_edge(resize_mask(shifted, width, height), width, height) > 3


class Known:
    """In place of what the model sees and paints: attention to the rectangle, and images without it."""

    def __init__(self, monkeypatch, *, shift: int = 0, unexplained: int = 0) -> None:
        pairs = [
            [image_to_canvas(picture(*size, with_rectangle=yes), place_of(*size)) for yes in (True, False)]
            for size in SIZES
        ]
        self.full, self.empty = (torch.stack(kind) for kind in zip(*pairs, strict=True))
        self.shift, self.unexplained = shift, unexplained
        monkeypatch.setattr(labelling, "attend", self.attend)
        monkeypatch.setattr(labelling, "remove_object", self.remove_object)

    def attend(self, model, z0, keys, prompt, spec, *, valid, batch_size):
        cells = F.avg_pool2d((self.full - self.empty)[:, :1].abs(), FACTOR)
        cells = cells + 0.01 * torch.rand(cells.shape, generator=torch.Generator().manual_seed(0))
        advantage = torch.zeros(cells[:, 0].shape)
        advantage[..., : self.unexplained] = -20
        return Attention(maps=cells.roll(self.shift, 3), presence=torch.ones(len(z0)), advantage=advantage)

    def remove_object(self, model, z0, region, keys, spec, *, batch_size):
        index = [int(key) for key in keys]
        pixels = region.repeat_interleave(FACTOR, 1).repeat_interleave(FACTOR, 2)[:, None]
        noise = 0.2 * torch.randn(self.empty.shape, generator=torch.Generator().manual_seed(0))
        return torch.where(pixels, self.empty[index], self.full[index])[:, None] + noise[index][:, None]


def label(stage: str, **refinement) -> list:
    spec = LabelSpec(
        concept="car",
        prompt="a photo of a car",
        stage=stage,
        timesteps=1,
        attention_steps=1,
        refinement=RefinementSpec(**refinement),
    )
    keys = [str(k) for k in range(len(SIZES))]
    return Labeller(make_model("sd1"), spec)([picture(*size) for size in SIZES], keys)


def test_refined_masks_of_a_mixed_batch_lie_on_their_objects(monkeypatch):
    Known(monkeypatch)
    for (width, height), got in zip(SIZES, label("refined"), strict=True):
        assert furthest_edge(got.mask, width, height) <= 1.5


def test_what_the_prompt_explains_worse_than_others_is_left_out_of_the_refined_mask(monkeypatch):
    Known(monkeypatch)
    whole = label("refined", smoothing=0)[0].mask
    columns = np.flatnonzero(whole.any(0))
    middle = int(columns.mean() * place_of(*SIZES[0]).columns / SIZES[0][0])
    Known(monkeypatch, unexplained=middle)
    part = label("refined", smoothing=0)[0].mask
    # Without smoothing, which carries some of it back into what has the same colour.
    quarter = slice(int(columns.min()), int(columns.min() + np.ptp(columns) / 4))
    assert whole[:, quarter].any() and not part[:, quarter].any() and part.any(), (whole.sum(), part.sum())


def test_preliminary_masks_of_a_mixed_batch_lie_on_their_objects(monkeypatch):
    Known(monkeypatch)
    for (width, height), got in zip(SIZES, label("preliminary"), strict=True):
        place = place_of(width, height)
        assert got.heatmap.shape == got.preliminary_mask.shape == (place.rows, place.columns)
        assert furthest_edge(got.mask, width, height) <= FACTOR


def test_attention_off_by_a_cell_moves_the_preliminary_mask(monkeypatch):
    Known(monkeypatch, shift=2)
    assert all(furthest_edge(got.mask, *size) > FACTOR for size, got in zip(SIZES, label("preliminary"), strict=True))
