"""Known weaknesses of the method, each drawn on purpose."""

from __future__ import annotations

import numpy as np
import pytest

from engine.labelling.weaknesses import UNIFORM, find_weaknesses


def scene(*, thing=(0.9, 0.1, 0.1), noise: float = 0.2) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A square thing on noise: pixels in [-1, 1], M, and the pixels painted over."""
    rng = np.random.default_rng(0)
    unit = np.clip(0.5 + noise * rng.standard_normal((3, 32, 32)), 0, 1)
    mask, region = np.zeros((2, 32, 32), bool)
    mask[10:20, 10:20] = True
    region[8:22, 8:22] = True
    unit[:, mask] = np.asarray(thing)[:, None]
    return unit * 2 - 1, mask, region


def test_an_ordinary_scene_has_no_flag():
    assert find_weaknesses(*scene(), contrast=0.4, clusters=2, missed=0.1) == []


@pytest.mark.parametrize(
    ("flag", "drawn", "found"),
    [
        ("low_contrast", {}, {"contrast": 0.02}),
        ("several_contrasts", {}, {"clusters": 3, "missed": 0.4}),
        ("colourless", {"thing": (0.1, 0.1, 0.1)}, {}),
        ("uniform_background", {"noise": 0.0}, {}),
    ],
)
def test_each_weakness_has_its_flag(flag, drawn, found):
    known = {"contrast": 0.4, "clusters": 2, "missed": 0.1}
    assert find_weaknesses(*scene(**drawn), **{**known, **found}) == [flag]


@pytest.mark.parametrize(("clusters", "missed"), [(3, 0.1), (2, 0.4)])
def test_clutter_of_another_contrast_that_is_left_out_for_good_is_no_weakness(clusters, missed):
    assert find_weaknesses(*scene(), contrast=0.4, clusters=clusters, missed=missed) == []


def test_a_region_over_most_of_the_image_is_flagged():
    pixels, mask, region = scene()
    region[:, :] = True
    region[:2] = False
    assert find_weaknesses(pixels, mask, region, contrast=0.4, clusters=2, missed=0.1) == ["covers_most"]


def test_an_empty_mask_and_a_region_over_everything_are_no_error():
    pixels, mask, region = scene()
    assert find_weaknesses(pixels, mask & False, region | True, contrast=0.4, clusters=2, missed=0.1) == ["covers_most"]


def test_a_background_of_one_colour_is_uniform_whatever_the_colour():
    pixels, mask, region = scene()
    pixels[:, ~region] = np.array([[-0.8], [-0.8], [0.9]])
    assert find_weaknesses(pixels, mask, region, contrast=0.4, clusters=2, missed=0.1) == ["uniform_background"]


def test_a_background_is_uniform_by_numpys_deviation_of_pixels_with_their_channels_side_by_side():
    """Down to the last bit of float32, in which a labelling has its pixels: its flags must not change."""
    pixels, mask, region = scene(noise=UNIFORM)
    pixels = np.tile(pixels, (1, 8, 8)).astype(np.float32)
    mask, region = np.tile(mask, (8, 8)), np.tile(region, (8, 8))
    for step in range(-40, 41):  # brings the deviation to the limit, and beyond it by less than pairwise sums differ
        scaled = pixels * np.float32(UNIFORM / ((pixels + 1) / 2)[:, ~region].std(axis=1).mean())
        scaled = scaled * np.float32(1 + step * 2e-7)
        uniform = ((scaled + 1) / 2)[:, ~region].std(axis=1).mean() < UNIFORM
        flags = find_weaknesses(scaled, mask, region, contrast=0.4, clusters=2, missed=0.1)
        assert ("uniform_background" in flags) == uniform
