"""The training loop of the segmenter: cross-entropy on random crops, binary for one concept.

Runs in one process or, with Accelerate, in several: each computes its share of every batch, and the batches do not
depend on their number (see `engine.segmenter.crops`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from engine.diffusion.training import Checkpoint, Progress, warmup_cosine
from engine.segmenter.crops import draw_batch
from engine.segmenter.examples import Example
from engine.segmenter.spec import SegmenterSpec
from engine.segmenter.unet import build_unet, computes_bfloat16, layout

REPORT_EVERY = 10
"""Steps between looks at the loss: each makes the processor wait for the GPU."""
RECENT = 50
"""Steps that the loss told of is the mean of."""


@dataclass(kw_only=True)
class History:
    """Loss, and IoU of the prediction with the labels, of every step's batch.

    Of several concepts it is the mean over those that labels or prediction of the batch show; background is none.
    """

    losses: list[float] = field(default_factory=list)
    ious: list[float] = field(default_factory=list)

    def summary(self, spec: SegmenterSpec, examples: int) -> dict[str, Any]:
        """Steps, epochs, and means over the last tenth of the steps, as JSON values."""
        tenth = max(1, len(self.losses) // 10)
        ious = [iou for iou in self.ious[-tenth:] if not math.isnan(iou)]
        return {
            "steps": len(self.losses),
            "epochs": round(len(self.losses) * spec.batch_size / examples, 2),
            "loss": round(sum(self.losses[-tenth:]) / tenth, 5),
            "iou": round(sum(ious) / len(ious), 5) if ious else None,
        }

    def records(self, spec: SegmenterSpec, examples: int) -> Iterator[dict[str, Any]]:
        """One record per step, as JSON values; `examples` is their number."""
        for step, (loss, iou) in enumerate(zip(self.losses, self.ious, strict=True)):
            yield {
                "step": step + 1,
                "epoch": step * spec.batch_size // examples,
                "loss": round(loss, 6),
                "iou": None if math.isnan(iou) else round(iou, 5),
                "learning_rate": round(warmup_cosine(step, spec.steps, peak=spec.learning_rate, warmup=spec.warmup), 9),
            }


def train_segmenter(
    examples: Sequence[Example],
    spec: SegmenterSpec,
    *,
    channels: int = 1,
    checkpoint: str,
    checkpoint_every: int = 500,
    device: str = "cpu",
    on_progress: Callable[[Progress], None] = lambda progress: None,
    on_checkpoint: Callable[[int, History, nn.Module], None] = lambda step, history, network: None,
) -> tuple[nn.Module, History]:
    """Train a U-Net, resuming from the checkpoint if there is one.

    Args:
        examples: no smaller than a crop; the same ones, in the same order, whenever the training goes on.
        channels: of the network (see `build_unet`).
        checkpoint: URL of the training state.
        on_checkpoint: called in the first process with the steps done, the history, and the network as it would be.

    Returns:
        the network (averaged weights, evaluation mode) on the device, and the history of all steps.

    Raises:
        ValueError: no examples, or a batch size that the processes cannot share.
        FloatingPointError: the loss is no number any more.
    """
    if not examples:
        raise ValueError("there is no example to learn from")
    place = torch.device(device)
    accelerator = Accelerator(cpu=place.type == "cpu")
    own = _share(spec, accelerator.num_processes, accelerator.process_index)
    network = build_unet(spec.width, seed=spec.seed, channels=channels, device=place)
    network = network.to(place, memory_format=layout(place))  # type: ignore[call-overload]
    weights = dict(network.named_parameters())
    optimizer: Any = torch.optim.Adam(weights.values(), lr=spec.learning_rate)
    found = Checkpoint.load(checkpoint, optimizer)
    _copy_into(weights, found.weights.get("weights", {}))
    average = {name: value.detach().clone() for name, value in weights.items()}
    _copy_into(average, found.weights.get("average", {}))
    history = History(losses=found.losses, ious=found.weights["history"]["iou"].tolist() if found.step else [])
    ledger = _Ledger(accelerator, history, spec.steps, on_progress)
    unet, optimizer = accelerator.prepare(network, optimizer)
    half = spec.precision == "bfloat16" and computes_bfloat16(place)

    def save(done: int) -> None:
        ious = {"iou": torch.tensor(history.ious, dtype=torch.float64)}
        state = {"weights": weights, "average": average, "history": ious}
        # Before the checkpoint: a training that is killed in between makes these steps, and tells of them, again.
        on_checkpoint(done, history, _with_weights(spec, channels, average, device))
        Checkpoint(step=done, losses=history.losses, weights=state).save(checkpoint, optimizer)

    for step, images, masks in _batches(examples, spec, first=found.step, own=own, device=device):
        for group in optimizer.param_groups:
            group["lr"] = warmup_cosine(step, spec.steps, peak=spec.learning_rate, warmup=spec.warmup)
        with torch.autocast(place.type, torch.bfloat16, enabled=half):
            logits = unet(images.to(memory_format=layout(place)))
        loss = (binary_cross_entropy_with_logits if channels == 1 else cross_entropy)(logits.float(), masks)
        accelerator.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
        decay = min(spec.ema_decay, (step + 1) / (step + 10))
        torch._foreach_lerp_(list(average.values()), [p.detach() for p in weights.values()], 1 - decay)
        ledger.enter(loss.detach(), logits.detach(), masks)
        done = step + 1
        saving = done % checkpoint_every == 0 or done == spec.steps
        if saving or done % REPORT_EVERY == 0:
            ledger.close()
        if saving and accelerator.is_main_process:
            save(done)
    accelerator.wait_for_everyone()
    return _with_weights(spec, channels, average, device), history


class _Ledger:
    """Fills the history, some steps at a time."""

    def __init__(
        self, accelerator: Accelerator, history: History, steps: int, on_progress: Callable[[Progress], None]
    ) -> None:
        self._accelerator, self._history, self._steps, self._on_progress = accelerator, history, steps, on_progress
        self._pending: list[Tensor] = []

    def enter(self, loss: Tensor, logits: Tensor, masks: Tensor) -> None:
        """Notes the numbers of a step where they are, on the device."""
        pairs = [(logits > 0, masks > 0.5)]
        if (channels := logits.shape[1]) > 1:
            classes = logits.argmax(1)
            pairs = [(classes == number, masks == number) for number in range(1, channels)]
        counts = [count.float() for p, t in pairs for count in ((p & t).sum(), (p | t).sum())]
        self._pending.append(torch.stack([loss, *counts]))

    def close(self) -> None:
        """Brings them into the history, as means over all processes; FloatingPointError if they are none."""
        history = self._history
        numbers = self._accelerator.reduce(torch.stack(self._pending), "mean").tolist()
        self._pending = []
        for loss, *counts in numbers:
            if not math.isfinite(loss):
                raise FloatingPointError(f"the loss is {loss} at step {len(history.losses)}; lower the learning rate")
            history.losses.append(loss)
            own = [hits / union for hits, union in zip(counts[::2], counts[1::2], strict=True) if union]
            history.ious.append(sum(own) / len(own) if own else math.nan)
        losses, ious = history.losses[-RECENT:], [iou for iou in history.ious[-RECENT:] if not math.isnan(iou)]
        self._on_progress(
            Progress(
                step=len(history.losses),
                steps=self._steps,
                loss=sum(losses) / len(losses),
                iou=sum(ious) / len(ious) if ious else None,
            )
        )


def _share(spec: SegmenterSpec, ranks: int, rank: int) -> slice:
    """The part of every batch that a process computes."""
    if spec.batch_size % ranks:
        raise ValueError(f"a batch of {spec.batch_size} cannot be shared by {ranks} processes; change --batch-size")
    mine = spec.batch_size // ranks
    return slice(rank * mine, (rank + 1) * mine)


def _batches(
    examples: Sequence[Example], spec: SegmenterSpec, *, first: int, own: slice, device: str
) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Step, images and masks from step `first` on, each drawn while the one before is learned from."""
    on_cpu = torch.device(device).type == "cpu"

    def draw(step: int) -> tuple[Tensor, ...]:
        batch = draw_batch(examples, spec, step=step, own=own)
        return batch if on_cpu else tuple(value.pin_memory() for value in batch)

    with ThreadPoolExecutor(1, thread_name_prefix="crops") as ahead:
        coming = ahead.submit(draw, first)
        for step in range(first, spec.steps):
            batch, coming = coming, ahead.submit(draw, step + 1)
            images, masks = (value.to(device, non_blocking=True) for value in batch.result())
            yield step, images, masks


@torch.no_grad()
def _copy_into(target: dict[str, Tensor], source: Any) -> None:
    for name, value in source.items():
        target[name].copy_(value)


def _with_weights(spec: SegmenterSpec, channels: int, weights: dict[str, Tensor], device: str) -> nn.Module:
    """A network of its own with these weights, to be evaluated."""
    network = build_unet(spec.width, channels=channels, device=device).to(device)
    _copy_into(dict(network.named_parameters()), weights)
    return network.eval().requires_grad_(False)
