from __future__ import annotations

import numpy as np
from scipy import ndimage

from engine.labelling.overlap import resolve_overlap


def halves() -> tuple[np.ndarray, np.ndarray]:
    left = np.zeros((40, 60), bool)
    left[10:30, :30] = True
    return left, left[:, ::-1].copy()


def test_a_pixel_that_two_masks_claim_goes_to_the_higher_score_around_it() -> None:
    left, right = halves()
    both = left | right
    to_the_left = np.tile(np.linspace(200, 50, 15), (10, 1)).astype(np.uint8)
    first, second = resolve_overlap([both, both], [to_the_left, to_the_left[:, ::-1]])
    assert np.array_equal(first, left)
    assert np.array_equal(second, right)


def test_what_only_one_mask_claims_is_its_own_whatever_the_scores_say() -> None:
    left, right = halves()
    high, low = np.full((10, 15), 255, np.uint8), np.zeros((10, 15), np.uint8)
    first, second = resolve_overlap([left, right], [low, high])
    assert np.array_equal(first, left)
    assert np.array_equal(second, right)


def test_one_noisy_cell_does_not_tear_a_hole() -> None:
    left, _ = halves()
    higher = np.full((10, 15), 100, np.uint8)
    lower = higher - 20
    lower[5, 3] = 140
    first, second = resolve_overlap([left, left], [higher, lower])
    assert np.array_equal(first, left)
    assert not second.any()


def test_scores_of_the_background_have_no_say() -> None:
    left, _ = halves()
    first_score, second_score = np.full((10, 15), 100, np.uint8), np.full((10, 15), 90, np.uint8)
    second_score[:, 8:] = 255  # where nobody claims anything
    first, second = resolve_overlap([left, left], [first_score, second_score])
    assert first.sum() == left.sum()
    assert not second.any()


def test_at_a_tie_the_first_concept_keeps_the_pixel() -> None:
    left, _ = halves()
    score = np.full((10, 15), 7, np.uint8)
    first, second = resolve_overlap([left, left], [score, score])
    assert np.array_equal(first, left)
    assert not second.any()


def test_a_concept_that_is_more_likely_there_wins_where_scores_are_alike() -> None:
    left, _ = halves()
    score = np.zeros((10, 15), np.float32)
    first, second = resolve_overlap([left, left], [score, score + 0.01], [0.1, 0.0])
    assert np.array_equal(first, left)
    assert not second.any()


def wide_and_narrow(share: float) -> tuple[np.ndarray, np.ndarray]:
    """A mask, and one of which all but `share` lies on it."""
    wide, narrow = np.zeros((40, 60), bool), np.zeros((40, 60), bool)
    wide[10:30, :40] = True
    narrow[10:30, 40 - round(20 * (1 - share)) : 40 + round(20 * share)] = True
    return wide, narrow


def test_what_is_left_of_a_mask_that_another_takes_most_of_is_nothing() -> None:
    scores = [np.full((10, 15), value, np.float32) for value in (1, 0)]
    for share, left in ((0.2, 0.0), (0.4, 0.4)):
        wide, narrow = wide_and_narrow(share)
        first, second = resolve_overlap([wide, narrow], scores)
        assert np.array_equal(first, wide)
        assert second.sum() == left * narrow.sum()


def test_what_an_emptied_mask_had_claimed_goes_to_the_others() -> None:
    wide, narrow = wide_and_narrow(0.5)
    # The third wins a corner of both others, which is too little of its own for it to stay.
    third = wide | narrow
    scores = [np.zeros((10, 15), np.float32) for _ in range(3)]
    scores[0][:], scores[1][:, 10:], scores[2][:, 12:] = 1, 2, 9
    first, second, last = resolve_overlap([wide, narrow, third], scores)
    assert not last.any()
    assert np.array_equal(first | second, wide | narrow)


def test_masks_larger_than_their_scores_are_shared_as_the_cells_say_with_smooth_edges() -> None:
    """Against the mean taken pixel by pixel, which costs as much as the image is large."""
    rng = np.random.default_rng(0)
    masks = [np.zeros((96, 128), bool) for _ in range(3)]
    for place, mask in enumerate(masks):
        mask[10 + 10 * place : 70 + 8 * place, 8 + 20 * place : 80 + 20 * place] = True
    scores = [ndimage.gaussian_filter(rng.random((24, 32)), 3) for _ in masks]
    anyone = np.stack(masks).any(0).astype(float)

    def blur(values: np.ndarray) -> np.ndarray:
        return ndimage.gaussian_filter(values, 0.15 * 128, mode="nearest")

    means = [blur(np.kron(score, np.ones((4, 4))) * anyone) / blur(anyone) for score in scores]
    winner = np.where(np.stack(masks), np.stack(means), -np.inf).argmax(0)
    expected = [mask & (winner == place) for place, mask in enumerate(masks)]
    found = resolve_overlap(masks, scores)
    assert np.mean([(a != b).mean() for a, b in zip(found, expected, strict=True)]) < 0.01
    assert np.array_equal(np.stack(found).any(0), np.stack(masks).any(0))
