"""How many latents fit into one pass of the U-Net."""

from __future__ import annotations

from collections.abc import Callable

import torch

from engine.diffusion.model import LatentDiffusion
from engine.memory import free_memory

MOST = 64
"""More gain nothing, on CPUs and on the largest GPUs."""
TRIED = (1, 2)
SHARE = 0.7
"""Of the free memory: reading attention, the sampler and the decoder need some, too."""


def fit_batch(model: LatentDiffusion) -> int:
    """Latents per pass: a power of two up to 64, as many as a GPU's free memory holds; 64 on CPUs."""
    if model.device.type != "cuda":
        return MOST

    def peak(batch: int) -> int:
        before = torch.cuda.memory_allocated(model.device)
        torch.cuda.reset_peak_memory_stats(model.device)
        cells = model.latent_size
        zt = torch.zeros(batch, model.unet.config.in_channels, cells, cells, device=model.device)
        t = torch.zeros(batch, dtype=torch.long, device=model.device)
        with torch.no_grad():
            model.unet(zt.to(model.unet.dtype), t, model.encode_text([""]).expand(batch, -1, -1))
        return torch.cuda.max_memory_allocated(model.device) - before

    free_memory()  # what this process keeps of memory that it has used counts as taken
    return largest_batch(peak, free=torch.cuda.mem_get_info(model.device)[0])


def largest_batch(peak: Callable[[int], int], *, free: float) -> int:
    """The largest power of two, up to 64, whose pass fits into the share of the free bytes.

    Args:
        peak: bytes of a pass of so many latents, which grow in proportion but for a constant.
    """
    few, more = (peak(batch) for batch in TRIED)
    each = max(more - few, 1)
    batch = MOST
    while batch > 1 and few + (batch - TRIED[0]) * each > SHARE * free:
        batch //= 2
    return batch
