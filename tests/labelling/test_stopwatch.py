from __future__ import annotations

import numpy as np
import pytest
import torch

from engine.labelling.labeller import Labeller
from engine.labelling.spec import LabelSpec, RefinementSpec
from engine.labelling.stopwatch import Stopwatch
from tests.diffusion.models import make_model

STEPS = {"encode", "attention", "mixture", "inpainting", "refinement"}


def test_laps_add_up_to_the_time_between_start_and_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    moments = iter([0.0, 1.0, 3.0, 10.0, 10.5])
    monkeypatch.setattr("time.perf_counter", lambda: next(moments))
    watch = Stopwatch("cpu")
    watch.start()
    watch.lap("encode")
    watch.lap("attention")
    watch.start()
    watch.lap("encode")
    assert watch.take() == {"encode": 1.5, "attention": 2.0}
    assert watch.take() == {}


def test_a_lap_waits_for_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    waited = []
    monkeypatch.setattr(torch.cuda, "synchronize", waited.append)
    Stopwatch("cpu").lap("encode")
    assert waited == []
    Stopwatch("cuda:1").lap("encode")
    assert waited == [torch.device("cuda:1")]


@pytest.mark.parametrize("stage", ["preliminary", "refined"])
def test_a_labeller_tells_its_steps(stage: str) -> None:
    spec = LabelSpec(
        concept="car",
        prompt="a photo of a car",
        stage=stage,  # type: ignore[arg-type]
        timesteps=2,
        attention_steps=1,
        presence_steps=1,
        propagation_steps=0,
        presence_threshold=-1,
        refinement=RefinementSpec(inpaint_steps=1),
    )
    labeller = Labeller(make_model("sd1"), spec)
    image = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    labeller([image], ["a"])
    seconds = labeller.stopwatch.take()
    assert seconds.keys() <= STEPS and seconds.keys() >= {"encode", "attention", "mixture"}
    assert ("inpainting" in seconds) <= (stage == "refined")
    assert all(value > 0 for value in seconds.values())
