"""Samples of a small random model; no Ray needed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from engine.diffusion.geometry import Placement, image_to_canvas, valid_cells
from engine.diffusion.model import LatentDiffusion
from engine.diffusion.noise import draw_noise
from engine.diffusion.sampling import Known, guide, predict_noise, sample
from engine.labelling.inpainting import grow, remove_object
from engine.labelling.labeller import Labeller
from engine.labelling.spec import LabelSpec, RefinementSpec
from engine.run.fitting import Fitting
from engine.synthesis import synthesizer as synthesizer_module
from engine.synthesis.sample import Start
from engine.synthesis.spec import SynthesisSpec
from engine.synthesis.synthesizer import Synthesizer
from tests.diffusion.models import make_model

SPEC = LabelSpec(
    concept="car",
    prompt="a photo of a car",
    timesteps=4,
    attention_steps=2,
    propagation_steps=0,
    presence_steps=1,
    presence_threshold=-1,
    refinement=RefinementSpec(inpaint_steps=2, inpaintings=2),
)


def settings(**changes) -> SynthesisSpec:
    return SynthesisSpec(**{"steps": 2, "backgrounds": 0.5, "strength": 1.0, **changes})


@pytest.fixture(scope="module")
def model() -> LatentDiffusion:
    return make_model()


@pytest.fixture(scope="module")
def samples(model):
    """An object, a pure background, an object."""
    return Synthesizer(model, SPEC, settings())([0, 1, 2], [None, None, None])


@torch.no_grad()
def draw(model: LatentDiffusion, key: str, prompt: str) -> np.ndarray:
    """One image of one prompt, without any of the synthesizer's code."""
    z_T = draw_noise(0, key, "synthesis", (4, 16, 16))[None]
    context = model.encode_text([prompt])
    z0 = sample(model, z_T, lambda z, t: predict_noise(model, z, torch.tensor([t]), context), 2, solver="dpm++")
    return ((model.decode(z0)[0].clamp(-1, 1) + 1) * 127.5).permute(1, 2, 0).numpy()


def test_objects_follow_one_prompt_and_pure_backgrounds_the_other(model):
    prompts = ["a photo of a car", "a photo of a background", "a photo of a car"]
    zero = Synthesizer(model, SPEC, settings(guidance=1, background_guidance=0))([0, 1, 2], [None, None, None])
    for one, prompt in zip(zero, prompts, strict=True):
        assert one.prompt == prompt and one.pure == ("background" in prompt)
        assert np.abs(draw(model, one.key, prompt) - one.image).max() <= 1
    pushed = Synthesizer(model, SPEC, settings(guidance=1, background_guidance=-1))([0, 1, 2], [None, None, None])
    assert np.array_equal(zero[0].image, pushed[0].image) and not np.array_equal(zero[1].image, pushed[1].image)


def test_a_sample_depends_on_its_index_and_the_seed(model, samples):
    (alone,) = Synthesizer(model, SPEC, settings())([2], [None])
    assert np.abs(alone.image.astype(int) - samples[2].image).max() <= 1
    (other,) = Synthesizer(model, SPEC, settings(seed=1))([2], [None])
    assert np.abs(other.image.astype(int) - samples[2].image).mean() > 5


def test_the_same_samples_again_are_the_same_bit_for_bit(model, samples):
    for one, again in zip(samples, Synthesizer(model, SPEC, settings())([0, 1, 2], [None, None, None]), strict=True):
        assert np.array_equal(one.image, again.image)
        assert np.array_equal(one.label.mask, again.label.mask)
        assert np.array_equal(one.background, again.background)


@pytest.mark.parametrize(("guidance", "passes"), [(1.0, 1), (0.0, 1), (2.5, 2), (-1.0, 2)])
def test_only_guidance_between_the_prompts_costs_a_second_pass(model, guidance, passes):
    synthesizer = Synthesizer(model, SPEC, settings())
    seen = []
    hook = model.unet.register_forward_pre_hook(lambda module, args: seen.append(len(args[0])))
    synthesizer._draw([0, 2, 4], [], guidance)
    hook.remove()
    assert seen == [3 * passes] * 2


def make_start(width: int, height: int) -> Start:
    ramp = np.linspace(0, 255, width, dtype=np.uint8)
    return Start(shard="000000.tar", key="a", image=np.tile(ramp[None, :, None], (height, 1, 3)))


@torch.no_grad()
def test_an_object_is_drawn_over_its_noised_start(model):
    start = make_start(128, 128)
    (made,) = Synthesizer(model, SPEC, settings(steps=5, backgrounds=0.0, guidance=1, strength=0.4))([0], [start])
    assert made.start == ("000000.tar", "a") and not made.pure
    noise = draw_noise(0, made.key, "synthesis", (4, 16, 16))[None]
    z0 = model.encode(torch.from_numpy(start.image.copy()).permute(2, 0, 1)[None] / 127.5 - 1)
    known = Known(z0=z0, region=torch.ones(1, 16, 16, dtype=torch.bool), noise=noise)
    context = model.encode_text([SPEC.prompt])
    drawn = [
        sample(model, noise, guide(model, context, context, 1), 5, solver="dpm++", known=known, strength=strength)
        for strength in (0.4, 1.0)
    ]
    expected, anew = (((model.decode(z)[0].clamp(-1, 1) + 1) * 127.5).permute(1, 2, 0).numpy() for z in drawn)
    assert np.abs(made.image - expected).max() <= 1 and np.abs(made.image - anew).mean() > 5


@pytest.mark.parametrize(("size", "seen"), [((300, 150), (128, 64)), ((40, 100), (48, 128)), ((128, 128), (128, 128))])
def test_a_sample_is_as_large_as_the_model_sees_its_start(model, size, seen):
    (made,) = Synthesizer(model, SPEC, settings(backgrounds=0.0, strength=0.5))([0], [make_start(*size)])
    assert made.image.shape[:2] == seen[::-1] == made.label.mask.shape


def test_what_lies_beside_a_start_on_the_canvas_stays_as_it_is(model, monkeypatch):
    seen = []
    walk = synthesizer_module.sample
    monkeypatch.setattr(synthesizer_module, "sample", lambda *args, **kw: seen.append(walk(*args, **kw)) or seen[-1])
    Synthesizer(model, SPEC, settings(backgrounds=0.0, strength=0.5))([0], [make_start(128, 64)])
    beside = model.encode(image_to_canvas(make_start(128, 64).image, Placement.fit(128, 64, cells=16, factor=8))[None])
    assert torch.equal(seen[0][:, :, 8:], beside[:, :, 8:]) and not torch.equal(seen[0][:, :, :8], beside[:, :, :8])


def test_pure_backgrounds_begin_from_noise_beside_objects_that_do_not(model, samples):
    mixed = Synthesizer(model, SPEC, settings(strength=0.5))([0, 1], [make_start(128, 128), None])
    assert np.abs(mixed[1].image.astype(int) - samples[1].image).max() <= 1 and mixed[1].start is None
    assert np.abs(mixed[0].image.astype(int) - samples[0].image).mean() > 5


def test_objects_are_labelled_as_any_image_is(model, samples):
    for one in (samples[0], samples[2]):
        (label,) = Labeller(model, SPEC)([one.image], [one.key])
        assert np.mean(label.mask != one.label.mask) < 0.01
        assert label.background is None


def test_pure_backgrounds_have_an_empty_mask_and_their_presence_as_measured(model, samples):
    pure = samples[1]
    assert pure.label.flags[0] == "background" and not pure.label.mask.any()
    (looked,) = Labeller(model, SPEC)([pure.image], [pure.key], stage="preliminary")
    assert pure.label.presence == pytest.approx(looked.presence, abs=1e-4)
    assert pure.background is pure.image


@pytest.mark.parametrize("size", [(128, 128), (90, 60)])
def test_the_kept_background_is_the_first_inpainting_at_the_images_own_size(model, size):
    width, height = size
    ramp = np.linspace(0, 255, width, dtype=np.uint8)
    image = np.tile(ramp[None, :, None], (height, 1, 3))
    (label,) = Labeller(model, SPEC, keep_backgrounds=True)([image], ["c"])
    place = Placement.fit(width, height, cells=16, factor=8)
    region = torch.zeros(1, 16, 16, dtype=torch.bool)
    region[0, : place.rows, : place.columns] = torch.from_numpy(label.preliminary_mask)
    region = grow(region, SPEC.refinement.dilate) & valid_cells([place])
    z0 = model.encode(image_to_canvas(image, place)[None])
    painted = remove_object(model, z0, region, ["c"], SPEC)[0, 0, :, : place.rows * 8, : place.columns * 8]
    wanted = torch.nn.functional.interpolate(painted[None], (height, width), mode="bilinear", antialias=True)[0]
    assert label.background is not None and label.background.shape == image.shape
    expected = ((wanted + 1) * 127.5).permute(1, 2, 0).numpy()
    if size == (128, 128):
        assert np.abs(expected - label.background).max() <= 1
    assert np.corrcoef(expected.ravel(), label.background.ravel())[0, 1] > 0.95


def test_a_model_that_yields_no_numbers_makes_no_samples(monkeypatch):
    model = make_model()
    with torch.no_grad():
        model.unet.conv_out.bias.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="no image of finite numbers with guidance 4"):
        Synthesizer(model, SPEC, settings())([0], [None])


def test_passes_of_the_unet_are_halved_where_memory_runs_out(model, monkeypatch):
    synthesizer = Synthesizer(model, replace(SPEC, attention_steps=4), settings(backgrounds=0.0))
    real = synthesizer.labeller.original().unet.forward

    def has_room_for_two(sample, *arguments, **options):
        if len(sample) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return real(sample, *arguments, **options)

    monkeypatch.setattr(synthesizer.labeller.original().unet, "forward", has_room_for_two)
    (made,) = Fitting(synthesizer)([0], [None])
    assert made.index == 0 and synthesizer.batch_size == 2
