"""The presence of a concept against a plain loop, and what becomes of images it is absent from."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from engine.diffusion.noise import draw_noise
from engine.diffusion.prompt import ConceptPrompt
from engine.diffusion.schedule import sampler_timesteps
from engine.labelling import labeller as labelling
from engine.labelling.attend import attend
from engine.labelling.heatmap import bytes_to_advantage
from engine.labelling.labeller import Labeller
from engine.labelling.spec import LabelSpec, RefinementSpec
from tests.diffusion.models import make_model, rescale

KEYS = ["a", "b"]


@pytest.fixture(scope="module")
def models():
    return {kind: make_model(kind) for kind in ("sd1", "sd2")}


def spec(**changes) -> LabelSpec:
    values = {
        "concept": "car",
        "prompt": "a photo of a car",
        "timesteps": 10,
        "attention_steps": 5,
        "presence_steps": 3,
        "seed": 5,
        "refinement": RefinementSpec(inpaint_steps=1),
    }
    return LabelSpec(**{**values, **changes})


def latents() -> torch.Tensor:
    return torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(0))


def letterbox() -> torch.Tensor:
    valid = torch.ones(2, 16, 16, dtype=torch.bool)
    valid[0, 10:] = False
    valid[1, :, 7:] = False
    return valid


def presence(model, settings: LabelSpec, **options) -> torch.Tensor:
    prompt = ConceptPrompt.parse(model.tokenizer, settings.prompt, [settings.concept])
    return attend(model, latents(), KEYS, prompt, settings, **options).presence


@torch.no_grad()
def errors_of(model, settings: LabelSpec, steps: list[int], valid: torch.Tensor) -> list[dict[str, torch.Tensor]]:
    """Of each image and text the errors [16, 16], in units of the mean under y_b, 0 outside of the image; one latent,
    one timestep and one draw at a time. The velocity of sd2 is compared as noise."""
    found = []
    texts = (settings.prompt, settings.background_prompt, "", *settings.distractors)
    for z0, key, cells in zip(latents(), KEYS, valid, strict=True):
        totals = {text: torch.zeros(16, 16, dtype=torch.float64) for text in texts}
        for step in steps:
            t = torch.tensor([sampler_timesteps(model.scheduler, settings.timesteps)[::-1][step]])
            for epsilon in draw_noise(settings.seed, key, f"preliminary/{int(t)}", (settings.draws, 4, 16, 16)):
                zt = model.scheduler.add_noise(z0[None], epsilon[None], t)
                errors = {}
                for text in texts:
                    guess = model.unet(zt, t, model.encode_text([text])).sample
                    if model.scheduler.config.prediction_type == "v_prediction":
                        level = model.scheduler.alphas_cumprod[t]
                        guess = level.sqrt() * guess + (1 - level).sqrt() * zt
                    errors[text] = ((guess[0] - epsilon) ** 2).double().mean(0) * cells
                unit = errors[settings.background_prompt].mean()
                for text in texts:
                    totals[text] += errors[text] / unit
        found.append(totals)
    return found


def advantage_of(errors: dict[str, torch.Tensor], settings: LabelSpec, row: int, column: int) -> float:
    """A at a cell, from the sums of the errors over the 3 × 3 cells around."""
    window = (slice(max(0, row - 1), row + 2), slice(max(0, column - 1), column + 2))
    around = {text: float(error[window].sum()) for text, error in errors.items()}
    other = math.sqrt(around[settings.background_prompt] * around[""])
    rival = min([other, *(around[text] for text in settings.distractors)])
    return math.log(other / around[settings.prompt]) - 2 * math.log(other / rival)


def reference(model, settings: LabelSpec, steps: list[int], valid: torch.Tensor) -> list[float]:
    scores = []
    prompt = ConceptPrompt.parse(model.tokenizer, settings.prompt, [settings.concept])
    alone = replace(settings, distractors=(), presence_steps=0, propagation_steps=0)
    heat = attend(model, latents(), KEYS, prompt, alone).maps[:, 0].double()
    for errors, cells, shades in zip(errors_of(model, settings, steps, valid), valid, heat, strict=True):
        weight = (shades - shades[cells].min()) * cells
        for row, column in cells.nonzero().tolist():
            weight[row, column] *= math.exp(3.5 * advantage_of(errors, settings, row, column))
        weighted = {text: float((weight * error).sum()) for text, error in errors.items()}
        own = weighted.pop(settings.prompt)
        scores.append(1 - own / min(weighted.values()))
    return scores


DISTRACTORS = ("a photo of a dog", "a photo of a bird")


@pytest.mark.parametrize(("kind", "distractors"), [("sd1", ()), ("sd2", ()), ("sd1", DISTRACTORS)])
def test_the_advantage_compares_the_errors_around_each_cell_of_the_image(models, kind, distractors):
    settings, valid = spec(distractors=distractors), letterbox()
    prompt = ConceptPrompt.parse(models[kind].tokenizer, settings.prompt, [settings.concept])
    got = attend(models[kind], latents(), KEYS, prompt, settings, valid=valid).advantage
    for i, errors in enumerate(errors_of(models[kind], settings, [0, 2, 4], valid)):
        for row, column in ((0, 0), (4, 3), (9, 6)):  # a corner, the middle, at the letterbox of both
            expected = advantage_of(errors, settings, row, column)
            assert float(got[i, row, column]) == pytest.approx(expected, abs=2e-6)
            assert abs(expected) > 1e-5
    assert not got[~valid].any()


def test_an_advantage_that_was_not_asked_for_is_zero(models):
    settings = spec(presence_steps=0)
    prompt = ConceptPrompt.parse(models["sd1"].tokenizer, settings.prompt, [settings.concept])
    assert not attend(models["sd1"], latents(), KEYS, prompt, settings).advantage.any()


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("sd1", {}),
        ("sd1", {"draws": 2}),
        ("sd2", {}),
        ("sd1", {"advantage_power": 0}),
        ("sd1", {"distractors": DISTRACTORS}),
    ],
)
def test_the_score_equals_a_plain_loop_over_timesteps_spread_evenly(models, kind, changes):
    settings = spec(**changes)
    got = presence(models[kind], settings, batch_size=4)
    expected = reference(models[kind], settings, [0, 2, 4], torch.ones(2, 16, 16, dtype=torch.bool))
    torch.testing.assert_close(got, torch.tensor(expected), rtol=1e-3, atol=2e-6)
    assert got.abs().min() > 2e-5  # far from what the tolerance allows


def test_more_presence_steps_than_timesteps_are_all_of_them(models):
    settings = spec(presence_steps=50)
    expected = reference(models["sd1"], settings, [0, 1, 2, 3, 4], torch.ones(2, 16, 16, dtype=torch.bool))
    torch.testing.assert_close(presence(models["sd1"], settings), torch.tensor(expected), rtol=1e-3, atol=2e-6)


def test_a_timestep_that_is_noise_alone_tells_nothing_of_presence(models):
    """ᾱ = 0 at the last of five."""
    model, settings = rescale(models["sd2"]), spec(timesteps=5, presence_steps=5)
    expected = reference(model, settings, [0, 1, 2, 3], torch.ones(2, 16, 16, dtype=torch.bool))
    torch.testing.assert_close(presence(model, settings), torch.tensor(expected), rtol=1e-3, atol=2e-6)


def test_the_letterbox_takes_no_part_in_the_score(models):
    settings = spec()
    got = presence(models["sd1"], settings, valid=letterbox())
    expected = reference(models["sd1"], settings, [0, 2, 4], letterbox())
    torch.testing.assert_close(got, torch.tensor(expected), rtol=1e-3, atol=2e-6)
    assert not torch.allclose(got, presence(models["sd1"], settings), rtol=1e-2, atol=0)


def test_what_explains_an_image_no_better_than_the_background_prompt_has_no_presence(models):
    same = spec(background_prompt="a photo of a car")
    assert presence(models["sd1"], same).max() < 1e-6


def test_what_a_distractor_explains_as_well_has_no_presence(models):
    same = spec(distractors=("A photo of a car",))  # other letters, the same tokens
    assert presence(models["sd1"], same).max() < 1e-6


def test_asking_for_presence_leaves_the_attention_as_it_is(models):
    model, prompt = models["sd1"], ConceptPrompt.parse(models["sd1"].tokenizer, "a photo of a car", ["car"])
    asked, unasked = (attend(model, latents(), KEYS, prompt, spec(presence_steps=n)).maps for n in (3, 0))
    assert torch.equal(asked, unasked)


def picture() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)


@pytest.mark.parametrize("stage", ["preliminary", "refined"])
def test_an_image_below_the_threshold_is_absent_and_its_mask_empty(models, monkeypatch, stage):
    monkeypatch.setattr(labelling, "remove_object", None)  # nothing is to be painted
    (label,) = Labeller(models["sd1"], spec(stage=stage, presence_threshold=1.5))([picture()], ["a"])
    assert "absent" in label.flags and not {"empty", "full", "touches_border"} & set(label.flags)
    assert label.mask.shape == (60, 90) and not label.mask.any()
    assert label.bbox == (0, 0, 0, 0) and label.area == 0 and label.quality == 0
    assert label.presence < 1.5 and math.isnan(label.refined_separation)


def test_only_images_below_the_threshold_are_absent(models):
    both = [picture(), picture()[:, ::-1].copy()]
    scores = [label.presence for label in Labeller(models["sd1"], spec(stage="preliminary"))(both, KEYS)]
    settings = spec(stage="preliminary", presence_threshold=sum(scores) / 2)
    flags = ["absent" in label.flags for label in Labeller(models["sd1"], settings)(both, KEYS)]
    assert scores[0] != scores[1] and flags == [score < sum(scores) / 2 for score in scores]


def test_a_presence_that_was_not_asked_for_is_nan_and_never_absent(models):
    settings = spec(stage="preliminary", presence_steps=0, presence_threshold=1.5)
    (label,) = Labeller(models["sd1"], settings)([picture()], ["a"])
    assert math.isnan(label.presence) and "absent" not in label.flags and label.mask.any()


def test_a_label_keeps_the_advantage_in_steps_over_the_images_own_cells(models, monkeypatch):
    def known(model, z0, keys, *rest, **options):
        found = attend(model, z0, keys, *rest, **options)
        ramp = torch.linspace(-0.4, 0.4, found.advantage[0].numel()).view_as(found.advantage[0])
        return replace(found, advantage=ramp.expand_as(found.advantage))

    monkeypatch.setattr("engine.labelling.labeller.attend", known)
    wide = picture()[: picture().shape[0] // 2]
    for stage in ("preliminary", "refined"):
        (label,) = Labeller(models["sd1"], spec(stage=stage, presence_threshold=-9))([wide], ["a"])
        assert label.advantage.shape == label.heatmap.shape
        cells = max(label.heatmap.shape)
        ramp = np.linspace(-0.4, 0.4, cells * cells).reshape(cells, cells)[: label.heatmap.shape[0]]
        expected = np.clip(128 + 512 * ramp, 0, 255)
        assert np.abs(label.advantage.astype(float) - expected).max() <= 0.51
        np.testing.assert_allclose(bytes_to_advantage(label.advantage), np.clip(ramp, -0.25, 0.248), atol=1.1e-3)


def test_a_label_has_no_advantage_that_was_not_asked_for(models):
    settings = spec(stage="preliminary", presence_steps=0, presence_threshold=-9)
    (label,) = Labeller(models["sd1"], settings)([picture()], ["a"])
    assert label.advantage is None
