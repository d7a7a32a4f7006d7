"""Noise that belongs to a sample, and the forward process."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor


def draw_noise(seed: int, key: str, stage: str, shape: tuple[int, ...]) -> Tensor:
    """Standard normal noise of one sample: float32 on the CPU, a function of (seed, key, stage, shape) alone.

    Drawn on the CPU because generators of different devices differ; so no batch, worker or device changes it.
    """
    digest = hashlib.blake2b(f"{seed}\0{key}\0{stage}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)
    return torch.randn(shape, generator=generator)


def add_noise(z0: Tensor, noise: Tensor, alpha_bar: Tensor) -> Tensor:
    """z_t = √ᾱ_t z0 + √(1-ᾱ_t) ε for z0, ε [B, C, h, w] and ᾱ_t [B]."""
    alpha_bar = alpha_bar.to(z0)[:, None, None, None]
    return alpha_bar.sqrt() * z0 + (1 - alpha_bar).sqrt() * noise
