"""The difference to the inpainted image and the mask cut from it, against numpy, scipy and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage
from sklearn.mixture import GaussianMixture

from engine.labelling.difference import difference, to_lab
from engine.labelling.heatmap import enlarge
from engine.labelling.inpainting import grow
from engine.labelling.refinement import Refined, refine
from engine.labelling.spec import RefinementSpec
from engine.labelling.weaknesses import LOW_CONTRAST

CELLS, FACTOR = 16, 8
SIDE = CELLS * FACTOR


def as_image(*rgb: float) -> torch.Tensor:
    return torch.tensor(rgb, dtype=torch.float32)[:, None, None] * 2 - 1


def cells(top: int, bottom: int, left: int, right: int) -> torch.Tensor:
    mask = torch.zeros(1, CELLS, CELLS, dtype=torch.bool)
    mask[:, top:bottom, left:right] = True
    return mask


EVERYWHERE = cells(0, CELLS, 0, CELLS)


def paper(**changes) -> RefinementSpec:
    """Eq. 5 and nothing else, unless asked for."""
    plain = {
        "difference_power": 1,
        "heatmap_power": 0,
        "fit": "region",
        "refined_mixture_rule": "posterior",
        "smoothing": 0,
        "fill_holes": False,
        "opening": 0,
        "component_heat": 0,
    }
    return RefinementSpec(**{**plain, **changes})


def cut(apart: torch.Tensor, preliminary: torch.Tensor, valid: torch.Tensor, settings: RefinementSpec) -> Refined:
    """M of a difference whose image and heatmap play no part."""
    blank = torch.zeros(len(apart), 3, SIDE, SIDE)
    return refine(blank, apart, torch.zeros(valid.shape), preliminary, valid, settings)


def make_levels(*areas: tuple[float, tuple[slice, slice]], seed: int = 0) -> torch.Tensor:
    """A difference [1, H, W] of 0.05 with noise, and of other levels in areas of pixels."""
    rng = np.random.default_rng(seed)
    apart = 0.05 + 0.012 * rng.standard_normal((SIDE, SIDE))
    for level, area in areas:
        apart[area] = level + 0.02 * rng.standard_normal(apart[area].shape)
    return torch.from_numpy(apart).float()[None]


def pixels(area: tuple[slice, slice]) -> np.ndarray:
    mask = np.zeros((SIDE, SIDE), bool)
    mask[area] = True
    return mask


THING = np.s_[37:90, 22:101]


@pytest.mark.parametrize("combine", ["mean", "median", "minimum"])
@pytest.mark.parametrize("count", [1, 2, 5])
def test_the_difference_is_the_mean_over_channels_combined_over_inpaintings(combine, count):
    image, painted = (torch.rand(2, *shape) * 2 - 1 for shape in ((3, 6, 7), (count, 3, 6, 7)))
    got = difference(image, painted, RefinementSpec(combine=combine, inpaintings=count, colour="rgb"))
    unit = (image.numpy() + 1) / 2, (painted.numpy() + 1) / 2
    apart = np.abs(unit[0][:, None] - unit[1]).mean(axis=2)
    expected = {"mean": np.mean, "median": np.median, "minimum": np.min}[combine](apart, axis=1)
    np.testing.assert_allclose(got.numpy(), expected, atol=1e-6)


def test_black_and_white_are_one_apart_in_either_space():
    for colour in ("rgb", "lab"):
        apart = difference(as_image(0, 0, 0)[None], as_image(1, 1, 1)[None, None], RefinementSpec(colour=colour))
        assert float(apart) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize(
    ("rgb", "lab"),
    [
        ((1, 1, 1), (100, 0, 0)),
        ((0, 0, 0), (0, 0, 0)),
        ((1, 0, 0), (53.24, 80.09, 67.20)),
        ((0, 1, 0), (87.73, -86.18, 83.18)),
        ((0, 0, 1), (32.30, 79.19, -107.86)),
        ((1, 1, 0), (97.14, -21.55, 94.48)),
        ((128 / 255,) * 3, (53.59, 0, 0)),
        ((2 / 255,) * 3, (0.55, 0, 0)),
    ],
)
def test_known_colours_have_their_known_coordinates(rgb, lab):
    np.testing.assert_allclose(to_lab(as_image(*rgb))[:, 0, 0].numpy(), lab, atol=0.03)


def test_the_distance_in_cielab_is_euclidean():
    apart = difference(as_image(1, 0, 0)[None], as_image(0, 0, 1)[None, None], RefinementSpec(colour="lab"))
    expected = np.linalg.norm(np.subtract((53.24, 80.09, 67.20), (32.30, 79.19, -107.86))) / 100
    assert float(apart) == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("fit", ["image", "region"])
def test_the_mask_is_the_likelier_component_of_a_mixture_within_the_preliminary_mask(fit):
    apart = make_levels((0.4, THING), (0.4, np.s_[:9, :9]))  # the corner differs too, outside M_pre
    preliminary = cells(3, 13, 1, 12)
    got = cut(apart, preliminary, EVERYWHERE, paper(fit=fit))
    values, region = apart[0].double().numpy(), enlarge(preliminary, FACTOR)[0].numpy()
    fitted = values[region] if fit == "region" else values.ravel()
    mixture = GaussianMixture(2, tol=1e-9, max_iter=500, means_init=[[0.05], [0.4]]).fit(fitted[:, None])
    expected = (mixture.predict(values.reshape(-1, 1)) == mixture.means_.argmax()).reshape(SIDE, SIDE) & region
    assert np.array_equal(got.mask[0].numpy(), expected) and expected.any()
    assert np.array_equal(expected, pixels(THING) & region)
    assert torch.equal(got.region, enlarge(preliminary, FACTOR)) and got.clusters.tolist() == [2]
    assert float(got.contrast) == pytest.approx(values[expected].mean() - values[~expected].mean(), abs=1e-6)


@pytest.mark.parametrize("settings", [paper(), RefinementSpec(heatmap_power=0), RefinementSpec()])
@pytest.mark.parametrize(("level", "low"), [(0.09, True), (0.15, False), (0.4, False)])
def test_contrast_is_low_where_what_was_cut_hardly_differs_however_it_was_cut(settings, level, low):
    apart, region = make_levels((level, THING)).clamp(min=0), cells(3, 13, 1, 14)
    heat = torch.where(region, 1.0, 0.2)
    image = torch.from_numpy(pixels(THING)).float().expand(1, 3, -1, -1)
    got = refine(image, apart, heat, region, EVERYWHERE, settings)
    assert got.mask.any() and (float(got.contrast) < LOW_CONTRAST) == low


def test_without_a_mask_there_is_no_contrast():
    assert float(cut(torch.zeros(1, SIDE, SIDE), cells(3, 13, 1, 12), EVERYWHERE, paper()).contrast) == 0


def test_the_contrasts_of_an_object_are_counted():
    shirt, trousers = np.s_[20:60, 30:90], np.s_[60:110, 30:90]
    for levels, expected in ((((0.25, shirt), (0.85, trousers)), 3), (((0.6, np.s_[20:110, 30:90]),), 2), ((), 1)):
        assert cut(make_levels(*levels), EVERYWHERE, EVERYWHERE, paper()).clusters.tolist() == [expected]


@pytest.mark.parametrize("fit", ["image", "region"])
def test_the_letterbox_is_never_counted_and_never_part_of_a_mask(fit):
    """Whatever stands there: neither the mixture, nor the number of clusters, nor the mask changes."""
    valid, preliminary, results = cells(0, 11, 0, CELLS), cells(4, CELLS, 2, 13), []
    for junk in (0.0, 0.45, 0.9, float("nan")):
        apart = make_levels((0.4, THING))
        apart[:, 11 * FACTOR :] = junk
        apart[:, 11 * FACTOR :: 3] = 0.2
        settings = paper(fit=fit, closing=4, fill_holes=True)
        results.append(cut(apart, preliminary, valid, settings))
    for got in results:
        assert torch.equal(got.mask, results[0].mask) and got.mask.any()
        assert torch.equal(got.mixture.threshold, results[0].mixture.threshold)
        assert not got.mask[:, 11 * FACTOR :].any() and not got.region[:, 11 * FACTOR :].any()
        assert got.clusters.tolist() == [2]


def test_stability_and_what_is_missed_are_what_counting_gives():
    apart = make_levels((0.6, THING))
    apart[0, 50:60, 30:60] = 0.34  # near the threshold
    heatmap = torch.zeros(1, CELLS, CELLS)
    heatmap[0, :8] = 1.0
    got = refine(torch.zeros(1, 3, SIDE, SIDE), apart, heatmap, EVERYWHERE, EVERYWHERE, paper())
    low, high = got.mixture.means[0].tolist()
    likely = 1 / (1 + np.exp(-2 * (apart[0].double().numpy() - float(got.mixture.threshold)) / (high - low)))
    assert float(got.stability) == pytest.approx((likely > 0.6).sum() / (likely > 0.4).sum(), abs=1e-3)
    warm = apart[0, :66].numpy()  # half a cell and more, enlarged smoothly, is above 0.3
    left_out = (warm * ~got.mask[0, :66].numpy()).sum() / warm.sum()
    assert float(got.missed) == pytest.approx(left_out, abs=1e-4) and left_out > 0.1


def test_images_of_a_batch_do_not_touch_each_other():
    batch = torch.cat([make_levels((0.4, THING)), 0.3 * make_levels((0.9, np.s_[5:50, 60:]), seed=1)])
    preliminary, valid = torch.cat([cells(3, 13, 1, 12), EVERYWHERE]), torch.cat([EVERYWHERE, cells(0, 9, 0, CELLS)])
    together = cut(batch, preliminary, valid, paper())
    for k in range(2):
        alone = cut(batch[k, None], preliminary[k, None], valid[k, None], paper())
        assert torch.equal(alone.mask[0], together.mask[k]) and alone.mask.any()


def speckled() -> tuple[torch.Tensor, np.ndarray]:
    """A difference with an object that has slits, bays and a hole, and the mask it gives as it is."""
    apart = make_levels((0.4, THING))
    for gap in (np.s_[50:54, 22:70], np.s_[37:60, 80:83], np.s_[65:80, 40:60]):
        apart[0][gap] = 0.05
    return apart, (apart[0] > 0.2).numpy()


@pytest.mark.parametrize(("closing", "fill"), [(0, True), (1, False), (3, False), (3, True)])
def test_closing_and_filling_do_what_scipy_does(closing, fill):
    apart, expected = speckled()
    plain = cut(apart, EVERYWHERE, EVERYWHERE, paper()).mask[0].numpy()
    assert np.array_equal(plain, expected)
    if closing:
        y, x = np.mgrid[-closing : closing + 1, -closing : closing + 1]
        expected = ndimage.binary_closing(expected, x * x + y * y <= closing * closing)
    if fill:
        expected = ndimage.binary_fill_holes(expected)
    settings = paper(closing=closing, fill_holes=fill)
    got = cut(apart, EVERYWHERE, EVERYWHERE, settings).mask[0].numpy()
    assert np.array_equal(got, expected)
    assert closing == 1 or (got & ~plain).sum() > 100


def test_closing_takes_nothing_away_and_closes_gaps_at_the_border():
    apart = make_levels((0.4, np.s_[0:60, 0:128]))
    apart[0, 0:60, 50:54] = 0.05  # a slit from the border inwards
    got = cut(apart, EVERYWHERE, EVERYWHERE, paper(closing=4)).mask[0].numpy()
    assert got[0:50].all() and not got[70:].any()


def test_growing_is_dilation_by_a_square():
    mask = torch.rand(2, CELLS, CELLS, generator=torch.Generator().manual_seed(0)) < 0.05
    for count in (0, 1, 2):
        side = 2 * count + 1
        expected = [ndimage.binary_dilation(m, np.ones((side, side), bool)) for m in mask.numpy()]
        assert np.array_equal(grow(mask, count).numpy(), np.stack(expected))


def test_what_tidying_adds_beyond_the_preliminary_mask_is_taken_away_again():
    preliminary = cells(3, 13, 1, 14)
    preliminary[:, 7:9, 6:9] = False  # a hole in the middle of the thing
    got = cut(make_levels((0.4, THING)), preliminary, EVERYWHERE, paper(fill_holes=True))
    assert got.mask.any() and not (got.mask & ~got.region).any()
