"""The U-Net against MONAI's own."""

import pytest
import torch
from monai.networks.nets import BasicUNet
from torch import Tensor, nn

from engine.segmenter.spec import features
from engine.segmenter.unet import build_unet


@pytest.mark.parametrize(("height", "width"), [(32, 32), (48, 80)])
def test_outputs_and_gradients_are_those_of_monais_network_with_the_same_weights(height: int, width: int) -> None:
    reference = BasicUNet(spatial_dims=2, in_channels=3, out_channels=2, features=features(4)).double()
    network = build_unet(4, channels=2).double()
    network.load_state_dict(reference.state_dict())
    images = torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(0)).double()

    def run(unet: nn.Module) -> tuple[Tensor, list[Tensor]]:
        logits = unet.train()(images)
        return logits.detach(), list(torch.autograd.grad(logits.square().mean(), list(unet.parameters())))

    logits, gradients = run(network)
    expected, expected_gradients = run(reference)
    torch.testing.assert_close(logits, expected)
    torch.testing.assert_close(gradients, expected_gradients)


def test_first_weights_are_those_of_monais_network_of_that_seed() -> None:
    torch.manual_seed(3)
    reference = BasicUNet(spatial_dims=2, in_channels=3, out_channels=1, features=features(4)).state_dict()
    weights = build_unet(4, seed=3).state_dict()
    assert weights.keys() == reference.keys()
    assert all(torch.equal(weights[name], reference[name]) for name in weights)
