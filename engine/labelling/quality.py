"""How far a mask can be trusted, from signals that need no ground truth."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import numpy as np

BIAS = -5.55
WEIGHTS: dict[str, float] = {
    "agreement": 7.55,
    "stability": 0.58,
}
"""Fitted to the IoU of masks of miniature scenes by `tests/benchmarks/quality.py`; see docs/results/quality.json."""


@dataclass(frozen=True, kw_only=True)
class Signals:
    """What is known about a mask without ground truth.

    Attributes:
        agreement: Pearson correlation of M with the heatmap that it was cut with, weighed by A, -1..1.
        stability: area of M cut a bit tighter over that of M cut a bit wider, 0..1.
    """

    agreement: float
    stability: float

    @classmethod
    def measure(cls, mask: np.ndarray, heatmap: np.ndarray, *, stability: float) -> Signals:
        """Signals of M, (f h, f w) bool, and of a heatmap, (h, w) of any scale."""
        return cls(agreement=_correlation(heatmap, mask), stability=stability)


def _correlation(heatmap: np.ndarray, mask: np.ndarray) -> float:
    """Of the heatmap's cells with the fraction of each that the mask covers; 0 where either is constant."""
    (rows, columns), factor = heatmap.shape, len(mask) // len(heatmap)
    # Counted in integers, a row of pixels at a time.
    counts = mask.view(np.uint8).reshape(rows, factor, columns, factor).sum(1, dtype=np.uint16).sum(2)
    covered = counts.ravel() / factor**2
    shades = heatmap.astype(np.float64).ravel()
    if not covered.std() or not shades.std():
        return 0.0
    return float(np.corrcoef(shades, covered)[0, 1])


def quality_of(signals: Signals) -> float:
    """The IoU to be expected, 0..1: a logistic regression on the signals."""
    total = BIAS + math.fsum(WEIGHTS[name] * value for name, value in asdict(signals).items())
    return 1 / (1 + math.exp(-total))
