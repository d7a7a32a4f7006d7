"""The refined mask M: what changes when m′ paints background over M_pre (paper, Sec. 3.2, Eq. 5).

M = M_pre,up ⊙ g(M̂ᵞ ⊙ mean over channels |x − x̂|)

with M̂ scaled to 0..1 within each image; at γ = 0 that is the paper's. M_pre covers clutter beside the object, which
goes when m′ paints, as the object does; it is where M̂ is lower. Then what g finds is smoothed along the image's own
edges, and tidied up.

Shapes: B images, h × w latent cells, H × W pixels of the model's canvas (f cells each).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from torch import Tensor

from engine.labelling.components import count_components
from engine.labelling.heatmap import enlarge, enlarge_smoothly
from engine.labelling.mixture import Mixture, fit_mixture
from engine.labelling.morphology import smooth, tidy
from engine.labelling.spec import RefinementSpec


@dataclass(frozen=True, kw_only=True)
class Refined:
    """M of a batch and what it was cut from.

    Attributes:
        mask: [B, H, W] bool.
        evidence: [B, H, W] float32, g's input.
        region: [B, H, W] bool, the pixels painted over.
        mixture: of the evidence.
        clusters: [B] int64, 1 to 3: how many contrasts the differences within M_pre have.
    """

    mask: Tensor
    evidence: Tensor
    region: Tensor
    mixture: Mixture
    clusters: Tensor

    def contrast(self, item: int) -> float:
        """Distance between the evidence's two means, 0..1."""
        low, high = self.mixture.means[item].tolist()
        return max(0.0, high - low) if math.isfinite(high - low) else 0.0

    def cpu(self) -> Refined:
        """The same in host memory."""
        mixture = Mixture(**{f.name: getattr(self.mixture, f.name).cpu() for f in fields(self.mixture)})
        moved = {name: getattr(self, name).cpu() for name in ("mask", "evidence", "region", "clusters")}
        return Refined(mixture=mixture, **moved)


def refine(
    images: Tensor, apart: Tensor, heatmap: Tensor, preliminary: Tensor, valid: Tensor, settings: RefinementSpec
) -> Refined:
    """M of differences: g on the pixels that count, within M_pre, then what the settings ask for.

    Args:
        images: [B, 3, H, W] in [-1, 1].
        apart: [B, H, W] differences.
        heatmap: [B, h, w], M̂, any scale.
        preliminary, valid: [B, h, w] bool: M_pre (dilated if so set) and the cells that belong to the image.
    """
    factor = apart.shape[-1] // valid.shape[-1]
    inside = enlarge(valid, factor)
    region = enlarge(preliminary, factor) & inside
    counted = region if settings.fit == "region" else inside
    heat = enlarge_smoothly(heatmap, valid, factor)
    evidence = apart * heat**settings.heatmap_power if settings.heatmap_power else apart
    mixture = fit_mixture(evidence, counted, rule=settings.refined_mixture_rule)
    mask = (evidence > mixture.threshold[:, None, None]) & region
    for i in range(len(mask)):  # each in its own shape
        height, width = int(inside[i, :, 0].sum()), int(inside[i, 0].sum())
        own = (i, slice(height), slice(width))
        if settings.smoothing and mask[i].any():
            step = 2 / (mixture.means[i, 1] - mixture.means[i, 0])
            likely = ((evidence[own] - mixture.threshold[i]) * step).sigmoid().float() * region[own]
            mask[own] = (smooth(images[i, :, :height, :width], likely, settings.smoothing) > 0.5) & region[own]
        mask[own] = tidy(mask[own], heat[own], settings) & region[own]
    clusters = count_components(apart, region)
    return Refined(mask=mask, evidence=evidence, region=region, mixture=mixture, clusters=clusters)
