"""Backgrounds painted once more for the report: labels do not hold them."""

from __future__ import annotations

import numpy as np

from engine.report.report import Painter
from engine.run.origin import find_origin


def make_painter(
    run: str,
    *,
    concept: str | None = None,
    model: str | None = None,
    revision: str | None = None,
    adapter: str | None = None,
    device: str = "cpu",
) -> Painter:
    """What paints as the run painted, with its model, in its precision, and with its noise.

    Args:
        concept: of a run of several, the one that is painted over.
        model, revision, adapter: where these lie now, if elsewhere than when the run started.

    Raises:
        ValueError: no run of a diffusion model, or a model that cannot be used.
    """
    origin = find_origin(run, concept=concept, model=model, revision=revision, adapter=adapter)
    labeller = origin.build_labeller(device=device)

    def paint(image: np.ndarray, key: str) -> np.ndarray | None:
        (label,) = labeller([image], [key], stage="refined")
        return label.background

    return paint
