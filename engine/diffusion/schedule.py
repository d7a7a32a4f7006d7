"""The noise schedule of a model, and the timesteps at which samplers walk it."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from diffusers import DDIMScheduler, DDPMScheduler

from engine.diffusion.layout import ModelError

Solver = Literal["ddim", "dpm++"]
WHOLE_NOISE = 0.02
"""The largest ᾱ of a timestep at which a sampler may begin with noise alone; above, z_t has too much of an image."""


def load_scheduler(folder: Path) -> DDPMScheduler:
    """The noise schedule of a model folder; ModelError without a readable one."""
    try:
        return DDPMScheduler.from_pretrained(folder, subfolder="scheduler", local_files_only=True)
    except (OSError, ValueError) as error:
        raise ModelError(f"the schedule of {folder} cannot be read: {error}") from error


def check_steps(scheduler: DDPMScheduler, steps: int) -> None:
    """Raises ModelError for more steps than a sampler of this schedule can take."""
    most = _most_steps(scheduler)
    if steps > most:
        raise ModelError(f"{steps} timesteps are more than the {most} of the model's schedule")


def sampler_timesteps(scheduler: DDPMScheduler, steps: int, solver: Solver = "ddim") -> list[int]:
    """The `steps` timesteps that a sampler walks, most noise first.

    ``ddim`` walks those of the schedule's own spacing; ``dpm++`` begins at the last of all, because few steps must
    begin where the noise is whole.

    Raises:
        ModelError: the schedule has fewer.
    """
    check_steps(scheduler, steps)
    return _walk(_sampler(scheduler, solver), steps)


def _sampler(scheduler: DDPMScheduler, solver: Solver) -> DDIMScheduler:
    spacing = {"timestep_spacing": "trailing"} if solver == "dpm++" else {}
    return DDIMScheduler.from_config(scheduler.config, **spacing)


def _walk(sampler: DDIMScheduler, steps: int) -> list[int]:
    sampler.set_timesteps(steps)
    # With "trailing" spacing some numbers of steps get one more than asked for, at -1: rounding in numpy's arange.
    return sampler.timesteps.tolist()[:steps]


def check_start(scheduler: DDPMScheduler, steps: int, solver: Solver) -> None:
    """Refuse a sampler that would begin with noise alone at a timestep whose z_t still has much of an image.

    Raises:
        ModelError: names the nearest number of steps that can be taken; also for more steps than the schedule has.
    """
    check_steps(scheduler, steps)
    sampler = _sampler(scheduler, solver)
    first = _walk(sampler, steps)[0]
    if _is_noise(scheduler, first):
        return
    others = sorted(range(1, _most_steps(scheduler) + 1), key=lambda other: abs(other - steps))
    nearest = next(n for n in others if _is_noise(scheduler, _walk(sampler, n)[0]))
    raise ModelError(
        f"{steps} steps of {solver} begin at timestep {first} of the model's schedule, where an image is not yet all "
        f"noise (ᾱ = {float(scheduler.alphas_cumprod[first]):.2g}); take the solver dpm++, or {nearest} steps"
    )


def _is_noise(scheduler: DDPMScheduler, t: int) -> bool:
    alpha_bar = scheduler.alphas_cumprod
    return bool(alpha_bar[t] <= max(WHOLE_NOISE, alpha_bar[-1]))


def _most_steps(scheduler: DDPMScheduler) -> int:
    return scheduler.config.num_train_timesteps - scheduler.config.steps_offset
