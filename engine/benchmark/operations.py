"""Floating-point operations: what the networks need, what the device can do."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from engine.benchmark.clock import Clock, Work
from engine.diffusion.model import LatentDiffusion
from engine.labelling.passes import Passes
from engine.labelling.spec import LabelSpec

MATMUL_SIDE = {"cuda": 8192, "cpu": 1024}


@dataclass(frozen=True, kw_only=True)
class Operations:
    """Of one latent or image through each network: 2 for a multiplication with its addition."""

    unet: int
    encode: int
    decode: int

    @classmethod
    @torch.no_grad()
    def count(cls, model: LatentDiffusion) -> Operations:
        """By running each once."""
        side, cells = model.resolution, model.latent_size
        image = torch.zeros(1, 3, side, side, device=model.device)
        z = torch.zeros(1, model.unet.config.in_channels, cells, cells, device=model.device, dtype=model.unet.dtype)
        context = model.encode_text([""])
        t = torch.zeros(1, dtype=torch.long, device=model.device)
        return cls(
            unet=_count(lambda: model.unet(z, t, context)),
            encode=_count(lambda: model.encode(image)),
            decode=_count(lambda: model.decode(z)),
        )

    def of_image(self, spec: LabelSpec) -> int:
        """Of all networks, for one image."""
        passes = Passes.of(spec)
        painted = spec.refinement.inpaintings * self.decode
        return (passes.attention + passes.inpainting) * self.unet + self.encode + painted


def measure_peak(clock: Clock, dtype: torch.dtype, *, side: int | None = None) -> float:
    """P: operations per second of a product of two square matrices."""
    n = side or MATMUL_SIDE.get(clock.device.type, 1024)
    a, b = torch.randn(2, n, n, device=clock.device).to(dtype)
    out = torch.empty_like(a)

    def several() -> None:
        for _ in range(10):
            torch.mm(a, b, out=out)

    return 10 * 2 * n**3 / clock.seconds(several)[0]


def _count(work: Work) -> int:
    # Not every fused attention kernel is known to the counter, the plain products are.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()
