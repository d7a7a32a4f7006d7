"""Samplers as pure functions of (model, z_T, context, steps). Symbols as in Song et al. 2021 (DDIM): z_t, ᾱ_t, ε."""

from __future__ import annotations

import torch
from torch import Tensor

from engine.diffusion.model import LatentDiffusion


def predict_noise(model: LatentDiffusion, zt: Tensor, t: Tensor, context: Tensor) -> Tensor:
    """ε(z_t) of the U-Net, whatever it was trained to predict.

    Args:
        zt: [B, C, h, w]; t: [B] int64; context: [B, tokens, width].

    With velocity prediction v = √ᾱ ε - √(1-ᾱ) z0, hence ε = √ᾱ v + √(1-ᾱ) z_t.
    """
    prediction = model.unet(zt, t, context).sample
    if model.scheduler.config.prediction_type == "epsilon":
        return prediction
    alpha_bar = model.scheduler.alphas_cumprod.to(zt.device)[t].to(zt)[:, None, None, None]
    return alpha_bar.sqrt() * prediction + (1 - alpha_bar).sqrt() * zt


@torch.no_grad()
def sample_ddim(model: LatentDiffusion, z_T: Tensor, context: Tensor, steps: int) -> Tensor:
    """Deterministic DDIM (η = 0) from pure noise z_T [B, C, h, w] down to z0, in `steps` steps."""
    timesteps = model.sampler_timesteps(steps)[::-1]
    alphas = model.scheduler.alphas_cumprod.to(z_T.device)
    zt = z_T
    for index, t in enumerate(timesteps):
        alpha = alphas[t]
        previous = alphas[timesteps[index + 1]] if index + 1 < len(timesteps) else torch.ones_like(alpha)
        epsilon = predict_noise(model, zt, torch.full((len(zt),), t, device=zt.device), context)
        z0 = (zt - (1 - alpha).sqrt() * epsilon) / alpha.sqrt()
        zt = previous.sqrt() * z0 + (1 - previous).sqrt() * epsilon
    return zt
