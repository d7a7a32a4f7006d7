"""What makes labelling faster leaves the masks as they are: against float32, eager, adapters unmerged, batches of 1."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel

from engine.benchmark.labelling import overlap, spec_of
from engine.benchmark.subject import Subject, make_model, make_subject
from engine.distillation.weights import ConceptModel
from engine.labelling.label import Label
from engine.labelling.labeller import Labeller

CPU = torch.device("cpu")
SPEC = spec_of("paper", shorten=10)


@pytest.fixture(scope="module")
def subject() -> Subject:
    return make_subject("miniature", images=2, device=CPU, dtype=torch.float32)


@pytest.fixture(scope="module")
def reference(subject: Subject) -> list[Label]:
    model = make_model("miniature", device=CPU, dtype=torch.float32)
    for network in (model.unet, model.vae):
        network.to(memory_format=torch.contiguous_format)
    labeller = Labeller(model, SPEC, batch_size=1)
    labeller.concept = ConceptModel.load(model, subject.weights)
    return labeller(subject.images, subject.keys)


def check(subject: Subject, reference: list[Label], **changes: Any) -> None:
    dtype = changes.pop("dtype", torch.float32)
    labeller = Labeller(make_model("miniature", device=CPU, dtype=dtype), SPEC, weights=subject.weights, **changes)
    labels = labeller(subject.images, subject.keys)
    assert all(label.signals for label in labels) and overlap(labels, reference) >= 0.99


def test_merged_adapters_another_layout_and_large_batches(subject: Subject, reference: list[Label]) -> None:
    check(subject, reference)


@pytest.mark.slow
def test_bfloat16(subject: Subject, reference: list[Label]) -> None:
    check(subject, reference, dtype=torch.bfloat16)


@pytest.mark.slow
def test_a_compiled_unet_is_traced_whole_and_only_once(
    subject: Subject, reference: list[Label], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Traced as for any backend; generating code would take minutes here."""
    from torch._dynamo.utils import counters

    monkeypatch.setattr(UNet2DConditionModel, "compile", lambda self: torch.nn.Module.compile(self, backend="eager"))
    torch._dynamo.reset()
    counters.clear()
    model = make_model("miniature", device=CPU, dtype=torch.float32)
    labeller = Labeller(model, SPEC, weights=subject.weights, compiled=True)
    first = labeller(subject.images, subject.keys)
    assert overlap(first, reference) >= 0.99
    graphs = counters["stats"]["unique_graphs"]
    assert graphs > 0 and not counters["graph_break"]
    labeller(subject.images, ["other", "keys"])
    assert counters["stats"]["unique_graphs"] == graphs
    torch._dynamo.reset()
