"""The U-Net of the segmenter, images as it takes them, and what its logits mean.

Shapes: B images of H × W pixels, both multiples of 16 and no less than 32 (see `engine.segmenter.spec`).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from monai.networks.nets import BasicUNet
from monai.networks.nets.basic_unet import UpCat
from torch import Tensor, nn

from engine.segmenter.spec import features


def build_unet(width: int, *, seed: int = 0, channels: int = 1, device: str | torch.device = "cpu") -> nn.Module:
    """[B, 3, H, W] in [-1, 1] -> [B, channels, H, W] logits; the first weights depend on the seed only.

    It computes what MONAI's does, on a CPU in three quarters of the time: sides that are multiples of 16 need no
    padding where levels meet, and there groups of one channel are normed as instances are, by a quicker routine (which
    autocast would run in float32 on a GPU). Names and shapes of weights are the same everywhere.

    Args:
        channels: 1 of the one concept, or those of the background and of each of several concepts.
        device: where it shall run; it is still to be moved there.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = BasicUNet(spatial_dims=2, in_channels=3, out_channels=channels, features=features(width))
    on_cpu = torch.device(device).type == "cpu"
    for module in list(network.modules()):
        if isinstance(module, UpCat):
            module.is_pad = False
        for name, child in module.named_children():
            if on_cpu and isinstance(child, nn.InstanceNorm2d):
                norm = nn.GroupNorm(child.num_features, child.num_features, eps=child.eps)
                norm.load_state_dict(child.state_dict())
                setattr(module, name, norm)
    return network


def layout(device: str | torch.device) -> torch.memory_format:
    """How the U-Net's tensors lie best: on a CPU a step takes thrice the time where channels lie last."""
    return torch.contiguous_format if torch.device(device).type == "cpu" else torch.channels_last


def computes_bfloat16(device: str | torch.device) -> bool:
    """Whether the hardware itself computes in bfloat16, which is faster than float32: newer GPUs and some CPUs."""
    kind = torch.device(device).type
    if kind == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    ask = getattr(torch.cpu, "get_capabilities", dict)  # older versions of torch cannot tell
    capabilities: dict[str, Any] = ask() if kind == "cpu" else {}
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def images_to_tensor(images: np.ndarray) -> Tensor:
    """(B, H, W, 3) uint8 -> [B, 3, H, W] float32 in [-1, 1]."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1


def logits_to_probability(logits: Tensor) -> Tensor:
    """[B, C, H, W]: one channel is the concept's alone; of several the first is the background's, and they sum to 1."""
    return logits.sigmoid() if logits.shape[1] == 1 else logits.softmax(1)
