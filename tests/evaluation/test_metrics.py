"""Accumulated measures against scikit-learn on the pooled pixels, and the geometry of the protocol."""

from __future__ import annotations

import math

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import accuracy_score, jaccard_score, roc_auc_score

from engine.evaluation.metrics import SIDE, Auroc, BoxIou, Overlap, fit_to_protocol


def random_images(seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Heatmaps with many ties and their truths, of unequal sizes and unequal amounts of foreground."""
    rng = np.random.default_rng(seed)
    images = []
    for _ in range(6):
        shape = tuple(rng.integers(5, 40, 2))
        truth = rng.random(shape) < rng.uniform(0.05, 0.6)
        heatmap = (rng.integers(0, 12, shape) * 17 + 60 * truth * rng.random()).clip(0, 255)
        images.append((heatmap.astype(np.uint8), truth))
    return images


@pytest.mark.parametrize("seed", range(5))
def test_auroc_equals_scikit_learns(seed: int) -> None:
    images, measure = random_images(seed), Auroc()
    for heatmap, truth in images:
        measure.update(heatmap, truth)
    found = measure.result()
    each = [roc_auc_score(truth.ravel(), heatmap.ravel()) for heatmap, truth in images]
    pooled = [np.concatenate([image[part].ravel() for image in images]) for part in (1, 0)]
    assert found["auroc_mean"] == pytest.approx(np.mean(each), abs=1e-12)
    assert found["auroc_pooled"] == pytest.approx(roc_auc_score(*pooled), abs=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_accuracy_and_iou_equal_scikit_learns_on_pooled_pixels(seed: int) -> None:
    images, measure = random_images(seed), Overlap()
    masks = [(heatmap > 100, truth) for heatmap, truth in images]
    for mask, truth in masks:
        measure.update(mask, truth)
    mask, truth = (np.concatenate([image[part].ravel() for image in masks]) for part in (0, 1))
    assert measure.result() == pytest.approx(
        {
            "acc": accuracy_score(truth, mask),
            "iou": jaccard_score(truth, mask),
            "miou": jaccard_score(truth, mask, average="macro"),
        },
        abs=1e-12,
    )


def test_images_of_one_class_enter_the_pooled_auroc_only() -> None:
    measure = Auroc()
    measure.update(np.array([[10, 20]], np.uint8), np.array([[False, True]]))
    measure.update(np.array([[30, 30]], np.uint8), np.array([[False, False]]))
    assert measure.result() == {"auroc_mean": 1.0, "auroc_pooled": pytest.approx(1 / 3)}


def test_measures_without_pixels_are_nan() -> None:
    assert all(math.isnan(value) for value in [*Auroc().result().values(), *Overlap().result().values()])


def test_a_mask_of_latent_size_is_scaled_to_the_image_and_its_centre_is_compared() -> None:
    mask = np.zeros((8, 16), dtype=bool)
    mask[:, 8:] = True
    fitted = fit_to_protocol(mask, 256, 512)
    assert fitted.shape == (SIDE, SIDE) and fitted.dtype == bool
    assert fitted[:, SIDE // 2 :].all() and not fitted[:, : SIDE // 2].any()


def test_heatmaps_are_interpolated_and_masks_are_not() -> None:
    heatmap = np.array([[0, 255], [0, 255]], dtype=np.uint8)
    assert len(np.unique(fit_to_protocol(heatmap, 128, 128))) > 50
    assert set(np.unique(fit_to_protocol(heatmap > 0, 128, 128))) == {False, True}


@pytest.mark.parametrize("height, width", [(128, 128), (500, 333), (37, 211), (129, 128), (1, 1)])
def test_every_image_size_gives_the_same_square(height: int, width: int) -> None:
    assert fit_to_protocol(np.ones((3, 5), dtype=bool), height, width).shape == (SIDE, SIDE)
    assert fit_to_protocol(np.ones((3, 5), dtype=bool), height, width).all()


@pytest.mark.parametrize("kind", [np.bool_, np.uint8])
def test_the_square_is_cut_from_the_whole_image_at_its_new_size(kind: type[np.generic]) -> None:
    rng = np.random.default_rng(0)
    resample = Image.Resampling.NEAREST if kind is np.bool_ else Image.Resampling.BILINEAR
    for height, width in [*rng.integers(20, 600, (20, 2)).tolist(), [480, 640], [427, 640], [640, 20]]:
        array = rng.integers(0, 2 if kind is np.bool_ else 256, (height, width)).astype(kind)
        size = tuple(max(SIDE, round(side * (SIDE / min(height, width)))) for side in (width, height))
        whole = np.asarray(Image.fromarray(array.astype(np.uint8)).resize(size, resample))
        left, top = (size[0] - SIDE) // 2, (size[1] - SIDE) // 2
        expected = whole[top : top + SIDE, left : left + SIDE]
        np.testing.assert_array_equal(fit_to_protocol(array, height, width), expected.astype(kind))


@pytest.mark.parametrize("turned", [False, True])
def test_of_very_elongated_images_the_middle_is_resized_and_nothing_else(
    turned: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels, usual = [], Image.Image.resize

    def resize(self: Image.Image, size: tuple[int, int], *options: object) -> Image.Image:
        pixels.append(size[0] * size[1])
        return usual(self, size, *options)  # type: ignore[arg-type]

    monkeypatch.setattr(Image.Image, "resize", resize)
    mask = np.zeros((1, 20_000), dtype=bool)
    mask[:, 10_000:] = True
    fitted = fit_to_protocol(mask.T if turned else mask, *((20_000, 1) if turned else (1, 20_000)))
    assert max(pixels) <= 128 * 128 * 32
    halves = fitted.T if turned else fitted
    assert halves[:, SIDE // 2 :].all() and not halves[:, : SIDE // 2].any()


@pytest.mark.parametrize("seed", range(5))
def test_box_iou_is_that_of_the_boxes_pixels(seed: int) -> None:
    rng = np.random.default_rng(seed)
    found, expected = BoxIou(), []
    for _ in range(6):
        grids = np.zeros((2, 20, 30), dtype=bool)
        boxes = [(*rng.integers(0, 12, 2), *rng.integers(1, 8, 2)) for _ in grids]
        for grid, (x, y, width, height) in zip(grids, boxes, strict=True):
            grid[y : y + height, x : x + width] = True
        found.update(*boxes)
        expected.append((grids[0] & grids[1]).sum() / (grids[0] | grids[1]).sum())
    assert found.result() == pytest.approx(np.mean(expected))


def test_a_mask_without_pixels_has_a_box_iou_of_zero() -> None:
    found = BoxIou()
    found.update((0, 0, 0, 0), (0, 0, 4, 4))
    assert found.result() == 0
