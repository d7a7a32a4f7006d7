"""Background painted over a region, by models whose numbers are at the edge of what there is."""

from __future__ import annotations

import pytest
import torch

from engine.labelling.inpainting import remove_object
from engine.labelling.spec import LabelSpec, RefinementSpec
from tests.diffusion.models import make_model, rescale


def paint(model, **settings) -> torch.Tensor:
    region = torch.zeros(1, 16, 16, dtype=torch.bool)
    region[0, 3:9, 4:12] = True
    spec = LabelSpec(concept="car", prompt="a photo of a car", refinement=RefinementSpec(inpaint_steps=2, **settings))
    z0 = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    return remove_object(model, z0, region, ["a"], spec)


@pytest.mark.parametrize("guidance", [0, -1])
@pytest.mark.parametrize("solver", ["ddim", "dpm++"])
def test_a_model_whose_first_step_is_noise_alone_paints_pictures(solver, guidance):
    painted = paint(rescale(make_model("sd2")), solver=solver, guidance=guidance)
    assert painted.isfinite().all() and painted.std() > 0.05


def test_a_model_that_paints_no_numbers_is_an_error():
    model = make_model()
    with torch.no_grad():
        model.unet.conv_out.bias.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="no background of finite numbers with guidance 0"):
        paint(model)
