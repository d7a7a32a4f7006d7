"""Samples over the guidance: the same noise for every weight, and distances to the corpus if asked for."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
import torch

from engine.diffusion.noise import draw_noise
from engine.diffusion.sampling import guide, sample
from engine.evaluation.studies import guidance
from engine.evaluation.studies.guidance import draw_samples, study_guidance
from engine.evaluation.studies.study import StudyTask

PROMPTS = ("a photo of a human", "a photo of a background")


@pytest.fixture(autouse=True)
def few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guidance, "STEPS", 2)


def test_a_sample_depends_on_its_own_noise_and_the_weight(make_task: Callable[..., StudyTask]) -> None:
    model = make_task().models.distilled()
    found = draw_samples(model, PROMPTS, 3.0, 2, seed=5)
    shape = (model.unet.config.in_channels, model.latent_size, model.latent_size)
    noise = draw_noise(5, "00000001", "guidance", shape)[None]
    predict = guide(model, *model.encode_text(list(PROMPTS)).split(1), 3.0)
    image = model.decode(sample(model, noise, predict, 2, solver="dpm++"))[0]
    assert torch.allclose(found[1], ((image + 1) / 2).clamp(0, 1), atol=1e-4)
    assert not torch.allclose(found[1], draw_samples(model, PROMPTS, 1.0, 2, seed=5)[1], atol=1e-2)


def test_a_picture_without_features_and_distances_with_them(make_task: Callable[..., StudyTask]) -> None:
    bare = study_guidance(make_task(weights=(0, 1), seeds=2))
    assert list(bare.pictures) == ["guidance.png"]
    assert all("fid" not in row for row in bare.figures["rows"])
    study = study_guidance(make_task(weights=(0, 1), seeds=2, features="miniature"))
    assert list(study.pictures) == ["guidance.png", "guidance-distance.png"]
    assert study.figures["real_images"] == 3
    assert all(row["fid"] > 0 and row["samples"] == 3 for row in study.figures["rows"])


def test_no_result_holds_the_key_of_a_feature_network(
    make_task: Callable[..., StudyTask], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = guidance.load_features
    monkeypatch.setattr(guidance, "load_features", lambda name, device: real("miniature", device=device))
    study = study_guidance(make_task(weights=(1,), seeds=2, features="https://a.b/c.onnx?X-Amz-Signature=SECRET"))
    assert "a.b/c.onnx" in study.table and "SECRET" not in study.table + json.dumps(study.figures)
