"""Maximum likelihood of two-component 1-D Gaussian mixtures on histograms: EM with safeguarded Newton steps.

Symbols: z is a value standardised by the mean and variance of its own item, T(z) = (1, z, z^2), n the
fraction of the values in a bin. S = sum_z n r(z) T(z) are the moments (mass, first, second) of component 1
under the responsibilities r; those of component 0 are (1, 0, 1) - S, so S alone is the state. The log-odds of
component 1 are d(z) = delta(S) . T(z), and r = sigmoid(d).

One EM step is S -> G(S) = sum_z n sigmoid(delta(S) . T) T. Its Jacobian is W A, with W = sum_z n r (1 - r) T T'
and A = d delta / d S = C C', both symmetric. In coordinates y = C' S the Jacobian C' W C is symmetric as
well: with its eigenvalues rho, a step on G(S) = S divides each eigen-coordinate of the EM step by |1 - rho|.
That is Newton's step where the likelihood is concave (rho < 1) and walks away from saddles elsewhere. |dy| is
the length of a step in the metric of the complete-data information; it is kept within a trust radius.
Overlapping modes have rho up to 0.9999: EM alone takes thousands of steps there, and stops early unnoticed.

Shapes: B items (A of them still active), K histogram bins, two components, three moments.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

TOLERANCE = 1e-9
"""Converged when one plain EM step moves no moment of component 1 (standardised values) by more than this."""
MAX_STEPS = 500
"""Cap on steps; separated modes take about 5, overlapping ones about 15, the worst seen 50."""
WARM_UP = 5
"""Plain EM steps before the first Newton step, so that it ends in the optimum that plain EM would find."""
FIRST_RADIUS, LAST_RADIUS = 0.1, 1.0
"""Trust radius of the first Newton step, and the largest one."""


def maximise_likelihood(
    count: Tensor, value: Tensor, *, variance_floor: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Fit one mixture per item: (weights [B, 2], means [B, 2], variances [B, 2], steps taken [B]).

    Args:
        count: [B, K] float64, how many values each bin holds; at least two bins of an item hold some.
        value: [B, K] float64 in 0..1, the mean of the values of each bin; anything where the bin is empty.
        variance_floor: smallest variance of a component.

    Starts from the exact optimum of 2-means on the histogram (Otsu's split), as scikit-learn starts from
    k-means. A Newton step that lost likelihood is undone in favour of the EM step from the same place, so
    that the likelihood never decreases. Converged items leave the batch. The components come in no particular
    order.
    """
    n_BK = count / count.sum(1, keepdim=True)
    centre_B1 = (n_BK * value).sum(1, keepdim=True)
    scale_B1 = (n_BK * (value - centre_B1).square()).sum(1, keepdim=True).sqrt()
    z = (value - centre_B1) / scale_B1
    powers = torch.stack([n_BK * z**power for power in range(5)], dim=1)
    floor_B1 = floor = variance_floor / scale_B1.square()

    state_B3 = state = fallback = _two_means(powers[:, :3])
    steps_B = torch.zeros(len(count), dtype=torch.long, device=count.device)
    item_A = torch.arange(len(count), device=count.device)
    best = torch.full_like(centre_B1[:, 0], -torch.inf)
    radius = torch.full_like(centre_B1, FIRST_RADIUS)
    for number in range(MAX_STEPS):
        parameters = _parameters(state, floor)
        em, likelihood, r = _em_step(parameters, z, powers)
        lost = likelihood < best - 1e-14
        moving = lost | ((em - state).abs().amax(1) > TOLERANCE)
        leap = em
        if number >= WARM_UP and moving.any():
            newton, feasible = _newton_step(state, em, r, parameters, powers, floor, radius)
            leap = torch.where((feasible & moving)[:, None], newton, em)
            radius = torch.where((feasible & ~lost)[:, None], radius * 2, radius / 4).clamp(max=LAST_RADIUS)

        state = torch.where(lost[:, None], fallback, leap)
        state_B3 = state_B3.index_copy(0, item_A, state)
        steps_B = steps_B.index_fill(0, item_A, number + 1)
        if not moving.any():
            break
        fallback, best = em, torch.where(lost, best, likelihood)
        if not moving.all():
            item_A, z, powers, floor, radius, state, fallback, best = (
                kept[moving] for kept in (item_A, z, powers, floor, radius, state, fallback, best)
            )
    weights_B2, means_B2, variances_B2 = _parameters(state_B3, floor_B1)
    return weights_B2, centre_B1 + scale_B1 * means_B2, scale_B1.square() * variances_B2, steps_B


def _two_means(moments_B3K: Tensor) -> Tensor:
    """State [B, 3] of the split of the histogram with the largest variance between its two sides."""
    below_B3K = moments_B3K.cumsum(2)
    mass_BK, first_BK = below_B3K[:, 0, :-1], below_B3K[:, 1, :-1]
    share_BK = mass_BK * (1 - mass_BK)
    between_BK = torch.where(share_BK > 1e-12, first_BK.square() / share_BK, 0.0)
    split_B = between_BK.argmax(1)
    return below_B3K[:, :, -1] - below_B3K.gather(2, split_B[:, None, None].expand(-1, 3, 1)).squeeze(2)


def _parameters(state_B3: Tensor, floor_B1: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Weights, means, variances [B, 2] of a state: the M step."""
    total_3 = torch.tensor([1.0, 0.0, 1.0], dtype=state_B3.dtype, device=state_B3.device)
    moments_B23 = torch.stack([total_3 - state_B3, state_B3], dim=1)
    weights_B2 = moments_B23[:, :, 0].clamp(1e-12, 1)
    means_B2 = moments_B23[:, :, 1] / weights_B2
    variances_B2 = moments_B23[:, :, 2] / weights_B2 - means_B2.square()
    return weights_B2, means_B2, torch.maximum(variances_B2, floor_B1)


def _em_step(
    parameters: tuple[Tensor, Tensor, Tensor], z_BK: Tensor, powers_B5K: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """(state after an EM step [B, 3], mean log-likelihood [B] of the parameters, responsibilities [B, K]).

    The log-likelihood is that of the standardised values, up to a constant.
    """
    weights_B2, means_B2, variances_B2 = parameters
    # log(pi_k N_k(z)) = g_k . T(z) up to a constant
    g1_B2 = means_B2 / variances_B2
    g0_B2 = (weights_B2 / variances_B2.sqrt()).log() - 0.5 * means_B2 * g1_B2
    g_B23 = torch.stack([g0_B2, g1_B2, -0.5 / variances_B2], dim=2)
    delta_B3 = g_B23[:, 1] - g_B23[:, 0]
    d_BK = (delta_B3[:, 2:] * z_BK + delta_B3[:, 1:2]) * z_BK + delta_B3[:, :1]
    r_BK = d_BK.sigmoid()
    likelihood_B = g_B23[:, 0, 0] + g_B23[:, 0, 2] - (powers_B5K[:, 0] * F.logsigmoid(-d_BK)).sum(1)
    return (powers_B5K[:, :3] * r_BK[:, None]).sum(2), likelihood_B, r_BK


def _newton_step(
    state_B3: Tensor,
    em_B3: Tensor,
    r_BK: Tensor,
    parameters: tuple[Tensor, Tensor, Tensor],
    powers_B5K: Tensor,
    floor_B1: Tensor,
    radius_B1: Tensor,
) -> tuple[Tensor, Tensor]:
    """(state after a Newton step [B, 3], shortened to the trust radius; whether it can be taken [B])."""
    _, _, variances_B2 = parameters
    w_B33 = (powers_B5K * (r_BK * (1 - r_BK))[:, None]).sum(2).unfold(1, 3, 1)
    h_BH3 = _hermite(parameters, floor_B1)
    c_B33, failed_B = torch.linalg.cholesky_ex(h_BH3.mT @ h_BH3)
    c_B33 = torch.where((failed_B == 0)[:, None, None], c_B33, torch.eye(3, dtype=c_B33.dtype, device=c_B33.device))
    rho_B3, basis_B33 = torch.linalg.eigh(c_B33.mT @ w_B33 @ c_B33)

    y_B31 = basis_B33.mT @ (c_B33.mT @ (em_B3 - state_B3)[:, :, None])
    y_B31 = y_B31 / (1 - rho_B3).abs().clamp(min=1e-8)[:, :, None]
    y_B31 = y_B31 * (radius_B1 / torch.maximum(y_B31.norm(dim=1), radius_B1))[:, :, None]
    newton_B3 = state_B3 + torch.linalg.solve_triangular(c_B33.mT, basis_B33 @ y_B31, upper=True).squeeze(2)
    reached_B2 = _parameters(newton_B3, floor_B1)[2]
    feasible_B = ((reached_B2 > floor_B1) | (variances_B2 <= floor_B1)).all(1) & (failed_B == 0)
    return newton_B3, feasible_B & (newton_B3[:, 0] > 1e-6) & (newton_B3[:, 0] < 1 - 1e-6)


def _hermite(parameters: tuple[Tensor, Tensor, Tensor], floor_B1: Tensor) -> Tensor:
    """H [B, 6, 3] with A = H' H.

    The moments of component k change with its natural parameters g_k by pi E[T T'] under its Gaussian, so A is the
    sum of the inverses over both components (what leaves one enters the other). The rows of H are the coefficients
    of the Gaussians' orthonormal polynomials; those of degree 2 are 0 for a variance that stays on its floor.
    """
    weights_B2, mu, variances_B2 = parameters
    zero, root = torch.zeros_like(mu), weights_B2.rsqrt()
    first = root * variances_B2.rsqrt()
    second = root / variances_B2 * 0.5**0.5 * (variances_B2 > floor_B1)
    rows = [root, zero, zero, -mu * first, first, zero, (mu.square() - variances_B2) * second, -2 * mu * second, second]
    return torch.stack(rows, dim=2).unflatten(2, (3, 3)).flatten(1, 2)
