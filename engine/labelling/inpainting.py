"""x̂: the image with background where M_pre is (paper, Sec. 3.2, Eq. 6).

z̃0 = z0 ⊙ (1 − M_pre) + z ⊙ M_pre,   x̂ = decode(m′(z̃0, y_b))

Shapes: B images, C latent channels, h × w latent cells, H × W pixels of the model's canvas, R inpaintings of an image.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from engine.diffusion.model import LatentDiffusion
from engine.diffusion.noise import draw_noise
from engine.diffusion.sampling import Known, guide, sample
from engine.labelling.spec import LabelSpec

STAGE = "refined"


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

    Raises:
        FloatingPointError: what the model yields are no numbers.
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
        pixels = model.decode(painted).float()
        if not pixels.isfinite().all():
            raise FloatingPointError(
                f"the model paints no background of finite numbers with guidance {settings.guidance:g}"
            )
        images.append(pixels.clamp(-1, 1))
    return torch.cat(images).unflatten(0, (len(z0), count))


def grow(mask: Tensor, cells: int) -> Tensor:
    """Dilation of masks [B, h, w] by a square of 2 × cells + 1."""
    return F.max_pool2d(mask[:, None].float(), 2 * cells + 1, stride=1, padding=cells)[:, 0] > 0
