"""The timesteps of samplers, against the schedulers of diffusers where those are right."""

from __future__ import annotations

import pytest
from diffusers import DDIMScheduler, DDPMScheduler

from engine.diffusion.layout import ModelError
from engine.diffusion.pretraining.latent_diffusion import make_scheduler
from engine.diffusion.schedule import check_start, sampler_timesteps

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


@pytest.mark.parametrize(
    ("steps", "first", "nearest"), [(1, 1, 8), (5, 801, 8), (144, 859, 142), (350, 699, 333), (600, 600, 500)]
)
def test_a_sampler_that_would_begin_where_an_image_is_not_all_noise_is_refused(steps, first, nearest):
    expected = rf"{steps} steps of ddim begin at timestep {first} .*; take the solver dpm\+\+, or {nearest} steps"
    with pytest.raises(ModelError, match=expected):
        check_start(spaced("leading"), steps, "ddim")
    check_start(spaced("leading"), nearest, "ddim")
    check_start(spaced("leading"), steps, "dpm++")
    check_start(spaced("trailing"), steps, "ddim")


def test_a_schedule_that_never_comes_to_noise_is_begun_at_its_end():
    mild = DDPMScheduler.from_config(spaced("leading").config, beta_end=0.002)
    assert mild.alphas_cumprod[-1] > 0.1
    check_start(mild, 999, "ddim")
    with pytest.raises(ModelError, match="or 999 steps"):
        check_start(mild, 950, "ddim")
