"""How far a mask can be trusted, from signals that need no ground truth."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import numpy as np
from scipy import ndimage

BIAS = -5.51
WEIGHTS: dict[str, float] = {
    "kept": 0.76,
    "contrast": 0.4,
    "compactness": 2.29,
    "agreement": 4.57,
    "heat_gap": 1.29,
}
"""Fitted to the IoU of masks of miniature scenes by `tests/benchmarks/quality.py`; see docs/results/quality.json."""


@dataclass(frozen=True, kw_only=True)
class Signals:
    """What is known about a mask without ground truth.

    Attributes:
        kept: area of M over that of M_pre, 0..1: little of it means that M_pre covered something else.
        contrast: distance of the difference's two means, about 0..1.
        compactness: fraction of M in its largest connected piece, 0..1.
        agreement: Pearson correlation of the heatmap with M, -1..1.
        heat_gap: mean of the heatmap, scaled to 0..1, over M less that over the rest of M_pre, -1..1.
    """

    kept: float
    contrast: float
    compactness: float
    agreement: float
    heat_gap: float

    @classmethod
    def measure(
        cls,
        mask: np.ndarray,
        region: np.ndarray,
        heatmap: np.ndarray,
        *,
        contrast: float,
    ) -> Signals:
        """Signals of M.

        Args:
            mask, region: (f h, f w) bool, M and the pixels painted over.
            heatmap: (h, w), any scale.
        """
        pieces, count = ndimage.label(mask)
        largest = np.bincount(pieces.ravel())[1:].max() if count else 0
        return cls(
            kept=float(mask.sum() / max(region.sum(), 1)),
            contrast=contrast,
            compactness=float(largest / max(mask.sum(), 1)),
            agreement=_correlation(heatmap, mask),
            heat_gap=_gap(heatmap, mask, region),
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
