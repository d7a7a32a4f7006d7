"""The first stage: a small KL autoencoder (Rombach et al. 2022, without the adversarial term)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn

from engine.diffusion.pretraining.data import to_model_range
from engine.diffusion.pretraining.loop import LoopConfig, train
from engine.diffusion.training import batch_generator


@dataclass(frozen=True, kw_only=True)
class AutoencoderConfig:
    """Shape of the autoencoder; the downsampling factor is 2^(levels - 1).

    Attributes:
        channels: width of each level, finest first.
        latent_channels: channels of z.
        crop: side of the random training crops in pixels; the network is convolutional, so it works at any size.
        kl_weight: weight of the KL term.
        norm_groups: groups of the normalisation layers; more than one loses the relation of channels, hence colours.
    """

    channels: tuple[int, ...] = (16, 32, 64)
    latent_channels: int = 4
    crop: int = 48
    kl_weight: float = 1e-6
    norm_groups: int = 1

    def build(self, resolution: int) -> AutoencoderKL:
        """An untrained autoencoder. No attention in its middle: crops and whole images then see the same network.

        Convolutions start orthogonal (Saxe et al. 2014), which keeps small signals apart: from PyTorch's own start,
        400 steps of 8 on photographs leave colours as they are in grey (mean error of chroma 0.10, against 0.05).
        """
        levels = len(self.channels)
        vae = AutoencoderKL(
            sample_size=resolution,
            block_out_channels=self.channels,
            down_block_types=("DownEncoderBlock2D",) * levels,
            up_block_types=("UpDecoderBlock2D",) * levels,
            latent_channels=self.latent_channels,
            layers_per_block=1,
            norm_num_groups=self.norm_groups,
            mid_block_add_attention=False,
        )
        for module in vae.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.orthogonal_(module.weight)
        return vae


def train_autoencoder(
    images: Tensor,
    config: AutoencoderConfig,
    loop: LoopConfig,
    *,
    seed: int,
    folder: Path,
    device: torch.device,
) -> tuple[AutoencoderKL, list[float]]:
    """Fit an autoencoder to `images` ([N, 3, R, R] uint8) with |x - x̂| + (x - x̂)² + kl_weight · KL.

    The scaling factor is set so that scaled latents have unit variance over the images.
    """
    torch.manual_seed(seed)
    resolution = images.shape[-1]
    crop = min(config.crop, resolution)
    vae = config.build(resolution).to(device)

    def loss_at(step: int) -> Tensor:
        generator = batch_generator(seed, step)
        index = torch.randint(len(images), (loop.batch_size,), generator=generator)
        top, left = torch.randint(resolution - crop + 1, (2,), generator=generator).tolist()
        x = to_model_range(images[index, :, top : top + crop, left : left + crop]).to(device)
        posterior = vae.encode(x).latent_dist
        noise = torch.randn(posterior.mean.shape, generator=generator).to(device)
        reconstruction = vae.decode(posterior.mean + posterior.std * noise).sample
        difference = reconstruction - x
        return difference.abs().mean() + difference.square().mean() + config.kl_weight * posterior.kl().mean()

    averaged, losses = train(
        {"vae": vae},
        loss_at,
        loop,
        checkpoint=folder / "autoencoder.safetensors",
        title="autoencoder",
        device=device,
    )
    trained = averaged["vae"].eval()
    assert isinstance(trained, AutoencoderKL)
    sample = encode_images(trained, images[torch.randperm(len(images), generator=batch_generator(seed, 0))[:512]])
    trained.register_to_config(scaling_factor=float(trained.config.scaling_factor / sample.float().std()))
    return trained, losses


@torch.no_grad()
def encode_images(vae: AutoencoderKL, images: Tensor, *, batch_size: int = 32) -> Tensor:
    """Scaled latent means of `images` ([N, 3, R, R] uint8): [N, C, R/f, R/f] float16 on the CPU."""
    parts = []
    for part in images.split(batch_size):
        x = to_model_range(part).to(vae.device)
        parts.append((vae.encode(x).latent_dist.mean * vae.config.scaling_factor).half().cpu())
    return torch.cat(parts)
