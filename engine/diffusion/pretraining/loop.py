"""The training loop that the autoencoder and the diffusion model share."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from engine.diffusion.training import Checkpoint, warmup_cosine

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """Length, rate and bookkeeping of one training.

    Attributes:
        steps: optimizer steps in all.
        batch_size: examples per step.
        learning_rate: peak of the schedule: linear warm-up, then cosine decay to a hundredth.
        warmup: steps of warm-up.
        ema_decay: of the exponential moving average of the weights, which is what gets saved in the end.
        checkpoint_every: steps between checkpoints.
        bf16: autocast the forward pass to bfloat16 (for GPUs).
    """

    steps: int
    batch_size: int = 32
    learning_rate: float = 1e-3
    warmup: int = 100
    ema_decay: float = 0.998
    checkpoint_every: int = 200
    bf16: bool = False

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")

    def rate_at(self, step: int) -> float:
        """Learning rate of step `step` (0-based)."""
        return warmup_cosine(step, self.steps, peak=self.learning_rate, warmup=self.warmup)


def train(
    modules: Mapping[str, nn.Module],
    loss_at: Callable[[int], Tensor],
    config: LoopConfig,
    *,
    checkpoint: Path,
    title: str,
    device: torch.device,
    on_checkpoint: Callable[[int, Mapping[str, nn.Module]], None] | None = None,
) -> tuple[dict[str, nn.Module], list[float]]:
    """Minimise `loss_at(step)` over the parameters of `modules`, resuming from `checkpoint` if it exists.

    Args:
        modules: the networks to train, on `device`, by name.
        loss_at: loss of one step; draws whatever it draws from the step's number alone.
        on_checkpoint: called with the step and the averaged networks after each checkpoint.

    Returns:
        The networks with averaged weights, and the loss of every step.
    """
    decay = get_ema_multi_avg_fn(config.ema_decay)
    averages = {name: AveragedModel(module, multi_avg_fn=decay) for name, module in modules.items()}
    parameters = [p for module in modules.values() for p in module.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=config.learning_rate, weight_decay=0.01, fused=True)
    state = {**modules, **{f"average_{name}": average for name, average in averages.items()}}
    found = Checkpoint.load(str(checkpoint), optimizer)
    start, losses = found.step, found.losses
    for name, saved in found.weights.items():
        state[name].load_state_dict(dict(saved))
    if start:
        logger.info("%s: resumed after step %d of %d", title, start, config.steps)
    bar = tqdm(range(start, config.steps), initial=start, total=config.steps, desc=title, mininterval=5.0)
    for step in bar:
        for group in optimizer.param_groups:
            group["lr"] = config.rate_at(step)
        with torch.autocast(device.type, torch.bfloat16, enabled=config.bf16):
            loss = loss_at(step)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        for name, module in modules.items():
            averages[name].update_parameters(module)
        losses.append(float(loss.detach()))
        if not math.isfinite(losses[-1]):
            raise FloatingPointError(f"{title}: the loss is {losses[-1]} at step {step}; lower the learning rate")
        if step % 20 == 0:
            bar.set_postfix(loss=f"{sum(losses[-100:]) / len(losses[-100:]):.4f}")
        if (step + 1) % config.checkpoint_every == 0 or step + 1 == config.steps:
            weights = {name: module.state_dict() for name, module in state.items()}
            Checkpoint(step=step + 1, losses=losses, weights=weights).save(str(checkpoint), optimizer)
            if on_checkpoint:
                on_checkpoint(step + 1, {name: average.module for name, average in averages.items()})
    return {name: average.module for name, average in averages.items()}, losses
