"""Known weaknesses of the method, each drawn on purpose."""

from __future__ import annotations

import numpy as np
import pytest

from engine.labelling.weaknesses import find_weaknesses


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
    assert find_weaknesses(*scene(), contrast=0.4, clusters=2) == []


@pytest.mark.parametrize(
    ("flag", "drawn", "found"),
    [
        ("low_contrast", {}, {"contrast": 0.02}),
        ("several_contrasts", {}, {"clusters": 3}),
        ("colourless", {"thing": (0.1, 0.1, 0.1)}, {}),
        ("uniform_background", {"noise": 0.0}, {}),
    ],
)
def test_each_weakness_has_its_flag(flag, drawn, found):
    assert find_weaknesses(*scene(**drawn), **{"contrast": 0.4, "clusters": 2, **found}) == [flag]


def test_a_region_over_most_of_the_image_is_flagged():
    pixels, mask, region = scene()
    region[:, :] = True
    region[:2] = False
    assert find_weaknesses(pixels, mask, region, contrast=0.4, clusters=2) == ["covers_most"]


def test_an_empty_mask_and_a_region_over_everything_are_no_error():
    pixels, mask, region = scene()
    assert find_weaknesses(pixels, mask & False, region | True, contrast=0.4, clusters=2) == ["covers_most"]
