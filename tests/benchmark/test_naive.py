"""The naive baseline against the labeller: the same M̂, presence and x̂ by other means."""

from __future__ import annotations

import pytest
import torch

from engine.benchmark.naive import NaiveLabeller
from engine.benchmark.subject import CONCEPT, Subject, make_subject
from engine.labelling.attend import attend
from engine.labelling.inpainting import remove_object
from engine.labelling.labeller import Labeller
from engine.labelling.spec import LabelSpec, RefinementSpec


@pytest.fixture(scope="module")
def subject() -> Subject:
    return make_subject("miniature", images=2, device=torch.device("cpu"), dtype=torch.float32)


def spec(**changes) -> LabelSpec:
    values = {
        "concept": CONCEPT,
        "prompt": f"a photo of a {CONCEPT}",
        "timesteps": 10,
        "attention_steps": 3,
        "propagation_steps": 2,
        "presence_steps": 2,
        "refinement": RefinementSpec(inpaint_steps=3),
    }
    return LabelSpec(**{**values, **changes})


@pytest.mark.parametrize("changes", [{}, {"propagation_steps": 0}])
def test_the_baseline_finds_the_labellers_heatmap_and_presence(subject, changes):
    settings = spec(**changes)
    naive = NaiveLabeller(subject.model, settings)
    canvases = torch.stack([torch.from_numpy(image).permute(2, 0, 1) / 127.5 - 1 for image in subject.images])
    z0 = subject.model.encode(canvases)
    heatmap, presence = naive.look(z0, subject.keys)
    prompt = Labeller(subject.model, settings).prompt
    expected = attend(subject.model, z0, subject.keys, prompt, settings)
    torch.testing.assert_close(heatmap, expected.maps[:, 0], rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(presence, expected.presence, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("guidance", [0.0, -1.5])
def test_the_baseline_with_adapters_paints_what_the_labeller_paints_without(subject, guidance):
    settings = spec(refinement=RefinementSpec(inpaint_steps=3, guidance=guidance))
    weights, keys = subject.weights, subject.keys
    z0 = torch.randn(2, 4, 32, 32, generator=torch.Generator().manual_seed(0))
    region = torch.zeros(2, 32, 32, dtype=torch.bool)
    region[0, 5:20, 8:30], region[1, :10] = True, True
    other = make_subject("miniature", images=0, device=torch.device("cpu"), dtype=torch.float32).model
    naive = NaiveLabeller(other, settings, weights=weights)
    naive.concept.distilled()
    painted = naive.paint(z0, region, keys)
    labeller = Labeller(other_model(), settings, weights=weights)
    expected = remove_object(labeller.distilled(), z0, region, keys, settings)[:, 0]
    plain = remove_object(labeller.original(), z0, region, keys, settings)[:, 0]
    made = (expected - plain).abs().max()
    assert made > 0  # by the adapters
    assert (painted - expected).abs().max() < made / 10


def other_model():
    return make_subject("miniature", images=0, device=torch.device("cpu"), dtype=torch.float32).model
