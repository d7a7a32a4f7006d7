"""What labelling says about one image."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from engine.labelling.quality import Signals
from engine.labelling.weaknesses import WEAKNESSES

BACKGROUND = "background"
"""Flag of a pure background: a sample in which nothing is masked, and rightly so."""
OBJECT_LIKELY = "object_likely"
"""Flag of a pure background that the model itself finds the concept in: its empty mask is not to be learned from."""
USELESS = frozenset({"one_mode", "empty", "full", "absent", OBJECT_LIKELY})
"""Flags of a mask that says nothing: its quality is 0, and nothing is learned from it."""
FLAGS = USELESS | {"touches_border", BACKGROUND, *WEAKNESSES}


def check_flags(names: Iterable[str]) -> None:
    """Raises ValueError for a name that is no flag."""
    if strange := sorted(set(names) - FLAGS):
        raise ValueError(f"{strange[0]!r} is no flag of a label; these are: {', '.join(sorted(FLAGS))}")


@dataclass(frozen=True, kw_only=True)
class Label:
    """The masks of one image and what is known about them.

    Attributes:
        heatmap: (h, w) uint8, latent size, min-max scaled per image.
        preliminary_mask: (h, w) bool, latent size.
        mask: (H, W) bool, the image's own size.
        bbox: x, y, w, h in pixels; zeros if the mask is empty.
        area: fraction of the image, 0-1.
        separation: of the heatmap's mixture, 0-1.
        refined_separation: of the difference's mixture, 0-1; NaN when not refined.
        presence: score of the concept's being there at all; NaN when not asked for.
        quality: 0-1.
        advantage: (h, w) uint8, latent size: how much better the prompt explains a place than others do, 128 + 512 A,
            clipped (see `engine.labelling.attend`); None when not asked for.
        flags: short stable words.
        concept: whose masks they are, where a labeller finds several; "" where it has only one.
        signals: what the quality was computed from; None when not refined.
        background: (H, W, 3) uint8, the image with background painted over the object; None unless asked for, and
            where nothing was painted.
    """

    heatmap: np.ndarray
    preliminary_mask: np.ndarray
    mask: np.ndarray
    bbox: tuple[int, int, int, int]
    area: float
    separation: float
    refined_separation: float
    presence: float
    quality: float
    advantage: np.ndarray | None = None
    flags: list[str] = field(default_factory=list)
    concept: str = ""
    signals: Signals | None = None
    background: np.ndarray | None = None
