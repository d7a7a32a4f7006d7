"""Two-component 1-D Gaussian mixtures of whole batches of maps, and the masks they give.

Symbols: u in 0..1 is a value after min-max scaling of its own item; pi_k, mu_k, var_k are the weight, mean
and variance of component k (1 = the higher mean); d(u) = log(pi_1 N_1(u)) - log(pi_0 N_0(u)) is the log-odds
of component 1. Shapes: B items, N values per item, K histogram bins.

The likelihood is maximised on a histogram that keeps the mean of the raw values in each bin, so that the cost
of an iteration does not depend on the size of a map; masks compare the raw values. What decides the result is
pinned here (bins, variance floor) and in :mod:`engine.labelling.likelihood` (initialisation, tolerance, cap).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from engine.labelling.likelihood import maximise_likelihood

BINS = 1024
"""K, bins between the minimum and the maximum of an item."""
VARIANCE_FLOOR = 1e-6
"""Smallest variance of a component for values scaled to 0..1: a standard deviation of one bin."""
_FRACTION_BITS = 20  # fixed-point digits of a value inside its bin: integer sums do not depend on their order


@dataclass(frozen=True, kw_only=True)
class Mixture:
    """Fitted mixtures in the units of the values; float64 on the values' device.

    Attributes:
        weights, means, variances: [B, 2], component 1 has the higher mean; NaN where nothing could be fitted.
        threshold: [B], the mask is ``value > threshold``; +inf (an empty mask) where nothing could be fitted.
        separation: [B] in 0..1, see :func:`separation_score`.
        one_mode: [B] bool, nothing fitted, or the weighted densities do not cross between the means.
    """

    weights: Tensor
    means: Tensor
    variances: Tensor
    threshold: Tensor
    separation: Tensor
    one_mode: Tensor


def fit_mixture(
    values: Tensor, valid: Tensor | None = None, *, rule: Literal["posterior", "midpoint"] = "posterior"
) -> Mixture:
    """Fit one mixture per item by maximum likelihood.

    Args:
        values: [B, ...] real numbers of any scale, any floating dtype, any device.
        valid: [B, ...] bool, the cells that count (letterbox cells do not); None means all.
        rule: ``posterior`` puts the threshold where the weighted densities cross between the means, d(u) = 0;
            ``midpoint`` puts it at (mu_0 + mu_1) / 2.

    An item with fewer than two valid values, only equal ones, or any NaN or infinity among them has no
    mixture: its threshold is +inf, its separation 0, and one_mode is set. Without a crossing between the
    means the threshold is the midpoint, the separation 0, and one_mode is set. With unequal variances the
    densities cross once more outside the means; that crossing is ignored, so that a mask is always an upper
    set of the values.

    Raises:
        ValueError: unknown rule, or shapes that do not fit.
    """
    if rule not in ("posterior", "midpoint"):
        raise ValueError(f"mixture rule is {rule!r}; it must be 'posterior' or 'midpoint'")
    if values.ndim < 2:
        raise ValueError(f"values have shape {tuple(values.shape)}; expected [batch, ...]")
    if valid is not None and valid.shape != values.shape:
        raise ValueError(f"valid has shape {tuple(valid.shape)}, values have {tuple(values.shape)}; they must agree")
    device = values.device
    if device.type == "mps":  # has no float64
        values, valid = values.cpu(), None if valid is None else valid.cpu()

    count_BK, mean_BK, low_B, range_B, fitted_B = _histogram(
        values.flatten(1), None if valid is None else valid.flatten(1)
    )
    weights_B2, means_B2, variances_B2 = torch.full(
        (3, len(values), 2), math.nan, dtype=torch.float64, device=values.device
    )
    if fitted_B.any():
        fit = maximise_likelihood(count_BK[fitted_B], mean_BK[fitted_B], variance_floor=VARIANCE_FLOOR)
        order = fit[1].argsort(dim=1, stable=True)
        weights_B2[fitted_B], means_B2[fitted_B], variances_B2[fitted_B] = (p.gather(1, order) for p in fit[:3])
    crossing_B = _crossing(weights_B2, means_B2, variances_B2)
    one_mode_B = crossing_B.isnan()
    separation_B = separation_score(weights_B2, means_B2, variances_B2, crossing_B)

    midpoint_B = means_B2.mean(1)
    threshold_B = torch.where(one_mode_B, midpoint_B, crossing_B) if rule == "posterior" else midpoint_B
    threshold_B = torch.where(fitted_B, low_B + range_B * threshold_B, math.inf)
    return Mixture(
        weights=weights_B2.to(device),
        means=(low_B[:, None] + range_B[:, None] * means_B2).to(device),
        variances=(range_B[:, None].square() * variances_B2).to(device),
        threshold=threshold_B.to(device),
        separation=separation_B.to(device),
        one_mode=one_mode_B.to(device),
    )


def separation_score(weights: Tensor, means: Tensor, variances: Tensor, crossing: Tensor) -> Tensor:
    """How much better than a constant mask the thresholded one is, under the fit: [B] in 0..1.

    1 - e / min(pi_0, pi_1), where e = pi_0 P(u > c | 0) + pi_1 P(u <= c | 1) is the mass that a cut at the
    crossing c assigns to the wrong component, and min(pi_0, pi_1) the mass that an empty or a full mask gets
    wrong. 1: the modes do not overlap; 0: no better than a constant mask, or no crossing (NaN). It falls as
    the modes move together or widen, and unlike Ashman's D it knows that a rare component needs a wider gap
    than a frequent one.
    """
    deviations_B2 = variances.sqrt()
    signs_2 = torch.tensor([-1.0, 1.0], dtype=torch.float64, device=weights.device)
    wrong_B2 = weights * torch.special.ndtr(signs_2 * (crossing[:, None] - means) / deviations_B2)
    return (1 - wrong_B2.sum(1) / weights.amin(1)).nan_to_num(0.0).clamp(0, 1)


def heatmap_to_mask(values: Tensor, valid: Tensor | None, mixture: Mixture) -> Tensor:
    """The raw values above their item's threshold: [B, ...] bool, False outside ``valid``."""
    threshold = mixture.threshold.view(-1, *[1] * (values.ndim - 1))
    mask = values > threshold
    return mask if valid is None else mask & valid


def remove_orphans(mask: Tensor, valid: Tensor | None = None) -> Tensor:
    """3x3 mean filter at 0.5 over masks [B, H, W]: a cell takes the majority of itself and its neighbours.

    Neighbours outside the map or outside ``valid`` do not count; at a tie, which only their absence makes
    possible, a cell stays as it is. Cells outside ``valid`` are False.
    """
    counted = torch.ones_like(mask) if valid is None else valid
    votes_B2HW = torch.stack([mask & counted, counted], dim=1).float()
    votes_B2HW = F.avg_pool2d(votes_B2HW, 3, stride=1, padding=1, divisor_override=1)
    balance = 2 * votes_B2HW[:, 0] - votes_B2HW[:, 1]
    return ((balance > 0) | ((balance == 0) & mask)) & counted


def _histogram(values_BN: Tensor, valid_BN: Tensor | None) -> tuple[Tensor, ...]:
    """(count and mean u of each bin [B, K]; minimum [B]; range [B]; whether the item can be fitted [B])."""
    if values_BN.dtype != torch.float64:
        values_BN = values_BN.float()
    items, size = values_BN.shape
    if not size:
        low_B1, high_B1 = values_BN.new_zeros(2, items, 1)
    elif valid_BN is None:
        low_B1, high_B1 = values_BN.amin(1, True), values_BN.amax(1, True)
    else:
        low_B1 = values_BN.masked_fill(~valid_BN, math.inf).amin(1, True)
        high_B1 = values_BN.masked_fill(~valid_BN, -math.inf).amax(1, True)
    range_B1 = high_B1 - low_B1  # NaN or infinite as soon as one value is; -inf when no value is valid
    fitted_B = (range_B1.isfinite() & (range_B1 > 0)).squeeze(1)

    if valid_BN is not None or not fitted_B.all():  # what does not count must not be a bin's number either
        counted_BN = fitted_B[:, None].expand(items, size)
        counted_BN = counted_BN if valid_BN is None else counted_BN & valid_BN
        values_BN = torch.where(counted_BN, values_BN, 0.0)
        low_B1, range_B1 = torch.where(fitted_B[:, None], low_B1, 0.0), torch.where(fitted_B[:, None], range_B1, 1.0)
    unit_BN = (values_BN - low_B1).div_(range_B1).clamp_(0, 1)
    fixed_BN = unit_BN.mul_(BINS << _FRACTION_BITS).long()
    bin_BN = (fixed_BN >> _FRACTION_BITS).clamp_(max=BINS - 1)
    one_BN = torch.ones_like(fixed_BN) if valid_BN is None else valid_BN.long()
    empty_BK = fixed_BN.new_zeros(items, BINS)
    count_BK = empty_BK.scatter_add(1, bin_BN, one_BN).double()
    total_BK = empty_BK.scatter_add(1, bin_BN, fixed_BN if valid_BN is None else fixed_BN * one_BN).double()
    mean_BK = total_BK / count_BK.clamp(min=1) / (BINS << _FRACTION_BITS)
    return count_BK, mean_BK, low_B1.squeeze(1).double(), range_B1.squeeze(1).double(), fitted_B


def _crossing(weights_B2: Tensor, means_B2: Tensor, variances_B2: Tensor) -> Tensor:
    """The root of d(u) between the means [B], NaN without one.

    Between the means d' = (u - mu_0) / var_0 + (mu_1 - u) / var_1 is positive: there is at most one root.
    With s = u - mu_0 and gap = mu_1 - mu_0, d = a s^2 + b s + c with b >= 0, and the root where d rises is
    -2 c / (b + sqrt(b^2 - 4 a c)), which is stable at equal variances (a = 0) too.
    """
    gap_B = means_B2[:, 1] - means_B2[:, 0]
    a_B = 0.5 * (1 / variances_B2[:, 0] - 1 / variances_B2[:, 1])
    b_B = gap_B / variances_B2[:, 1]
    c_B = torch.log(weights_B2[:, 1] / weights_B2[:, 0]) + 0.5 * torch.log(variances_B2[:, 0] / variances_B2[:, 1])
    c_B = c_B - 0.5 * gap_B.square() / variances_B2[:, 1]
    root_B = -2 * c_B / (b_B + (b_B.square() - 4 * a_B * c_B).clamp(min=0).sqrt())
    rises_B = (c_B < 0) & (a_B * gap_B.square() + b_B * gap_B + c_B > 0)
    return torch.where(rises_B, means_B2[:, 0] + root_B, math.nan)
