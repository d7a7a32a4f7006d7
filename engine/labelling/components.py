"""How many contrasts an image has: mixtures of one to three Gaussians, compared by an information criterion.

An object of two contrasts (a white shirt and black trousers on grey, say) gives the difference three clusters, and a
mixture of two may put its threshold between the object's own.

Symbols: u in 0..1 is a value scaled by its item's range; K components of weight π, mean μ, variance σ².
Shapes: B items, J histogram bins.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from engine.labelling.mixture import VARIANCE_FLOOR

BINS = 256
STEPS = 100


def count_components(values: Tensor, valid: Tensor, *, most: int = 3) -> Tensor:
    """Number of components with the best integrated completed likelihood: [B] int64 in 1..most.

    ICL (Biernacki et al. 2000) is BIC plus twice the entropy of the assignment: BIC alone would take another
    Gaussian for every bend of a density that is none.

    Args:
        values: [B, ...]; valid: [B, ...] bool, those that count.
    """
    flat, counted = values.flatten(1).double(), valid.flatten(1)
    low = flat.masked_fill(~counted, math.inf).amin(1, True)
    span = (flat.masked_fill(~counted, -math.inf).amax(1, True) - low).clamp(min=1e-12)
    index = ((flat - low) / span * BINS).nan_to_num(0, 0, 0).long().clamp(0, BINS - 1)
    n_BJ = torch.zeros(len(flat), BINS, dtype=torch.float64, device=values.device)
    n_BJ.scatter_add_(1, index, counted.double())
    u_J = (torch.arange(BINS, dtype=torch.float64, device=values.device) + 0.5) / BINS
    return torch.stack([_fit(n_BJ, u_J, k) for k in range(1, most + 1)]).argmin(0) + 1


def _fit(n_BJ: Tensor, u_J: Tensor, components: int) -> Tensor:
    """ICL, smaller is better [B], of K components.

    The better of two starts: groups of as many values, and groups of as wide a range. From the first alone, a
    background of most of the pixels gets two of three components.
    """
    share_BJ = n_BJ.cumsum(1) / n_BJ.sum(1, keepdim=True).clamp(min=1)
    starts = [share_BJ] if components == 1 else [share_BJ, u_J.expand_as(share_BJ)]
    groups = [(start * components).long().clamp(max=components - 1) for start in starts]
    found = _maximise(n_BJ.repeat(len(starts), 1), u_J, torch.cat(groups), components)
    return found.unflatten(0, (len(starts), -1)).amin(0)


def _maximise(n_BJ: Tensor, u_J: Tensor, group_BJ: Tensor, components: int) -> Tensor:
    """ICL [B] after EM from one start.

    Both steps are products with the powers of u: the M step's moments Σ n r (1, u, u²), and the E step's log-densities,
    which are polynomials of degree two.
    """
    total_B = n_BJ.sum(1).clamp(min=1)
    powers_3J = torch.stack([torch.ones_like(u_J), u_J, u_J.square()])
    r_BKJ = torch.nn.functional.one_hot(group_BJ, components).movedim(2, 1).double()
    log_BKJ = r_BKJ
    for _ in range(STEPS if components > 1 else 1):
        mass_BK, first_BK, second_BK = ((n_BJ[:, None] * r_BKJ) @ powers_3J.T).unbind(2)
        mass_BK = mass_BK + 1e-9
        mean_BK = first_BK / mass_BK
        variance_BK = (second_BK / mass_BK - mean_BK.square()).clamp(min=max(VARIANCE_FLOOR, 1 / BINS**2))
        log_scale_BK = (mass_BK / total_B[:, None]).log() - 0.5 * (2 * math.pi * variance_BK).log()
        constant_BK = log_scale_BK - 0.5 * mean_BK.square() / variance_BK
        log_BKJ = torch.stack([constant_BK, mean_BK / variance_BK, -0.5 / variance_BK], dim=2) @ powers_3J
        r_BKJ = log_BKJ.softmax(1)
    likelihood_B = (n_BJ * log_BKJ.logsumexp(1)).sum(1)
    entropy_B = -(n_BJ * torch.special.xlogy(r_BKJ, r_BKJ).sum(1)).sum(1)
    parameters = 3 * components - 1
    return -2 * likelihood_B + parameters * total_B.log() + 2 * entropy_B
