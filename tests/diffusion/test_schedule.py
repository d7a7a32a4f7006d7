"""The timesteps of samplers, against the schedulers of diffusers where those are right."""

from __future__ import annotations

import pytest
from diffusers import DDIMScheduler, DDPMScheduler

from engine.diffusion.pretraining.latent_diffusion import make_scheduler
from engine.diffusion.schedule import sampler_timesteps

UNEVEN = (61, 103, 121, 122, 201, 499, 998)
"""Numbers of steps of which diffusers makes one more with trailing spacing, at t = -1."""


def spaced(spacing: str) -> DDPMScheduler:
    return DDPMScheduler.from_config(make_scheduler("epsilon").config, timestep_spacing=spacing)


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("steps", [1, 2, 7, 10, 25, 50, 350, 600, 999])
def test_the_timesteps_are_those_of_diffusers(spacing, steps):
    sampler = DDIMScheduler.from_config(spaced(spacing).config)
    sampler.set_timesteps(steps)
    assert sampler_timesteps(spaced(spacing), steps) == sampler.timesteps.tolist()


@pytest.mark.parametrize("solver", ["ddim", "dpm++"])
@pytest.mark.parametrize("steps", UNEVEN)
def test_no_number_of_steps_gets_one_more_than_asked_for(solver, steps):
    timesteps = sampler_timesteps(spaced("trailing"), steps, solver)
    assert len(timesteps) == steps and min(timesteps) >= 0
    assert timesteps == [round(1000 - k * 1000 / steps) - 1 for k in range(steps)]


def test_dpm_begins_at_the_last_timestep_whatever_the_spacing_of_the_schedule():
    assert sampler_timesteps(spaced("leading"), 10, "dpm++") == list(range(999, 0, -100))
