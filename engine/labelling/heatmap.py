"""The mean attention map M̂ (paper, Eq. 4).

M̂ = mean over the T0 lowest of T sampler timesteps, N draws, all cross-attention layers and heads, of the attention to
the concept's tokens, each z_t drawn from z0 directly. No z_t depends on another, so timesteps and images share batches.

Shapes: B images, R = T0 N reverse steps per image, C latent channels, h × w latent cells.
"""

from __future__ import annotations

import torch
from torch import Tensor

from engine.diffusion.attention import AttentionCapture
from engine.diffusion.model import LatentDiffusion
from engine.diffusion.noise import add_noise, draw_noise
from engine.diffusion.prompt import ConceptPrompt
from engine.labelling.spec import LabelSpec

STAGE = "preliminary"


@torch.no_grad()
def mean_attention(
    model: LatentDiffusion,
    z0: Tensor,
    keys: list[str],
    prompt: ConceptPrompt,
    spec: LabelSpec,
    *,
    batch_size: int = 64,
    per_timestep: bool = False,
) -> Tensor:
    """M̂ of each image for each concept of the prompt.

    Args:
        z0: [B, C, h, w] scaled latents.
        keys: of the samples; their noise derives from (seed, key, stage).
        batch_size: latents per forward pass of the U-Net; does not change the result beyond rounding.
        per_timestep: keep the timesteps apart, for studies.

    Returns:
        [B, concepts, h, w] float32 in 0..1; with per_timestep [B, T0, concepts, h, w], lowest noise first.
    """
    images, (rows, columns) = len(z0), z0.shape[-2:]
    timesteps = torch.tensor(model.sampler_timesteps(spec.timesteps)[: spec.attention_steps])
    alpha_bar = model.scheduler.alphas_cumprod[timesteps]
    draws = spec.draws
    context = model.encode_text([prompt.text])
    steps = len(timesteps)
    noise_BR = torch.stack([draw_noise(spec.seed, key, STAGE, (steps * draws, *z0.shape[1:])) for key in keys])
    image_of = torch.arange(images).repeat_interleave(steps * draws)
    step_of = torch.arange(steps).repeat_interleave(draws).repeat(images)
    noise = noise_BR.flatten(0, 1)

    sums = torch.zeros(images * steps, len(prompt.concepts), rows, columns, device=z0.device)
    with AttentionCapture(model.unet, prompt.selector) as capture:
        for chunk in torch.arange(len(noise)).split(batch_size):
            image, step = image_of[chunk], step_of[chunk]
            zt = add_noise(z0[image.to(z0.device)], noise[chunk].to(z0), alpha_bar[step])
            t = timesteps[step].to(z0.device)
            model.unet(zt, t, context.expand(len(zt), -1, -1))
            sums.index_add_(0, (image * steps + step).to(z0.device), capture.read(rows, columns))
    maps = sums.unflatten(0, (images, steps)) / draws
    return maps if per_timestep else maps.mean(1)
