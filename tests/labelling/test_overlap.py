from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage

from engine.labelling.heatmap import advantage_to_bytes
from engine.labelling.label import USELESS, Label
from engine.labelling.overlap import CRUMBS, make_disjoint, resolve_overlap, share_pixels


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


def share_everywhere(masks: list[np.ndarray], scores: list[np.ndarray]) -> list[np.ndarray]:
    """`resolve_overlap` with its means enlarged to all of the image, wherever masks overlap."""
    (height, width), (rows, columns) = masks[0].shape, scores[0].shape

    def resize(values: np.ndarray, size: tuple[int, int], how: Image.Resampling) -> np.ndarray:
        return np.asarray(Image.fromarray(values.astype(np.float32)).resize(size, how))

    def blur(values: np.ndarray) -> np.ndarray:
        return ndimage.gaussian_filter(values, 0.15 * max(rows, columns), mode="nearest")

    masks = list(masks)
    while np.sum(masks, 0).max() > 1:
        anyone = resize(np.any(masks, 0), (columns, rows), Image.Resampling.BOX)
        means = [blur(score * anyone) / np.maximum(blur(anyone), 1e-6) for score in scores]
        large = np.stack([resize(mean, (width, height), Image.Resampling.BILINEAR) for mean in means])
        winner = np.where(masks, large, -np.inf).argmax(0)
        kept = [mask & (winner == place) for place, mask in enumerate(masks)]
        shares = [own.sum() / mask.sum() if mask.any() else 1.0 for own, mask in zip(kept, masks, strict=True)]
        least = int(np.argmin(shares))
        if shares[least] >= CRUMBS:
            return kept
        masks[least] = masks[least] & False
    return masks


def test_pixels_are_shared_bit_for_bit_as_if_means_were_taken_everywhere() -> None:
    rng = np.random.default_rng(0)
    for number in range(60):
        count, size, cells = rng.integers(2, 5), rng.integers(1, (9, 200)[number % 2], 2), rng.integers(1, 20, 2)
        blobs = [ndimage.gaussian_filter(rng.standard_normal(size), 8) for _ in range(count)]
        masks = [blob > (-0.3, 0.3, 1.0)[number % 3] * blob.std() for blob in blobs]
        scores = [rng.random(cells).astype(np.float32) for _ in masks]
        found = resolve_overlap(masks, scores)
        assert all(np.array_equal(a, b) for a, b in zip(found, share_everywhere(masks, scores), strict=True))


def label_of(mask: np.ndarray, *, heat: int = 0, advantage: float | None = None, **changes) -> Label:
    values = {
        "heatmap": np.full((4, 4), heat, np.uint8),
        "preliminary_mask": mask[::4, ::4],
        "mask": mask,
        "bbox": (4, 4, 8, 8),
        "area": float(mask.mean()),
        "separation": 0.5,
        "refined_separation": 0.5,
        "presence": 0.0,
        "quality": 0.9,
        "advantage": None if advantage is None else advantage_to_bytes(torch.full((4, 4), advantage)).numpy(),
        "flags": ["low_contrast"],
    }
    return Label(**{**values, **changes})


def square() -> np.ndarray:
    mask = np.zeros((16, 16), bool)
    mask[4:12, 4:12] = True
    return mask


def test_a_concept_whose_pixels_are_all_those_of_others_is_absent() -> None:
    label = label_of(square())
    first, second = make_disjoint([label, label])
    assert first is label
    assert (second.flags, second.quality, second.area) == (["low_contrast", "absent"], 0.0, 0.0)
    assert second.bbox == (0, 0, 0, 0) and not second.mask.any()
    assert second.preliminary_mask is label.preliminary_mask, "what was found before stays as it was"


def test_what_follows_from_a_mask_is_that_of_the_pixels_that_are_left() -> None:
    left = square()
    left[:, 8:] = False
    most = np.ones((16, 16), bool)
    most[0, 0] = False
    rest = label_of(most, advantage=0.0, flags=["touches_border", "colourless"])
    first, second = make_disjoint([label_of(left, advantage=0.1), rest])
    assert np.array_equal(first.mask, left) and np.array_equal(second.mask, most & ~left)
    assert second.flags == ["colourless", "touches_border"]
    assert (second.area, second.bbox, second.quality) == ((255 - 32) / 256, (0, 0, 16, 16), 0.9)


def test_a_mask_of_everything_says_as_little_where_others_have_taken_their_part() -> None:
    whole = label_of(np.ones((16, 16), bool), advantage=0.0, flags=["full"], quality=0.0)
    _, rest = make_disjoint([label_of(square(), advantage=0.1), whole])
    assert np.array_equal(rest.mask, ~square())
    assert rest.quality == 0 and USELESS & set(rest.flags)


@pytest.mark.parametrize("flag", sorted(USELESS - {"empty", "absent"}))
@pytest.mark.parametrize("advantage", [None, 0.1])
def test_a_useless_mask_takes_no_pixel_from_a_useful_one(flag: str, advantage: float | None) -> None:
    most = np.ones((16, 16), bool)
    most[0] = False
    useless = label_of(most, heat=250, advantage=advantage, flags=[flag], quality=0.0)
    good = label_of(square(), heat=20, advantage=None if advantage is None else 0.0)
    for labels in ([useless, good], [good, useless]):
        found = dict(zip(map(id, labels), make_disjoint(labels), strict=True))
        assert found[id(good)] is good
        assert np.array_equal(found[id(useless)].mask, most & ~square())
        assert flag in found[id(useless)].flags


def test_useless_masks_share_what_is_left_and_keep_no_crumbs_of_it() -> None:
    left, right = halves()
    good = label_of(left | right)
    wide, narrow = np.zeros((40, 60), bool), np.zeros((40, 60), bool)
    wide[5:35], narrow[8:12] = True, True
    narrow[10:30, 10:50] = True  # an eighth of it is left
    one_mode = [label_of(mask, heat=heat, flags=["one_mode"]) for mask, heat in ((wide, 1), (narrow, 9), (wide, 0))]
    found = make_disjoint([good, *one_mode])
    assert found[0] is good
    assert np.array_equal(found[1].mask, wide & ~good.mask)
    assert not found[2].mask.any() and not found[3].mask.any()


def test_a_pixel_goes_to_the_prompt_that_explains_it_not_to_the_hotter_map() -> None:
    def who_is_there(advantage: float | None = -0.05, presence: float = 0.0) -> list[bool]:
        car = label_of(square(), heat=250, advantage=advantage, presence=presence)
        dog = label_of(square(), heat=20, advantage=0.05)
        return [label.mask.any() for label in make_disjoint([car, dog])]

    assert who_is_there() == [False, True]
    # The presence counts three times: 0.12 make up for 0.1, 0.09 do not.
    assert who_is_there(presence=0.03) == [False, True]
    assert who_is_there(presence=0.04) == [True, False]
    # Labels that say nothing of either are shared by their heat.
    assert who_is_there(advantage=None) == who_is_there(presence=float("nan")) == [True, False]


def test_words_of_one_prompt_share_pixels_by_their_heat() -> None:
    cold, hot = (label_of(square(), heat=heat, advantage=0.1) for heat in (100, 101))
    first, second = make_disjoint([cold, hot])
    assert not first.mask.any() and np.array_equal(second.mask, square())


def test_labels_of_each_concept_become_those_of_each_image_by_name() -> None:
    cars = [label_of(square(), heat=9), label_of(square())]
    dogs = [label_of(square()), label_of(square(), heat=9)]
    found = share_pixels(("car", "dog"), [cars, dogs])
    assert [[label.concept for label in labels] for labels in found] == [["car", "dog"]] * 2
    assert [[bool(label.mask.any()) for label in labels] for labels in found] == [[True, False], [False, True]]


def test_a_mask_that_keeps_pixels_at_any_side_touches_the_border() -> None:
    for side in (np.s_[0, 6], np.s_[-1, 6], np.s_[6, 0], np.s_[6, -1]):
        left, whole = square(), square()
        left[:, 8:], whole[side] = False, True
        _, second = make_disjoint([label_of(left, advantage=0.1), label_of(whole, advantage=0.0)])
        assert second.flags == ["low_contrast", "touches_border"], side


def test_the_mask_that_others_take_most_of_is_emptied_first_and_gives_back_what_it_took() -> None:
    first, second, third = (np.zeros((40, 60), bool) for _ in range(3))
    first[10:20, :10] = second[10:20, 2:] = third[10:20, 10:] = True  # of the first 0.2 is left, of the second 0.14
    scores = [np.full((10, 15), value, np.float32) for value in (1, 2, 3)]
    found = resolve_overlap([first, second, third], scores)
    assert np.array_equal(found[0], first) and not found[1].any() and np.array_equal(found[2], third)
