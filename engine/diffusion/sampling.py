"""Samplers as pure functions: from noise to a latent, from noise and a known surrounding to a latent.

Symbols: z_t, ᾱ_t, ε as in Song et al. 2021 (DDIM). y_f and y_b are the contexts of object and background, w the
guidance between them: ε̃ = w ε(z_t, y_f) − (w − 1) ε(z_t, y_b). w = 1 follows y_f alone, w = 0 follows y_b alone,
w < 0 pushes away from the object, w > 1 away from the background. A model with velocity prediction yields
v = √ᾱ ε − √(1−ᾱ) z0 instead of ε, and is guided in v, which comes to the same; where ᾱ = 0, only v tells z0.

Shapes: B images, C latent channels, h × w latent cells.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from diffusers import DPMSolverMultistepScheduler
from torch import Tensor

from engine.diffusion.model import LatentDiffusion
from engine.diffusion.noise import add_noise
from engine.diffusion.schedule import Solver, sampler_timesteps

SCHEDULE = (
    "num_train_timesteps",
    "beta_start",
    "beta_end",
    "beta_schedule",
    "trained_betas",
    "rescale_betas_zero_snr",
)
"""The settings of a scheduler that say how much noise each timestep has."""
Predict = Callable[[Tensor, int], Tensor]
"""What the U-Net says of z_t ([B, C, h, w] float32) at a timestep: ε, or v."""


@dataclass(frozen=True, kw_only=True)
class Known:
    """What an inpainting must keep.

    Attributes:
        z0: [B, C, h, w] scaled latents of the images.
        region: [B, h, w] bool, the cells to paint anew; all others are kept exactly.
        noise: [B, C, h, w], brings the kept cells to each step's level.
    """

    z0: Tensor
    region: Tensor
    noise: Tensor

    def blend(self, zt: Tensor, alpha_bar: float) -> Tensor:
        """z_t inside the region; outside √ᾱ z0 + √(1-ᾱ) noise, which at ᾱ = 1 is z0 itself."""
        level = torch.full((len(zt),), alpha_bar)
        kept = self.z0 if alpha_bar == 1 else add_noise(self.z0, self.noise, level)
        return torch.where(self.region[:, None], zt, kept)


def predict_noise(model: LatentDiffusion, zt: Tensor, t: Tensor, context: Tensor) -> Tensor:
    """ε(z_t) of the U-Net in float32, whatever it was trained to predict.

    Args:
        zt: [B, C, h, w]; t: [B] int64; context: [B, tokens, width].
    """
    return to_noise(model, _ask(model, zt, t, context), zt.float(), t)


def to_noise(model: LatentDiffusion, prediction: Tensor, zt: Tensor, t: Tensor) -> Tensor:
    """ε from the U-Net's output at timesteps t [B]: itself, or of v the sum √ᾱ v + √(1-ᾱ) z_t.

    Raises:
        ValueError: a model that predicts something else.
    """
    if not _predicts_velocity(model):
        return prediction
    alpha_bar = _levels(model, zt, t)
    return alpha_bar.sqrt() * prediction + (1 - alpha_bar).sqrt() * zt


def to_latent(model: LatentDiffusion, prediction: Tensor, zt: Tensor, t: Tensor) -> Tensor:
    """z0 from the U-Net's output at timesteps t [B]: (z_t - √(1-ᾱ) ε) / √ᾱ, or of v the difference √ᾱ z_t - √(1-ᾱ) v.

    Raises:
        ValueError: a model that predicts something else.
    """
    alpha_bar = _levels(model, zt, t)
    if not _predicts_velocity(model):
        return (zt - (1 - alpha_bar).sqrt() * prediction) / alpha_bar.sqrt()
    return alpha_bar.sqrt() * zt - (1 - alpha_bar).sqrt() * prediction


def _ask(model: LatentDiffusion, zt: Tensor, t: Tensor, context: Tensor) -> Tensor:
    return model.unet(zt.to(model.unet.dtype), t, context).sample.float()


def _predicts_velocity(model: LatentDiffusion) -> bool:
    kind = model.scheduler.config.prediction_type
    if kind not in ("epsilon", "v_prediction"):
        raise ValueError(f"the model predicts {kind!r}; models that predict epsilon or v_prediction can be used")
    return kind == "v_prediction"


def _levels(model: LatentDiffusion, zt: Tensor, t: Tensor) -> Tensor:
    return model.scheduler.alphas_cumprod.to(zt.device)[t][:, None, None, None]


def guide(model: LatentDiffusion, foreground: Tensor, background: Tensor, weight: float) -> Predict:
    """The U-Net's output under the guidance between two prompts; at w = 0 and w = 1 only one of them is computed.

    Args:
        foreground, background: [1, tokens, width], the contexts of y_f and y_b.
    """

    def of(zt: Tensor, t: int, context: Tensor) -> Tensor:
        steps = torch.full((len(zt),), t, device=zt.device)
        return _ask(model, zt, steps, context.expand(len(zt), -1, -1))

    def both(zt: Tensor, t: int) -> Tensor:
        twice = torch.full((2 * len(zt),), t, device=zt.device)
        contexts = torch.cat([foreground, background]).repeat_interleave(len(zt), 0)
        object_, rest = _ask(model, torch.cat([zt, zt]), twice, contexts).chunk(2)
        return weight * object_ - (weight - 1) * rest

    if weight == 1:
        return lambda zt, t: of(zt, t, foreground)
    if weight == 0:
        return lambda zt, t: of(zt, t, background)
    return both


@torch.no_grad()
def sample(
    model: LatentDiffusion,
    z_T: Tensor,
    predict: Predict,
    steps: int,
    *,
    solver: Solver = "ddim",
    known: Known | None = None,
    strength: float = 1.0,
) -> Tensor:
    """Denoise z_T [B, C, h, w] (standard normal) to z0 in `steps` calls of `predict`.

    ``ddim`` is DDIM with η = 0 on the model's own timesteps; ``dpm++`` is second-order multistep DPM-Solver++
    (Lu et al. 2022) of diffusers, which reaches the same in a fraction of the steps. Both are deterministic.

    Args:
        known: paint only its region; what surrounds it is brought to the level of every step and blended in.
        strength: below 1 the known latent is painted over rather than painted anew: only this fraction of the steps is
            walked, the last ones, from √ᾱ z0 + √(1-ᾱ) z_T on (SDEdit, Meng et al. 2022).
    """
    assert known or strength == 1
    walk = {"ddim": _ddim, "dpm++": _dpm_solver}[solver]
    entry = _Entry(z0=known.z0 if known and strength < 1 else None, first=steps - max(1, round(strength * steps)))
    return walk(model, z_T.float(), predict, steps, known, entry)


@dataclass(frozen=True, kw_only=True)
class _Entry:
    """Where a walk begins: at its step `first`, from the latents noised to that level, or from noise alone."""

    z0: Tensor | None
    first: int

    def of(self, z_T: Tensor, alpha_bar: float) -> Tensor:
        return z_T if self.z0 is None else add_noise(self.z0, z_T, torch.full((len(z_T),), alpha_bar))


def _ddim(
    model: LatentDiffusion, z_T: Tensor, predict: Predict, steps: int, known: Known | None, entry: _Entry
) -> Tensor:
    timesteps = sampler_timesteps(model.scheduler, steps)[entry.first :]
    levels = [float(model.scheduler.alphas_cumprod[t]) for t in timesteps] + [1.0]
    zt = entry.of(z_T, levels[0])
    for t, now, after in zip(timesteps, levels, levels[1:], strict=False):
        zt = known.blend(zt, now) if known else zt
        prediction, steps_B = predict(zt, t), torch.full((len(zt),), t, device=zt.device)
        z0, epsilon = (to(model, prediction, zt, steps_B) for to in (to_latent, to_noise))
        zt = after**0.5 * z0 + (1 - after) ** 0.5 * epsilon
    return known.blend(zt, 1.0) if known else zt


def _dpm_solver(
    model: LatentDiffusion, z_T: Tensor, predict: Predict, steps: int, known: Known | None, entry: _Entry
) -> Tensor:
    # The schedule alone: a folder may also say how its own sampler spaces its steps.
    schedule = {name: model.scheduler.config[name] for name in SCHEDULE}
    solver = DPMSolverMultistepScheduler(
        **schedule,
        algorithm_type="dpmsolver++",
        solver_order=2,
        prediction_type=model.scheduler.config.prediction_type,
        final_sigmas_type="zero",
    )
    solver.set_timesteps(timesteps=sampler_timesteps(model.scheduler, steps, "dpm++"), device=z_T.device)
    solver.set_begin_index(entry.first)
    levels = (1 / (1 + solver.sigmas.double().square())).tolist()[entry.first :]  # σ² = (1 - ᾱ) / ᾱ
    zt = entry.of(z_T, levels[0])
    for t, now in zip(solver.timesteps[entry.first :], levels, strict=False):
        zt = known.blend(zt, now) if known else zt
        zt = solver.step(predict(zt, int(t)), t, zt).prev_sample
    return known.blend(zt, 1.0) if known else zt
