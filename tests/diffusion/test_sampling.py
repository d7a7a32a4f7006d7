"""Sampling and inpainting against loops over the schedulers of diffusers, which convert v to ε in their own way."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler

from engine.diffusion.model import ModelError
from engine.diffusion.sampling import Known, guide, predict_noise, sample, to_latent, to_noise
from engine.diffusion.schedule import sampler_timesteps
from tests.diffusion.models import make_model, rescale

KINDS = ["sd1", "sd2", "zero_snr"]
SOLVERS = ["ddim", "dpm++"]
STEPS = 4
"""Of 1000 timesteps, so that they lie evenly: else DDIM of diffusers steps down to ones that it does not visit."""


@pytest.fixture(scope="module")
def models():
    made = {kind: make_model(kind) for kind in ("sd1", "sd2")}
    return {**made, "zero_snr": rescale(made["sd2"])}


def draw(seed: int, count: int = 2) -> torch.Tensor:
    return torch.randn(count, 4, 16, 16, generator=torch.Generator().manual_seed(seed))


def contexts() -> tuple[torch.Tensor, torch.Tensor]:
    """Of y_f and y_b; far apart, so that a model with random weights tells them apart."""
    return (3 * torch.randn(2, 1, 20, 32, generator=torch.Generator().manual_seed(9))).unbind(0)


def make_known() -> Known:
    region = torch.zeros(2, 16, 16, dtype=torch.bool)
    region[0, 3:9, 4:12] = True
    region[1, :5] = True
    return Known(z0=draw(1), region=region, noise=draw(2))


def make_reference_scheduler(model, solver: str):
    """With the model's own prediction type."""
    if solver == "ddim":
        scheduler = DDIMScheduler.from_config(model.scheduler.config, set_alpha_to_one=True)
    else:
        scheduler = DPMSolverMultistepScheduler.from_config(model.scheduler.config, timestep_spacing="trailing")
    scheduler.set_timesteps(STEPS)
    return scheduler


@torch.no_grad()
def reference(model, solver: str, z: torch.Tensor, context: torch.Tensor, known: Known | None) -> torch.Tensor:
    scheduler = make_reference_scheduler(model, solver)
    assert scheduler.config.prediction_type == model.scheduler.config.prediction_type
    for t in scheduler.timesteps:
        if known:
            keep = (~known.region)[:, None].float()
            z = (1 - keep) * z + keep * scheduler.add_noise(known.z0, known.noise, t.repeat(len(z)))
        output = model.unet(z, t, context.expand(len(z), -1, -1)).sample
        z = scheduler.step(output, t, z).prev_sample
    return torch.where(known.region[:, None], z, known.z0) if known else z


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("kind", KINDS)
def test_sampling_equals_a_loop_over_the_scheduler_of_diffusers(models, kind, solver):
    model, (foreground, background) = models[kind], contexts()
    ours = sample(model, draw(0), guide(model, foreground, background, 1), STEPS, solver=solver)
    expected = reference(model, solver, draw(0), foreground, None)
    torch.testing.assert_close(ours, expected, rtol=1e-3, atol=1e-3 * float(expected.std()))


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_at_less_strength_the_last_steps_are_walked_from_the_noised_latent(models, kind, solver):
    model, (foreground, background) = models[kind], contexts()
    known = Known(z0=draw(1), region=torch.ones(2, 16, 16, dtype=torch.bool), noise=draw(0))
    predict = guide(model, foreground, background, 1)
    ours = sample(model, draw(0), predict, 10, solver=solver, known=known, strength=0.3)
    scheduler = make_reference_scheduler(model, solver)
    scheduler.set_timesteps(10)
    last = scheduler.timesteps[7:]
    if solver == "dpm++":
        scheduler.set_begin_index(7)
        z = scheduler.add_noise(known.z0, known.noise, last[:1].repeat(len(known.z0)))
    else:
        z = scheduler.add_noise(known.z0, known.noise, last[:1])
    for t in last:
        z = scheduler.step(model.unet(z, t, foreground.expand(len(z), -1, -1)).sample, t, z).prev_sample
    torch.testing.assert_close(ours, z, rtol=1e-3, atol=1e-3 * float(z.std()))
    whole, alone = (sample(model, draw(0), predict, 10, solver=solver, known=k, strength=1.0) for k in (known, None))
    nearly = sample(model, draw(0), predict, 10, solver=solver, known=known, strength=0.99)
    noise_alone = kind == "zero_snr" and solver == "ddim"
    assert torch.equal(whole, alone) and torch.equal(nearly, alone) == noise_alone, "all steps, but from the image"


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("kind", KINDS)
def test_inpainting_equals_a_loop_that_noises_the_surroundings_at_every_step(models, kind, solver):
    model, (foreground, background), known = models[kind], contexts(), make_known()
    ours = sample(model, draw(0), guide(model, foreground, background, 0), STEPS, solver=solver, known=known)
    expected = reference(model, solver, draw(0), background, known)
    torch.testing.assert_close(ours, expected, rtol=1e-3, atol=1e-3 * float(expected.std()))


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("kind", KINDS)
def test_inpainting_keeps_what_is_known_bit_for_bit_and_paints_the_region(models, kind, solver):
    model, known = models[kind], make_known()
    painted = sample(model, draw(0), guide(model, *contexts(), 0), STEPS, solver=solver, known=known)
    region = known.region[:, None].expand_as(painted)
    assert torch.equal(painted[~region], known.z0[~region])
    assert (painted[region] != known.z0[region]).all()


@pytest.mark.parametrize("solver", SOLVERS)
def test_what_surrounds_a_region_decides_what_is_painted_there(models, solver):
    model, known = models["sd1"], make_known()
    other = Known(z0=known.z0 + 3 * (~known.region)[:, None], region=known.region, noise=known.noise)
    predict = guide(model, *contexts(), 0)
    first, second = (sample(model, draw(0), predict, STEPS, solver=solver, known=k) for k in (known, other))
    region = known.region[:, None].expand_as(first)
    assert not torch.allclose(first[region], second[region], rtol=1e-3)


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_region_of_everything_is_plain_sampling(models, solver):
    model, predict = models["sd1"], guide(models["sd1"], *contexts(), 0)
    known = Known(z0=draw(1), region=torch.ones(2, 16, 16, dtype=torch.bool), noise=draw(2))
    painted = sample(model, draw(0), predict, STEPS, solver=solver, known=known)
    assert torch.equal(painted, sample(model, draw(0), predict, STEPS, solver=solver))


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("weight", [0, 2.5])
def test_an_image_gets_the_same_painting_alone_and_in_company(models, solver, weight):
    model, known = models["sd1"], make_known()
    predict = guide(model, *contexts(), weight)
    together = sample(model, draw(0), predict, STEPS, solver=solver, known=known)
    for item in range(2):
        own = slice(item, item + 1)
        alone = Known(z0=known.z0[own], region=known.region[own], noise=known.noise[own])
        painted = sample(model, draw(0)[own], predict, STEPS, solver=solver, known=alone)
        torch.testing.assert_close(painted, together[own], rtol=1e-3, atol=1e-3 * float(together.std()))


@torch.no_grad()
def test_weights_of_one_and_zero_follow_one_prompt_alone_in_one_pass(models, monkeypatch):
    model, (foreground, background) = models["sd1"], contexts()
    t = torch.full((2,), 500)
    alone = [predict_noise(model, draw(0), t, context.expand(2, -1, -1)) for context in (background, foreground)]
    assert not torch.allclose(*alone, rtol=1e-2)
    sizes, forward = [], model.unet.forward
    monkeypatch.setattr(model.unet, "forward", lambda zt, *a, **k: sizes.append(len(zt)) or forward(zt, *a, **k))
    for weight in (0, 1):
        assert torch.equal(guide(model, foreground, background, weight)(draw(0), 500), alone[weight])
    assert sizes == [2, 2]


@torch.no_grad()
@pytest.mark.parametrize("weight", [-1.0, 0.5, 2.5, 7.5])
def test_guidance_is_the_weighted_sum_of_both_predictions(models, weight):
    model, (foreground, background) = models["sd1"], contexts()
    t = torch.full((2,), 300)
    object_, rest = (predict_noise(model, draw(0), t, c.expand(2, -1, -1)) for c in (foreground, background))
    guided = guide(model, foreground, background, weight)(draw(0), 300)
    torch.testing.assert_close(guided, rest + weight * (object_ - rest), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_weight_of_minus_one_is_two_with_the_prompts_swapped(models, solver):
    model, (foreground, background) = models["sd1"], contexts()
    away = sample(model, draw(0), guide(model, foreground, background, -1), STEPS, solver=solver)
    swapped = sample(model, draw(0), guide(model, background, foreground, 2), STEPS, solver=solver)
    torch.testing.assert_close(away, swapped, rtol=1e-3, atol=1e-3 * float(away.std()))


@pytest.mark.parametrize("kind", ["sd2", "zero_snr"])
def test_a_velocity_converts_to_the_latent_and_the_noise_it_was_made_of(models, kind):
    model = models[kind]
    z0, noise, t = draw(0, 4), draw(1, 4), torch.tensor([0, 1, 500, 999])
    zt, velocity = model.scheduler.add_noise(z0, noise, t), model.scheduler.get_velocity(z0, noise, t)
    torch.testing.assert_close(to_noise(model, velocity, zt, t), noise, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(to_latent(model, velocity, zt, t), z0, rtol=1e-4, atol=1e-5)
    assert torch.equal(to_noise(models["sd1"], velocity, zt, t), velocity)


def test_a_noise_converts_to_the_latent_it_was_added_to(models):
    z0, noise, t = draw(0, 4), draw(1, 4), torch.tensor([0, 1, 500, 900])
    zt = models["sd1"].scheduler.add_noise(z0, noise, t)
    torch.testing.assert_close(to_latent(models["sd1"], noise, zt, t), z0, rtol=1e-4, atol=1e-5)


def test_a_model_that_predicts_something_else_is_refused():
    model = make_model("sd1")
    model.scheduler.register_to_config(prediction_type="sample")
    with pytest.raises(ValueError, match="'sample'"):
        to_noise(model, draw(0), draw(1), torch.tensor([1, 2]))


@pytest.mark.parametrize("solver", ["ddim", "dpm++"])
def test_more_steps_than_the_schedule_has_are_refused(models, solver):
    model = models["sd1"]
    z_T = torch.zeros(1, 4, model.latent_size, model.latent_size)
    with pytest.raises(ModelError, match="1000 timesteps are more than the 999 of the model's schedule"):
        sample(model, z_T, lambda zt, t: zt, 1000, solver=solver)
    assert sampler_timesteps(model.scheduler, 999)[0] == 999


@pytest.mark.parametrize("solver", SOLVERS)
def test_every_number_of_steps_takes_that_many_passes(models, solver):
    """Of 61 trailing ones, diffusers makes 62."""
    config, asked = models["sd1"].scheduler.config, []
    model = replace(models["sd1"], scheduler=DDPMScheduler.from_config(config, timestep_spacing="trailing"))
    sample(model, draw(0), lambda zt, t: asked.append(t) or zt, 61, solver=solver)
    assert len(asked) == 61 and min(asked) >= 0


def test_a_schedule_saved_with_another_spacing_of_sigmas_is_walked_as_any_other(models):
    model, predict = models["sd1"], guide(models["sd1"], *contexts(), 1)
    karras = DDPMScheduler.from_config({**model.scheduler.config, "use_karras_sigmas": True})
    expected = sample(model, draw(0), predict, STEPS, solver="dpm++")
    assert torch.equal(sample(replace(model, scheduler=karras), draw(0), predict, STEPS, solver="dpm++"), expected)
