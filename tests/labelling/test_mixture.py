"""Mixtures against scikit-learn's converged fits, and defined results where nothing can be fitted."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from scipy.optimize import brentq
from scipy.stats import norm
from sklearn.mixture import GaussianMixture

from engine.labelling.mixture import fit_mixture, heatmap_to_mask, remove_orphans


def two_mode_map(size: int, gap: tuple[float, float], seed: tuple[int, ...]) -> np.ndarray:
    """A float32 map [size, size]: an elliptic object of 5% to 50% of the area, both modes of unequal widths.

    ``gap`` bounds Ashman's D, the distance of the modes in units of their root-mean-square deviation.
    """
    rng = np.random.default_rng(seed)
    row, column = np.mgrid[0:size, 0:size] / size
    centre, stretch, area = rng.uniform(0.3, 0.7, 2), rng.uniform(0.6, 1.6), rng.uniform(0.05, 0.5)
    distance = np.hypot((row - centre[0]) * stretch, (column - centre[1]) / stretch)
    inside = distance <= np.quantile(distance, area)
    narrow, wide = rng.uniform(0.5, 1.5, 2)
    shift = rng.uniform(*gap) * np.sqrt((narrow**2 + wide**2) / 2)
    noise = rng.standard_normal((size, size))
    return (0.3 + 0.01 * np.where(inside, shift + wide * noise, narrow * noise)).astype(np.float32)


def sklearn_fit(values: np.ndarray, *, tolerance: float = 1e-10, **start: np.ndarray) -> GaussianMixture:
    """scikit-learn's fit of values scaled to 0..1, run until the likelihood stands still."""
    fit = GaussianMixture(2, tol=tolerance, max_iter=100_000, reg_covar=1e-9, random_state=0, **start)
    return fit.fit(values.reshape(-1, 1))


def upper_set_of(fit: GaussianMixture, values: np.ndarray) -> np.ndarray:
    """The mask of a fit whose threshold is the crossing of the two weighted densities between the means."""
    order = fit.means_[:, 0].argsort()
    weights, means = fit.weights_[order], fit.means_[order, 0]
    deviations = np.sqrt(fit.covariances_[order, 0, 0])

    def odds(u: float) -> float:
        logs = np.log(weights) + norm.logpdf(u, means, deviations)
        return logs[1] - logs[0]

    crosses = odds(means[0]) < 0 < odds(means[1])
    return values > (brentq(odds, *means, xtol=1e-14) if crosses else means.mean())


def iou(a: np.ndarray, b: np.ndarray) -> float:
    return (a & b).sum() / max(1, (a | b).sum())


@dataclass(frozen=True)
class Agreement:
    """Mask IoU of each map with scikit-learn's, and on how many maps we found a likelier optimum than it did."""

    iou: np.ndarray
    likelier: int

    def __str__(self) -> str:
        return f"{len(self.iou)} maps, worst {self.iou.min():.6f}, mean {self.iou.mean():.6f}, {self.likelier=}"


def agreement(gap: tuple[float, float], sizes: dict[int, int], seed: int) -> Agreement:
    """Compare our masks with those of scikit-learn's converged fits, which start from its own k-means.

    Where the masks differ, scikit-learn's fit is run on to a tolerance of 1e-13 (its steps may gain less than
    1e-10 each for thousands of steps). If it then lies in another optimum than ours, scikit-learn is also
    started from ours, and the likelier of its two fits is the reference.
    """
    found, likelier = [], 0
    for size, count in sizes.items():
        maps = np.stack([two_mode_map(size, gap, seed=(seed, size, index)) for index in range(count)])
        values = torch.from_numpy(maps)
        mixture = fit_mixture(values)
        masks = heatmap_to_mask(values, None, mixture).numpy()
        for index, (raw, mask) in enumerate(zip(maps.astype(np.float64), masks, strict=True)):
            low, span = raw.min(), np.ptp(raw)
            unit = (raw - low) / span
            reference = sklearn_fit(unit)
            if iou(mask, upper_set_of(reference, unit)) < 0.999:
                reference = sklearn_fit(unit, tolerance=1e-13)
            ours = (mixture.means[index].numpy() - low) / span
            if np.abs(np.sort(reference.means_[:, 0]) - ours).max() > 0.01:
                other = sklearn_fit(
                    unit,
                    means_init=ours[:, None],
                    weights_init=mixture.weights[index].numpy(),
                    precisions_init=(span**2 / mixture.variances[index].numpy())[:, None, None],
                )
                column = unit.reshape(-1, 1)
                if other.score(column) > reference.score(column):
                    reference, likelier = other, likelier + 1
            found.append(iou(mask, upper_set_of(reference, unit)))
    return Agreement(np.array(found), likelier)


def test_masks_of_separated_modes_agree_with_scikit_learn() -> None:
    found = agreement((4.5, 8), {32: 100, 64: 20, 512: 1}, seed=1)
    print(f"separated: {found}")
    assert found.iou.min() >= 0.999


def test_masks_of_overlapping_modes_agree_with_scikit_learn() -> None:
    found = agreement((2.2, 3.5), {32: 78, 64: 4, 256: 1}, seed=2)
    print(f"overlapping: {found}")
    assert found.iou.min() >= 0.99


def test_parameters_of_a_map_agree_with_scikit_learn() -> None:
    raw = two_mode_map(64, (3.0, 3.0), seed=(3,)).astype(np.float64)
    low, span = raw.min(), np.ptp(raw)
    mixture = fit_mixture(torch.from_numpy(raw)[None])
    reference = sklearn_fit((raw - low) / span)
    order = reference.means_[:, 0].argsort()
    variances = span**2 * reference.covariances_[order, 0, 0]
    np.testing.assert_allclose(mixture.weights[0], reference.weights_[order], rtol=1e-3)
    np.testing.assert_allclose(mixture.means[0], low + span * reference.means_[order, 0], rtol=1e-4)
    np.testing.assert_allclose(mixture.variances[0], variances, rtol=2e-3)


def test_an_item_does_not_depend_on_its_batch() -> None:
    maps = torch.from_numpy(np.stack([two_mode_map(32, (2.2, 6), seed=(4, index)) for index in range(24)]))
    together = fit_mixture(maps)
    for index in range(len(maps)):
        alone = fit_mixture(maps[index : index + 1])
        for name in ("weights", "means", "variances", "threshold", "separation", "one_mode"):
            assert torch.equal(getattr(alone, name)[0], getattr(together, name)[index]), name


@pytest.mark.gpu
def test_a_gpu_gives_the_masks_of_the_cpu() -> None:
    maps = torch.from_numpy(np.stack([two_mode_map(64, (2.2, 6), seed=(13, index)) for index in range(16)]))
    expected, found = fit_mixture(maps), fit_mixture(maps.cuda())
    assert found.threshold.is_cuda
    torch.testing.assert_close(found.threshold.cpu(), expected.threshold, rtol=1e-9, atol=0)
    assert torch.equal(heatmap_to_mask(maps.cuda(), None, found).cpu(), heatmap_to_mask(maps, None, expected))


@pytest.mark.parametrize("scale, shift", [(1e-6, 0.0), (1e4, -3.0), (0.25, 7.0)])
def test_masks_do_not_depend_on_the_unit_of_the_values(scale: float, shift: float) -> None:
    values = torch.from_numpy(two_mode_map(32, (4, 4), seed=(5,)))[None].double()
    scaled = values * scale + shift
    expected = heatmap_to_mask(values, None, fit_mixture(values))
    assert torch.equal(heatmap_to_mask(scaled, None, fit_mixture(scaled)), expected)


def test_half_precision_and_integers_are_fitted() -> None:
    values = torch.from_numpy(two_mode_map(32, (8, 8), seed=(6,)))[None]
    whole = (values * 1000).int()
    assert heatmap_to_mask(values.half(), None, fit_mixture(values.half())).float().mean() > 0
    assert not fit_mixture(whole).one_mode.any()


def test_cells_outside_valid_neither_count_nor_enter_the_mask() -> None:
    values = torch.from_numpy(two_mode_map(32, (4, 4), seed=(7,)))[None]
    padded, valid = torch.full((1, 32, 48), torch.nan), torch.zeros(1, 32, 48, dtype=torch.bool)
    padded[:, :, 8:40], valid[:, :, 8:40] = values, True
    mixture, inner = fit_mixture(padded, valid), fit_mixture(values)
    assert torch.equal(mixture.threshold, inner.threshold)
    padded[~valid] = 1e9
    mask = heatmap_to_mask(padded, valid, fit_mixture(padded, valid))
    assert torch.equal(mask[:, :, 8:40], heatmap_to_mask(values, None, inner))
    assert not mask[~valid].any()


@pytest.mark.parametrize(
    "values",
    [
        torch.full((4, 4), 0.25),
        torch.zeros(4, 4),
        torch.rand(4, 4).index_fill(0, torch.tensor([2]), torch.nan),
        torch.rand(4, 4).index_fill(0, torch.tensor([2]), torch.inf),
        torch.rand(4, 4).index_fill(0, torch.tensor([2]), -torch.inf),
        torch.rand(1, 1),
        torch.rand(0, 4),
    ],
    ids=["constant", "zeros", "nan", "inf", "-inf", "one value", "no value"],
)
def test_what_cannot_be_fitted_gives_an_empty_flagged_mask(values: torch.Tensor) -> None:
    mixture = fit_mixture(values[None])
    assert mixture.threshold.item() == torch.inf
    assert mixture.separation.item() == 0
    assert mixture.one_mode.item()
    assert not heatmap_to_mask(values[None], None, mixture).any()


def test_fewer_than_two_valid_cells_give_an_empty_mask_beside_good_items() -> None:
    values = torch.from_numpy(np.stack([two_mode_map(16, (6, 6), seed=(8,))] * 3))
    valid = torch.ones_like(values, dtype=torch.bool)
    valid[0] = False
    valid[1] = False
    valid[1, 0, 0] = True
    mixture = fit_mixture(values, valid)
    assert mixture.one_mode.tolist() == [True, True, False]
    assert torch.isinf(mixture.threshold).tolist() == [True, True, False]


def test_empty_batches_and_maps_are_fitted_to_nothing() -> None:
    assert fit_mixture(torch.zeros(0, 4, 4)).threshold.shape == (0,)
    values = torch.zeros(2, 0, 4)
    assert fit_mixture(values, values.bool()).one_mode.tolist() == [True, True]


def test_two_distinct_values_are_told_apart() -> None:
    values = torch.tensor([[0.0, 0.0, 0.0, 1.0]])
    mixture = fit_mixture(values)
    assert heatmap_to_mask(values, None, mixture).tolist() == [[False, False, False, True]]
    assert mixture.separation.item() == pytest.approx(1)


def test_midpoint_rule_lies_between_the_means() -> None:
    values = torch.from_numpy(two_mode_map(32, (3, 3), seed=(9,)))[None]
    midpoint, posterior = fit_mixture(values, rule="midpoint"), fit_mixture(values)
    assert midpoint.threshold.item() == pytest.approx(midpoint.means.mean().item())
    assert torch.equal(midpoint.means, posterior.means)
    assert posterior.means[0, 0] < posterior.threshold < posterior.means[0, 1]


def test_a_wide_background_does_not_take_back_the_highest_values() -> None:
    rng = np.random.default_rng(10)
    values = np.concatenate([rng.normal(0, 1.0, 3000), rng.normal(4, 0.2, 600), [9.0]])[None]
    mixture = fit_mixture(torch.from_numpy(values))
    assert mixture.variances[0, 0] > mixture.variances[0, 1]
    assert heatmap_to_mask(torch.from_numpy(values), None, mixture)[0, -1]


def test_without_a_crossing_between_the_means_the_midpoint_is_taken_and_flagged() -> None:
    rng = np.random.default_rng(0)
    values = torch.from_numpy(np.concatenate([rng.normal(0, 0.3, 5000), rng.normal(0.2, 2.0, 500)]))[None]
    mixture = fit_mixture(values)
    assert mixture.one_mode.item()
    assert mixture.threshold.item() == pytest.approx(mixture.means.mean().item())
    assert mixture.separation.item() == 0


def test_separation_grows_from_zero_to_one_with_the_distance_of_the_modes() -> None:
    maps = [two_mode_map(64, (gap, gap), seed=(11,)) for gap in (2.5, 3, 4, 6, 12)]
    found = fit_mixture(torch.from_numpy(np.stack(maps))).separation.tolist()
    assert found == sorted(found)
    assert 0 < found[0] < 0.8
    assert 0.999 < found[-1] <= 1


def test_the_error_the_separation_predicts_is_the_error_that_occurs() -> None:
    rng = np.random.default_rng(12)
    inside = rng.random(200_000) < 0.2
    raw = np.where(inside, rng.normal(3, 1.2, inside.size), rng.normal(0, 1, inside.size))
    values = torch.from_numpy(raw)[None]
    mixture = fit_mixture(values)
    wrong = (heatmap_to_mask(values, None, mixture)[0].numpy() != inside).mean()
    assert mixture.separation.item() == pytest.approx(1 - wrong / 0.2, abs=0.01)


def test_orphans_follow_the_majority_of_their_neighbours() -> None:
    mask = torch.zeros(1, 7, 7, dtype=torch.bool)
    mask[0, 1, 1] = True
    mask[0, 3:7, 3:7] = True
    mask[0, 5, 5] = False
    clean = remove_orphans(mask)
    assert not clean[0, 1, 1]
    assert clean[0, 5, 5]
    assert clean[0, 6, 6]


@pytest.mark.parametrize("seed", range(5))
def test_orphan_removal_is_the_mean_of_the_valid_neighbourhood(seed: int) -> None:
    rng = np.random.default_rng(seed)
    mask, valid = rng.random((2, 9, 11)) < 0.5, rng.random((2, 9, 11)) < 0.7
    clean = remove_orphans(torch.from_numpy(mask), torch.from_numpy(valid)).numpy()
    for item, row, column in np.ndindex(mask.shape):
        window = np.s_[item, max(0, row - 1) : row + 2, max(0, column - 1) : column + 2]
        votes = mask[window][valid[window]]
        expected = valid[item, row, column] and (
            votes.mean() > 0.5 or (votes.mean() == 0.5 and mask[item, row, column])
        )
        assert clean[item, row, column] == expected


def test_wrong_arguments_are_named() -> None:
    values = torch.rand(2, 4, 4)
    with pytest.raises(ValueError, match="'median'"):
        fit_mixture(values, rule="median")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"\(2, 4, 4\)"):
        fit_mixture(values, torch.ones(2, 4, dtype=torch.bool))
    with pytest.raises(ValueError, match="batch"):
        fit_mixture(values[0, 0])
