"""One look at the images through m: the mean attention map M̂ (paper, Eq. 4), and whether the concept is there at all.

M̂ = mean over the T0 lowest of T sampler timesteps, N draws, all cross-attention layers and heads, of the attention to
the concept's tokens, each z_t drawn from z0 directly. No z_t depends on another, so timesteps and images share batches.

The same passes predict the noise under y_f. Where the concept is, y_f explains z_t better than y_b does, and better
than no words at all: against y_b alone any object would pass for the concept. So at some of the timesteps the noise is
predicted under y_b and under the empty prompt, too. The presence score is by how much the error falls where M̂ looks,

    E(y) = Σ_t Σ_cells M̂ ‖ε − ε(z_t, y)‖² / mean ‖ε − ε(z_t, y_b)‖²,    p = 1 − E(y_f) / min(E(y_b), E("")),

with M̂ scaled to 0..1 within each image.

Shapes: B images, R = T0 N reverse steps per image, C latent channels, h × w latent cells.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from engine.diffusion.attention import AttentionCapture
from engine.diffusion.model import LatentDiffusion
from engine.diffusion.noise import add_noise, draw_noise
from engine.diffusion.prompt import ConceptPrompt
from engine.diffusion.sampling import predict_noise
from engine.labelling.spec import LabelSpec

STAGE = "preliminary"


@dataclass(frozen=True, kw_only=True)
class Attention:
    """What the look found.

    Attributes:
        maps: [B, concepts, h, w] float32 in 0..1, M̂; with `per_timestep` [B, T0, concepts, h, w], lowest noise first.
        presence: [B] float32, p; NaN if it was not asked for.
    """

    maps: Tensor
    presence: Tensor


@torch.no_grad()
def attend(
    model: LatentDiffusion,
    z0: Tensor,
    keys: list[str],
    prompt: ConceptPrompt,
    spec: LabelSpec,
    *,
    valid: Tensor | None = None,
    batch_size: int = 64,
    per_timestep: bool = False,
) -> Attention:
    """M̂ of each image for each concept of the prompt, and the presence of what the prompt says.

    Args:
        z0: [B, C, h, w] scaled latents.
        keys: of the samples; their noise derives from (seed, key, stage).
        valid: [B, h, w] bool, the cells that belong to the images; None means all.
        batch_size: latents per forward pass of the U-Net; does not change the result beyond rounding.
        per_timestep: keep the timesteps apart, for studies.
    """
    images, (rows, columns) = len(z0), z0.shape[-2:]
    timesteps = torch.tensor(model.sampler_timesteps(spec.timesteps)[: spec.attention_steps])
    alpha_bar = model.scheduler.alphas_cumprod[timesteps]
    draws = spec.draws
    foreground, *others = model.encode_text([prompt.text, spec.background_prompt, ""]).split(1)
    steps = len(timesteps)
    noise_BR = torch.stack([draw_noise(spec.seed, key, STAGE, (steps * draws, *z0.shape[1:])) for key in keys])
    image_of = torch.arange(images).repeat_interleave(steps * draws)
    step_of = torch.arange(steps).repeat_interleave(draws).repeat(images)
    noise = noise_BR.flatten(0, 1)
    asked = torch.zeros(steps, dtype=torch.bool)
    asked[torch.linspace(0, steps - 1, min(spec.presence_steps, steps)).round().long()] = True
    counted = torch.ones(images, rows, columns, device=z0.device) if valid is None else valid.to(z0.device).float()

    sums = torch.zeros(images * steps, len(prompt.concepts), rows, columns, device=z0.device)
    errors = torch.zeros(1 + len(others), images, rows, columns, device=z0.device)
    with AttentionCapture(model.unet, prompt.selector) as capture:
        for chunk in torch.arange(len(noise)).split(batch_size):
            image, step = image_of[chunk], step_of[chunk]
            epsilon, t = noise[chunk].to(z0.device), timesteps[step].to(z0.device)
            zt = add_noise(z0[image.to(z0.device)].float(), epsilon, alpha_bar[step])
            predicted = predict_noise(model, zt, t, foreground.expand(len(zt), -1, -1))
            sums.index_add_(0, (image * steps + step).to(z0.device), capture.read(rows, columns))
            both = asked[step].to(z0.device)
            if both.any():
                owner = image.to(z0.device)[both]
                guesses = [predicted[both]]
                for context in others:
                    guesses.append(predict_noise(model, zt[both], t[both], context.expand(len(owner), -1, -1)))
                    capture.read(rows, columns)  # of no interest
                error = (torch.stack(guesses) - epsilon[both]).square().mean(2) * counted[owner]
                errors.index_add_(1, owner, error / error[1].mean((1, 2))[:, None, None])
    maps = sums.unflatten(0, (images, steps)) / draws
    explained = (errors * _unit_range(maps.mean((1, 2)), counted)).sum((2, 3))
    return Attention(maps=maps if per_timestep else maps.mean(1), presence=1 - explained[0] / explained[1:].amin(0))


def _unit_range(map_Bhw: Tensor, counted: Tensor) -> Tensor:
    """Each map scaled to 0..1 over the cells that count, 0 elsewhere."""
    low = map_Bhw.masked_fill(counted == 0, torch.inf).amin((1, 2), keepdim=True)
    above = (map_Bhw - low) * counted
    return above / above.amax((1, 2), keepdim=True).clamp(min=torch.finfo(above.dtype).tiny)
