"""The U-Net of the segmenter, and images as it takes them.

Shapes: B images of H × W pixels, both multiples of 16 and no less than 32 (see `engine.segmenter.spec`).
"""

from __future__ import annotations

import numpy as np
import torch
from monai.networks.nets import BasicUNet
from torch import Tensor, nn

from engine.segmenter.spec import features


def build_unet(width: int, *, seed: int = 0) -> nn.Module:
    """[B, 3, H, W] in [-1, 1] -> [B, 1, H, W] logits; the first weights depend on the seed only."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return BasicUNet(spatial_dims=2, in_channels=3, out_channels=1, features=features(width))


def images_to_tensor(images: np.ndarray) -> Tensor:
    """(B, H, W, 3) uint8 -> [B, 3, H, W] float32 in [-1, 1]."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1
