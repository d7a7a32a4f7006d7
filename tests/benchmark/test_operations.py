"""Operations and passes against what is known of the networks, and against what the labeller does."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from engine.benchmark.operations import Operations
from engine.benchmark.subject import make_model, sd15_unet, sd15_vae
from engine.labelling.labeller import Labeller
from engine.labelling.passes import Passes
from engine.labelling.spec import LabelSpec, RefinementSpec
from tests.diffusion.models import make_model as make_small_model


def test_the_large_shape_is_stable_diffusions():
    """Parameters as published for SD 1.5."""
    with torch.device("meta"):
        assert sum(p.numel() for p in sd15_unet().parameters()) == 859_520_964
        assert sum(p.numel() for p in sd15_vae().parameters()) == 83_653_863


def test_counted_operations_are_those_of_the_layers():
    """Convolutions and linear layers by their shapes; what is left are the products of attention."""
    model = make_model("miniature", device=torch.device("cpu"), dtype=torch.float32)
    total = 0

    def count(module, inputs, output):
        nonlocal total
        if isinstance(module, torch.nn.Conv2d):
            total += 2 * output.numel() * module.in_channels * module.kernel_size[0] * module.kernel_size[1]
        else:
            total += 2 * output.numel() * module.in_features

    hooks = [
        m.register_forward_hook(count) for m in model.unet.modules() if isinstance(m, torch.nn.Conv2d | torch.nn.Linear)
    ]
    counted = Operations.count(model)
    for hook in hooks:
        hook.remove()
    # Three attention layers each of 16 x 16 cells and 48 channels, and of 8 x 8 cells and 96: Q Kᵀ and P V, over the
    # cells themselves and over 20 tokens.
    products = sum(3 * 4 * cells * (cells + 20) * width for cells, width in ((256, 48), (64, 96)))
    assert counted.unet == total + products
    assert counted.decode > counted.encode > 0


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"presence_steps": 0},
        {"distractors": ("a photo of a dog", "a photo of a bird")},
        {"propagation_steps": 0, "draws": 2},
        {"refinement": RefinementSpec(inpaint_steps=3, guidance=-1, inpaintings=2)},
    ],
)
def test_passes_are_those_that_the_labeller_makes(monkeypatch, changes):
    spec = LabelSpec(
        concept="car",
        prompt="a photo of a car",
        timesteps=8,
        attention_steps=5,
        propagation_steps=2,
        presence_steps=3,
        presence_threshold=-1e9,
        refinement=RefinementSpec(inpaint_steps=3),
    )
    spec = replace(spec, **changes)
    model = make_small_model()
    seen: list[int] = []
    forward = model.unet.forward
    monkeypatch.setattr(model.unet, "forward", lambda z, *a, **k: seen.append(len(z)) or forward(z, *a, **k))
    image = np.random.default_rng(0).integers(0, 256, (128, 128, 3), dtype=np.uint8)
    labeller = Labeller(model, spec)
    labeller([image], ["a"], stage="preliminary")
    assert sum(seen) == Passes.of(spec).attention
    seen.clear()
    (label,) = labeller([image], ["a"])
    assert label.signals is not None, "nothing was painted"
    assert sum(seen) == Passes.of(spec).attention + Passes.of(spec).inpainting
