"""The quality of a mask: its signals, and weights that come from a committed fit."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from engine.labelling.quality import BIAS, WEIGHTS, Signals, quality_of

GOOD = Signals(agreement=0.8, stability=0.9)


def measure(mask: np.ndarray, heatmap: np.ndarray) -> Signals:
    return Signals.measure(mask, heatmap, stability=0.8)


def test_signals_of_a_mask_are_what_counting_gives():
    mask = np.zeros((8, 12), bool)
    mask[0:4, 0:4] = True  # 16 pixels
    mask[6:8, 4:8] = True  # 8 pixels
    heatmap = np.array([[250, 10, 0], [5, 90, 3]], np.uint8)  # cells of 4 x 4 pixels
    signals = measure(mask, heatmap)
    covered = [1, 0, 0, 0, 0.5, 0]
    assert signals.agreement == pytest.approx(np.corrcoef(heatmap.ravel(), covered)[0, 1])
    assert signals.stability == 0.8


@pytest.mark.parametrize("full", [False, True])
def test_an_empty_or_full_mask_and_a_flat_heatmap_have_signals_without_nan(full):
    mask = np.full((8, 8), full)
    signals = measure(mask, np.full((2, 2), 7, np.uint8))
    assert signals.agreement == 0 and 0 <= quality_of(signals) <= 1


def test_the_quality_is_the_logistic_regression_on_the_signals():
    total = BIAS + sum(WEIGHTS[name] * getattr(GOOD, name) for name in WEIGHTS)
    assert quality_of(GOOD) == pytest.approx(1 / (1 + np.exp(-total)))


@pytest.mark.parametrize("worse", [{"agreement": 0.1}, {"stability": 0.4}])
def test_a_mask_that_any_of_its_signals_speaks_against_ranks_lower(worse):
    assert quality_of(GOOD) > quality_of(replace(GOOD, **worse))


def test_the_weights_are_those_of_the_committed_fit_which_ranks_concepts_it_has_not_seen():
    fit = json.loads((Path(__file__).parents[2] / "docs" / "results" / "quality.json").read_text())
    assert fit["weights"] == WEIGHTS and fit["bias"] == BIAS
    assert fit["spearman_left_out"]["mean"] >= 0.35 and fit["spearman_cross_validated"]["pooled"] >= 0.5


def test_a_flat_heatmap_says_nothing_of_a_mask():
    mask = np.zeros((8, 8), bool)
    mask[:4] = True
    assert measure(mask, np.full((2, 2), 7, np.uint8)).agreement == 0
