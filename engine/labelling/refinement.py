"""The refined mask M: what changes when m′ paints background over M_pre (paper, Sec. 3.2, Eq. 5 and 6).

z̃0 = z0 ⊙ (1 − M_pre) + z ⊙ M_pre,   x̂ = decode(m′(z̃0, y_b)),   M = M_pre,up ⊙ g(mean over channels |x − x̂|)

Shapes: B images, C latent channels, h × w latent cells, H × W pixels of the model's canvas (f cells each),
R inpaintings of an image.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F

from engine.diffusion.model import LatentDiffusion
from engine.diffusion.noise import draw_noise
from engine.diffusion.sampling import Known, guide, sample
from engine.labelling.components import count_components
from engine.labelling.mixture import Mixture, fit_mixture
from engine.labelling.spec import LabelSpec, RefinementSpec

STAGE = "refined"
DECODED_AT_ONCE = 8
"""Images per call of the decoder, which needs gigabytes for each at 512 pixels."""


@dataclass(frozen=True, kw_only=True)
class Refined:
    """M of a batch and what it was cut from.

    Attributes:
        mask: [B, H, W] bool.
        difference: [B, H, W] float32, g's input.
        region: [B, H, W] bool, the pixels painted over.
        mixture: of the difference.
        clusters: [B] int64, 1 to 3: how many contrasts the difference has.
    """

    mask: Tensor
    difference: Tensor
    region: Tensor
    mixture: Mixture
    clusters: Tensor

    def contrast(self, item: int) -> float:
        """Distance between the difference's two means, 0..1."""
        low, high = self.mixture.means[item].tolist()
        return max(0.0, high - low) if math.isfinite(high - low) else 0.0

    def cpu(self) -> Refined:
        """The same in host memory."""
        mixture = Mixture(**{f.name: getattr(self.mixture, f.name).cpu() for f in fields(self.mixture)})
        moved = {name: getattr(self, name).cpu() for name in ("mask", "difference", "region", "clusters")}
        return Refined(mixture=mixture, **moved)


@torch.no_grad()
def remove_object(
    model: LatentDiffusion, z0: Tensor, region: Tensor, keys: list[str], spec: LabelSpec, *, batch_size: int = 64
) -> Tensor:
    """x̂: each image with background in its region, as often as the spec says (Eq. 6).

    Args:
        model: m′.
        z0: [B, C, h, w] scaled latents; region: [B, h, w] bool.
        keys: of the samples; their noise derives from (seed, key, stage).
        batch_size: latents per call of the sampler.

    Returns:
        [B, R, 3, H, W] float32 in [-1, 1].
    """
    count = spec.refinement.inpaintings
    shape = (count, 2, *z0.shape[1:])  # z, and the noise of what is known
    noise = torch.stack([draw_noise(spec.seed, key, STAGE, shape) for key in keys]).flatten(0, 1).to(z0.device)
    z0_R, region_R = z0.float().repeat_interleave(count, 0), region.repeat_interleave(count, 0)
    foreground, background = model.encode_text([spec.prompt, spec.background_prompt]).split(1)
    predict = guide(model, foreground, background, spec.refinement.guidance)
    images = []
    for chunk in torch.arange(len(z0_R), device=z0.device).split(batch_size):
        known = Known(z0=z0_R[chunk], region=region_R[chunk], noise=noise[chunk, 1])
        settings = spec.refinement
        painted = sample(model, noise[chunk, 0], predict, settings.inpaint_steps, solver=settings.solver, known=known)
        images += [model.decode(part).float().clamp(-1, 1) for part in painted.split(DECODED_AT_ONCE)]
    return torch.cat(images).unflatten(0, (len(z0), count))


def difference(image: Tensor, inpainted: Tensor, settings: RefinementSpec) -> Tensor:
    """How far each pixel is from its inpaintings: [B, H, W] float32 in 0..1 (or about that, for CIELAB).

    Args:
        image: [B, 3, H, W] in [-1, 1]; inpainted: [B, R, 3, H, W].
    """
    if settings.colour == "lab":
        apart = (to_lab(image)[:, None] - to_lab(inpainted)).norm(dim=2) / 100
    else:
        apart = (image[:, None] - inpainted).abs().mean(2) / 2
    if settings.combine == "mean":
        return apart.mean(1)
    if settings.combine == "minimum":
        return apart.amin(1)
    ordered = apart.sort(dim=1).values
    middle = (apart.shape[1] - 1) / 2
    return (ordered[:, math.floor(middle)] + ordered[:, math.ceil(middle)]) / 2


def cut_difference(apart: Tensor, preliminary: Tensor, valid: Tensor, settings: RefinementSpec) -> Refined:
    """M of differences: g on the pixels that count, within M_pre (Eq. 5), then the morphology asked for.

    Args:
        apart: [B, H, W] differences.
        preliminary, valid: [B, h, w] bool: M_pre (dilated if so set) and the cells that belong to the image.
    """
    factor = apart.shape[-1] // valid.shape[-1]
    region, inside = enlarge(preliminary, factor), enlarge(valid, factor)
    counted = region & inside if settings.fit == "region" else inside
    mixture = fit_mixture(apart, counted)
    clusters, lowest_ends = count_components(apart, counted)
    threshold = torch.where((clusters == 3) & (lowest_ends < mixture.threshold), lowest_ends, mixture.threshold)
    mask = (apart > threshold[:, None, None]) & region & inside
    if settings.closing or settings.fill_holes:
        closed = [_close(m, i, settings) for m, i in zip(mask.cpu(), inside.cpu(), strict=True)]
        mask = torch.stack(closed).to(mask.device)
    return Refined(mask=mask, difference=apart, region=region & inside, mixture=mixture, clusters=clusters)


def grow(mask: Tensor, cells: int) -> Tensor:
    """Dilation of masks [B, h, w] by a square of 2 × cells + 1."""
    return F.max_pool2d(mask[:, None].float(), 2 * cells + 1, stride=1, padding=cells)[:, 0] > 0


def enlarge(mask: Tensor, factor: int) -> Tensor:
    """Masks of cells [B, h, w] as masks of pixels [B, f h, f w]."""
    return mask.repeat_interleave(factor, 1).repeat_interleave(factor, 2)


def to_lab(image: Tensor) -> Tensor:
    """sRGB [..., 3, H, W] in [-1, 1] to CIELAB of the D65 white: L in 0..100, a and b in about -110..110."""
    rgb = (image + 1) / 2
    linear = torch.where(rgb > 0.04045, ((rgb.clamp(min=0) + 0.055) / 1.055) ** 2.4, rgb / 12.92)
    to_xyz = image.new_tensor(  # IEC 61966-2-1, rows divided by the white point
        [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    ) / image.new_tensor([[0.9505], [1.0], [1.089]])
    xyz = torch.einsum("ij,...jhw->...ihw", to_xyz, linear)
    delta = 6 / 29
    f = torch.where(xyz > delta**3, xyz.clamp(min=1e-8) ** (1 / 3), xyz / (3 * delta**2) + 4 / 29)
    x, y, z = f.unbind(-3)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], dim=-3)


def _close(mask: Tensor, inside: Tensor, settings: RefinementSpec) -> Tensor:
    """Closing and hole filling of one mask, within the pixels of its image (the upper left of the canvas)."""
    height, width = int(inside[:, 0].sum()), int(inside[0].sum())
    closed = mask[:height, :width].numpy()
    if radius := settings.closing:
        span = np.arange(-radius, radius + 1)
        disc = span[:, None] ** 2 + span**2 <= radius**2
        # Beyond the border lies neither object nor background: repeat what is at it.
        padded = np.pad(closed, radius, mode="edge")
        closed = ndimage.binary_closing(padded, disc)[radius:-radius, radius:-radius]
    if settings.fill_holes:
        closed = ndimage.binary_fill_holes(closed)
    whole = torch.zeros_like(mask)
    whole[:height, :width] = torch.from_numpy(closed.copy())
    return whole
