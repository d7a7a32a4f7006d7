"""What is done to a mask after it has been cut, against plain loops and scipy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage

from engine.labelling.heatmap import enlarge_smoothly
from engine.labelling.morphology import smooth, tidy
from engine.labelling.refinement import refine
from engine.labelling.spec import RefinementSpec

NOTHING = {"smoothing": 0, "closing": 0, "opening": 0, "fill_holes": False, "component_heat": 0.0}


def settings(**changes) -> RefinementSpec:
    return RefinementSpec(**{**NOTHING, **changes})


def test_smoothing_equals_a_loop_over_pixels_and_neighbours():
    rng = np.random.default_rng(0)
    image, likely = rng.uniform(-1, 1, (3, 11, 14)), rng.uniform(0, 1, (11, 14))
    got = smooth(torch.from_numpy(image), torch.from_numpy(likely), 2).numpy()
    offsets = [(r * y, r * x) for r in (1, 2, 4, 8, 16) for y in (-1, 0, 1) for x in (-1, 0, 1) if (y, x) != (0, 0)]
    for _ in range(2):
        after = np.empty_like(likely)
        for y in range(11):
            for x in range(14):
                at = [(min(max(y + dy, 0), 10), min(max(x + dx, 0), 13)) for dy, dx in offsets]
                colours = np.array([image[:, a, b] for a, b in at])
                unlike = (np.abs(colours - image[:, y, x]) / (0.1 * colours.std(0, ddof=1))).mean(1)
                affinity = np.exp(-(unlike - unlike.min()))
                after[y, x] = (affinity / affinity.sum() * [likely[a, b] for a, b in at]).sum()
        likely = after
    np.testing.assert_allclose(got, likely, atol=1e-9)


def test_smoothing_follows_the_edges_of_the_image():
    """A guess that is wrong at every fifth pixel and off by some pixels at the edge becomes the coloured square."""
    rng = np.random.default_rng(0)
    truth = np.zeros((64, 64), bool)
    truth[16:48, 16:48] = True
    image = np.where(truth, 0.8, -0.6) + 0.02 * rng.standard_normal((3, 64, 64))
    guess = np.roll(truth, 3, 1) ^ (rng.random((64, 64)) < 0.2)
    got = smooth(torch.from_numpy(image), torch.from_numpy(guess).double(), 20) > 0.5
    assert (guess ^ truth).mean() > 0.2 and (got.numpy() ^ truth).mean() < 0.04


def test_a_picture_of_one_colour_is_smoothed_to_something_finite():
    got = smooth(torch.zeros(3, 20, 20), torch.rand(20, 20), 3)
    assert bool(got.isfinite().all()) and 0 <= float(got.min()) <= float(got.max()) <= 1


def pieces() -> tuple[torch.Tensor, torch.Tensor]:
    """Three squares, whose hottest pixels have 1, 0.8 and 0.5."""
    mask, heat = torch.zeros(40, 60, dtype=torch.bool), torch.full((40, 60), 0.2)
    for left, peak in ((2, 1.0), (22, 0.8), (42, 0.5)):
        mask[5:20, left : left + 12] = True
        heat[10, left + 3] = peak
    heat[30, 30] = 2.0  # outside of the mask, where it does not matter
    return mask, heat


@pytest.mark.parametrize(("least", "kept"), [(0.0, 3), (0.4, 3), (0.7, 2), (0.9, 1), (1.0, 1)])
def test_cool_components_are_dropped(least, kept):
    mask, heat = pieces()
    got = tidy(mask, heat, settings(component_heat=least))
    assert ndimage.label(got.numpy())[1] == kept
    assert bool(got[5:20, 2:14].all()) and not (got & ~mask).any()


def test_pieces_that_touch_at_a_corner_are_one():
    mask, heat = torch.zeros(10, 10, dtype=torch.bool), torch.zeros(10, 10)
    mask[:5, :5], mask[5:, 5:], heat[2, 2] = True, True, 1.0
    assert torch.equal(tidy(mask, heat, settings(component_heat=0.9)), mask)


def test_opening_takes_away_what_is_thin_and_leaves_the_border_alone():
    mask = torch.zeros(40, 40, dtype=torch.bool)
    mask[:20, :20], mask[10, 20:35] = True, True
    got = tidy(mask, torch.zeros(40, 40), settings(opening=2))
    disc = np.hypot(*np.mgrid[-2:3, -2:3]) <= 2
    expected = ndimage.binary_opening(np.pad(mask.numpy(), 2, mode="edge"), disc)[2:-2, 2:-2]
    assert np.array_equal(got.numpy(), expected)
    assert not got[10, 25:].any() and bool(got[:17, :17].all())


def tidy_plainly(mask: np.ndarray, heat: np.ndarray, wanted: RefinementSpec) -> np.ndarray:
    """With scipy's morphology, on the mask with its border repeated."""
    for name in ("closing", "fill_holes", "opening"):
        radius = int(getattr(wanted, name))
        disc = np.hypot(*np.mgrid[-radius : radius + 1, -radius : radius + 1]) <= radius
        if name == "fill_holes" and radius:
            mask = ndimage.binary_fill_holes(mask)
        elif radius:
            padded = np.pad(mask, radius, mode="edge")
            mask = getattr(ndimage, f"binary_{name}")(padded, disc)[radius:-radius, radius:-radius]
    pieces, count = ndimage.label(mask, np.ones((3, 3)))
    peaks = [heat[pieces == piece].max() for piece in range(1, count + 1)]
    hot = [piece for piece, peak in enumerate(peaks, 1) if peak >= wanted.component_heat * max(peaks)]
    return np.isin(pieces, hot)


@pytest.mark.parametrize(("closing", "opening"), [(0, 1), (1, 2), (3, 3), (5, 0)])
@pytest.mark.parametrize("fill_holes", [False, True])
def test_a_mask_is_tidied_as_by_scipy(closing, opening, fill_holes):
    wanted = settings(closing=closing, opening=opening, fill_holes=fill_holes, component_heat=0.7)
    rng = np.random.default_rng(0)
    for shape, cut in [((60, 80), 0.0), ((60, 80), 0.8), ((60, 80), -1.0), ((7, 50), 0.0), ((1, 1), -9.0)]:
        blobs = ndimage.gaussian_filter(rng.standard_normal(shape), 2)
        mask, heat = blobs > cut * blobs.std(), rng.random(shape).astype(np.float32)
        got = tidy(torch.from_numpy(mask), torch.from_numpy(heat), wanted).numpy()
        assert np.array_equal(got, tidy_plainly(mask, heat, wanted))


def test_an_empty_mask_stays_empty():
    empty = torch.zeros(9, 9, dtype=torch.bool)
    assert not tidy(empty, torch.ones(9, 9), settings(closing=2, opening=1, fill_holes=True, component_heat=0.9)).any()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"component_heat": 1.2}, "component_heat is 1.2"),
        ({"difference_power": 0.0}, "difference_power is 0.0; it must be positive"),
        ({"opening": -1}, "opening is -1"),
    ],
)
def test_settings_without_a_meaning_are_refused_by_name(changes, message):
    with pytest.raises(ValueError, match=message):
        settings(**changes)


def test_enlarged_heat_is_that_of_the_image_alone_whatever_the_letterbox_holds():
    heat = torch.rand(1, 6, 8, generator=torch.Generator().manual_seed(0))
    valid = torch.ones(1, 6, 8, dtype=torch.bool)
    valid[:, 4:], valid[:, :, 7:] = False, False
    own = heat[0, :4, :7].numpy()
    unit = (own - own.min()) / np.ptp(own)
    where = [np.clip((np.arange(3 * n) + 0.5) / 3 - 0.5, 0, n - 1) for n in unit.shape]
    expected = ndimage.map_coordinates(unit, np.meshgrid(*where, indexing="ij"), order=1)
    for junk in (0.0, 99.0, float("nan")):
        got = enlarge_smoothly(torch.where(valid, heat, junk), valid, 3)[0].numpy()
        np.testing.assert_allclose(got[:12, :21], expected, atol=1e-6)
        assert not got[12:].any() and not got[:, 21:].any()
    assert not enlarge_smoothly(torch.full((1, 6, 8), 3.0), valid, 2).any()


def test_dull_parts_of_an_object_are_kept_beside_a_striking_one():
    apart, heat = torch.rand(1, 64, 64) * 0.05, torch.full((1, 8, 8), 0.1)
    apart[:, 8:32, 8:40], apart[:, 32:56, 8:40] = 0.9, 0.3
    heat[:, 1:7, 1:5] = 1.0
    everywhere = torch.ones(1, 8, 8, dtype=torch.bool)
    striking, all_of_it = (
        refine(torch.zeros(1, 3, 64, 64), apart, heat, everywhere, everywhere, settings(difference_power=power)).mask[0]
        for power in (1.0, 0.5)
    )
    assert striking[12:30, 12:36].all() and not striking[32:].any()
    assert all_of_it[12:52, 12:36].all() and not all_of_it[:, 40:].any()


def test_clutter_that_changed_as_much_as_the_object_is_left_out_where_attention_is_low():
    apart, heat = torch.rand(1, 64, 64) * 0.05, torch.full((1, 8, 8), 0.1)
    apart[:, 8:32, 8:32], apart[:, 40:56, 40:56] = 0.5, 0.5
    heat[:, 1:4, 1:4], heat[:, 5:7, 5:7] = 1.0, 0.3
    everywhere = torch.ones(1, 8, 8, dtype=torch.bool)
    masks = [
        refine(torch.zeros(1, 3, 64, 64), apart, heat, everywhere, everywhere, settings(heatmap_power=power)).mask[0]
        for power in (0.0, 2.0)
    ]
    assert masks[0][44:52, 44:52].all() and masks[0][12:28, 12:28].all()
    assert not masks[1][36:].any() and masks[1][12:28, 12:28].all()


def test_a_thin_ring_is_filled_before_what_is_thin_is_taken_away():
    radius = np.hypot(*(np.mgrid[:40, :40] - 20))
    ring = torch.from_numpy((radius > 10.5) & (radius <= 12))
    got = tidy(ring, torch.zeros(40, 40), settings(fill_holes=True, opening=2))
    assert got.numpy()[radius < 9].all()
