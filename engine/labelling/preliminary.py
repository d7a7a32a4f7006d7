"""The preliminary mask M_pre: a mixture on the mean attention map, then orphan cells removed (paper, Sec. 3.1)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from engine.labelling.mixture import Mixture, fit_mixture, heatmap_to_mask, remove_orphans
from engine.labelling.spec import MixtureRule


@dataclass(frozen=True, kw_only=True)
class Preliminary:
    """M_pre of a batch: mask [B, h, w] bool, and the mixture it was cut with."""

    mask: Tensor
    mixture: Mixture


def heatmap_to_preliminary(heatmap: Tensor, valid: Tensor, *, rule: MixtureRule) -> Preliminary:
    """Cut M̂ ([B, h, w], with the cells that belong to the images in `valid`) into foreground and background."""
    mixture = fit_mixture(heatmap, valid, rule=rule)
    mask = remove_orphans(heatmap_to_mask(heatmap, valid, mixture), valid)
    return Preliminary(mask=mask, mixture=mixture)


def mask_flags(mask: np.ndarray, *, one_mode: bool) -> list[str]:
    """What is remarkable about one mask ((H, W) bool, the image's own size).

    one_mode: the mixture found no two modes; empty, full: no or all pixels; touches_border: reaches the image's edge.
    """
    flags = ["one_mode"] if one_mode else []
    if not mask.any():
        return [*flags, "empty"]
    if mask.all():
        return [*flags, "full"]
    border = mask[0].any() or mask[-1].any() or mask[:, 0].any() or mask[:, -1].any()
    return [*flags, "touches_border"] if border else flags
