"""The noise schedule of a model, and the timesteps at which samplers walk it."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from diffusers import DDIMScheduler, DDPMScheduler

from engine.diffusion.layout import ModelError

Solver = Literal["ddim", "dpm++"]


def load_scheduler(folder: Path) -> DDPMScheduler:
    """The noise schedule of a model folder; ModelError without a readable one."""
    try:
        return DDPMScheduler.from_pretrained(folder, subfolder="scheduler", local_files_only=True)
    except (OSError, ValueError) as error:
        raise ModelError(f"the schedule of {folder} cannot be read: {error}") from error


def check_steps(scheduler: DDPMScheduler, steps: int) -> None:
    """Raises ModelError for more steps than a sampler of this schedule can take."""
    most = scheduler.config.num_train_timesteps - scheduler.config.steps_offset
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
    spacing = {"timestep_spacing": "trailing"} if solver == "dpm++" else {}
    sampler = DDIMScheduler.from_config(scheduler.config, **spacing)
    sampler.set_timesteps(steps)
    # With "trailing" spacing some numbers of steps get one more than asked for, at -1: rounding in numpy's arange.
    return sampler.timesteps.tolist()[:steps]
