"""How far a mask can be trusted, from signals that need no ground truth."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import numpy as np

BIAS = -4.5
WEIGHTS: dict[str, float] = {
    "agreement": 4.71,
    "heat_gap": 2.14,
    "stability": 1.39,
}
"""Fitted to the IoU of masks of miniature scenes by `tests/benchmarks/quality.py`; see docs/results/quality.json."""


@dataclass(frozen=True, kw_only=True)
class Signals:
    """What is known about a mask without ground truth.

    Attributes:
        agreement: Pearson correlation of the heatmap with M, -1..1.
        heat_gap: mean of the heatmap, scaled to 0..1, over M less that over the rest of M_pre, -1..1.
        stability: area of M cut a bit tighter over that of M cut a bit wider, 0..1.
    """

    agreement: float
    heat_gap: float
    stability: float

    @classmethod
    def measure(cls, mask: np.ndarray, region: np.ndarray, heatmap: np.ndarray, *, stability: float) -> Signals:
        """Signals of M.

        Args:
            mask, region: (f h, f w) bool, M and the pixels painted over.
            heatmap: (h, w), any scale.
        """
        return cls(
            agreement=_correlation(heatmap, mask),
            heat_gap=_gap(heatmap, mask, region),
            stability=stability,
        )


def _correlation(heatmap: np.ndarray, mask: np.ndarray) -> float:
    """Of the heatmap's cells with the fraction of each that the mask covers; 0 where either is constant."""
    (rows, columns), factor = heatmap.shape, len(mask) // len(heatmap)
    covered = mask.reshape(rows, factor, columns, factor).mean((1, 3)).ravel()
    shades = heatmap.astype(np.float64).ravel()
    if not covered.std() or not shades.std():
        return 0.0
    return float(np.corrcoef(shades, covered)[0, 1])


def _gap(heatmap: np.ndarray, mask: np.ndarray, region: np.ndarray) -> float:
    """Mean heat inside the mask less that in the rest of the region; 0 where one of them is empty."""
    factor, rest = len(mask) // len(heatmap), region & ~mask
    if not mask.any() or not rest.any():
        return 0.0
    heat = heatmap.astype(np.float64)
    unit = ((heat - heat.min()) / max(np.ptp(heat), 1e-12)).repeat(factor, 0).repeat(factor, 1)
    return float(unit[mask].mean() - unit[rest].mean())


def quality_of(signals: Signals) -> float:
    """The IoU to be expected, 0..1: a logistic regression on the signals."""
    total = BIAS + math.fsum(WEIGHTS[name] * value for name, value in asdict(signals).items())
    return 1 / (1 + math.exp(-total))
