"""How far a mask can be trusted, from signals that need no ground truth."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import numpy as np
from scipy import ndimage

BIAS = 0.0
WEIGHTS: dict[str, float] = {
    "separation": 1.0,
    "refined_separation": 1.0,
    "kept": 1.0,
    "contrast": 1.0,
    "compactness": 1.0,
    "border": -1.0,
    "presence": 1.0,
}
"""Set by hand, every signal alike: they rank nothing that has been measured, and are no calibration."""


@dataclass(frozen=True, kw_only=True)
class Signals:
    """What is known about a mask without ground truth; all but the presence in 0..1.

    Attributes:
        separation, refined_separation: of the mixtures of the heatmap and of the difference.
        kept: area of M over that of M_pre: a good M_pre overestimates, but not beyond measure.
        contrast: distance of the difference's two means.
        compactness: fraction of M in its largest connected piece.
        border: fraction of the image's border that M touches.
        presence: score of the concept; 0 where it was not asked for.
    """

    separation: float
    refined_separation: float
    kept: float
    contrast: float
    compactness: float
    border: float
    presence: float

    @classmethod
    def measure(
        cls,
        mask: np.ndarray,
        region: np.ndarray,
        *,
        separation: float,
        refined_separation: float,
        contrast: float,
        presence: float,
    ) -> Signals:
        """Signals of M and of the pixels painted over, both (H, W) bool."""
        pieces, count = ndimage.label(mask)
        largest = np.bincount(pieces.ravel())[1:].max() if count else 0
        border = np.concatenate([mask[0], mask[-1], mask[:, 0], mask[:, -1]])
        return cls(
            separation=separation,
            refined_separation=refined_separation,
            kept=float(mask.sum() / max(region.sum(), 1)),
            contrast=contrast,
            compactness=float(largest / max(mask.sum(), 1)),
            border=float(border.mean()),
            presence=0.0 if math.isnan(presence) else presence,
        )


def quality_of(signals: Signals) -> float:
    """0..1, higher where more of the signals speak for the mask; not calibrated against IoU."""
    total = BIAS + math.fsum(WEIGHTS[name] * value for name, value in asdict(signals).items())
    return 1 / (1 + math.exp(-total))
