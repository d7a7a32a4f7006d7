"""The refined mask M: what changes when m′ paints background over M_pre (paper, Sec. 3.2, Eq. 5).

M = M_pre,up ⊙ g(M̂ᵞ ⊙ dᵟ),    d = mean over channels |x − x̂|, or the distance in CIELAB

with M̂ scaled to 0..1 within each image; at γ = 0 and δ = 1 that is the paper's. M_pre covers clutter beside the object,
which goes when m′ paints, as the object does; it is where M̂ is lower. g cuts between two clusters: of a person whose
shirt is unlike anything, at δ = 1 it would take the shirt for one, the legs and the ground for the other. Then what
g finds is smoothed along the image's own edges, and tidied up.

Shapes: B images, h × w latent cells, H × W pixels of the model's canvas (f cells each).
"""

from __future__ import annotations

from dataclasses import dataclass, fields

from torch import Tensor

from engine.labelling.components import count_components
from engine.labelling.for_each import ForEach
from engine.labelling.heatmap import enlarge, enlarge_smoothly
from engine.labelling.mixture import Mixture, fit_mixture
from engine.labelling.morphology import smooth, tidy
from engine.labelling.spec import RefinementSpec

MARGIN = 0.1
"""How much tighter or wider a mask is cut, in probability, to see how much of it depends on that."""
WARM = 0.3
"""M̂, of 1, above which what changed may belong to the object."""


@dataclass(frozen=True, kw_only=True)
class Refined:
    """M of a batch and what it was cut from.

    Attributes:
        mask: [B, H, W] bool.
        evidence: [B, H, W] float32, g's input.
        region: [B, H, W] bool, the pixels painted over.
        mixture: of the evidence.
        contrast: [B], by how much the pixels of M differ more from what was painted than the others do, 0..1.
        clusters: [B] int64, 1 to 3: how many contrasts the differences within M_pre have.
        stability: [B], area of M if it were cut a bit tighter over that if it were cut a bit wider, 0..1.
        missed: [B], share of the differences where M̂ is warm that M leaves out, 0..1.
    """

    mask: Tensor
    evidence: Tensor
    region: Tensor
    mixture: Mixture
    contrast: Tensor
    clusters: Tensor
    stability: Tensor
    missed: Tensor

    def cpu(self) -> Refined:
        """The same in host memory."""
        mixture = Mixture(**{f.name: getattr(self.mixture, f.name).cpu() for f in fields(self.mixture)})
        moved = {f.name: getattr(self, f.name).cpu() for f in fields(self) if f.name != "mixture"}
        return Refined(mixture=mixture, **moved)


def weigh_difference(apart: Tensor, heat: Tensor, settings: RefinementSpec) -> Tensor:
    """g's input, M̂ᵞ ⊙ dᵟ: [B, H, W] of differences d and of M̂ in 0..1, both [B, H, W]."""
    evidence = apart**settings.difference_power
    return evidence * heat**settings.heatmap_power if settings.heatmap_power else evidence


def refine(
    images: Tensor,
    apart: Tensor,
    heatmap: Tensor,
    preliminary: Tensor,
    valid: Tensor,
    settings: RefinementSpec,
    *,
    for_each: ForEach = map,
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
    evidence = weigh_difference(apart, heat, settings)
    mixture = fit_mixture(evidence, counted, rule=settings.refined_mixture_rule)
    mask = (evidence > mixture.threshold[:, None, None]) & region
    stability, missed = evidence.new_zeros(2, len(mask))
    sides = zip(inside[:, :, 0].sum(1).tolist(), inside[:, 0].sum(1).tolist(), strict=True)
    shapes = [(i, slice(height), slice(width)) for i, (height, width) in enumerate(sides)]  # each in its own
    for own in shapes:
        i, rows, columns = own
        if mask[i].any():
            step = 2 / (mixture.means[i, 1] - mixture.means[i, 0])
            likely = ((evidence[own] - mixture.threshold[i]) * step).sigmoid().float() * region[own]
            if settings.smoothing:
                likely = smooth(images[i, :, rows, columns], likely, settings.smoothing)
                mask[own] = (likely > 0.5) & region[own]
            wide, tight = (((likely > p) & region[own]).sum() for p in (0.5 - MARGIN, 0.5 + MARGIN))
            stability[i] = tight / wide.clamp(min=1)
    cut, heated = mask.cpu(), heat.cpu()
    tidied = list(for_each(lambda own: tidy(cut[own], heated[own], settings), shapes))
    for i, own in enumerate(shapes):
        mask[own] = tidied[i].to(mask.device) & region[own]
        warm = apart[own] * (heat[own] > WARM)
        missed[i] = (warm * ~mask[own]).sum() / warm.sum().clamp(min=1e-6)
    return Refined(
        mask=mask,
        evidence=evidence,
        region=region,
        mixture=mixture,
        contrast=_contrast(apart, mask, inside),
        clusters=count_components(apart, region),
        stability=stability,
        missed=missed,
    )


def _contrast(apart: Tensor, mask: Tensor, inside: Tensor) -> Tensor:
    """Mean difference within M less that of the image's other pixels: [B]; 0 where either has no pixel."""
    rest = inside & ~mask
    within, beyond = ((apart * part).sum((1, 2)) / part.sum((1, 2)).clamp(min=1) for part in (mask, rest))
    return (within - beyond).clamp(min=0) * (mask.any(2).any(1) & rest.any(2).any(1))
