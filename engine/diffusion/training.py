"""What every training here shares: random numbers of a step, the learning rate, and checkpoints without pickle."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from safetensors.torch import load, save
from torch import Tensor

from engine import storage


def batch_generator(seed: int, step: int) -> torch.Generator:
    """The random numbers of one step: a function of (seed, step), so that a resumed run repeats none and skips none."""
    # The generator takes 32 bits; an odd factor keeps the steps of one seed apart, and seeds from each other.
    return torch.Generator().manual_seed((seed * 0x9E3779B1 + step) % 2**32)


def warmup_cosine(step: int, steps: int, *, peak: float, warmup: int) -> float:
    """Learning rate of step `step` (0-based) of `steps`: up to `peak` linearly, then a half cosine to its hundredth."""
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    return peak * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, progress))))


@dataclass(frozen=True, kw_only=True)
class Progress:
    """What a training tells now and then: `step` of `steps` is done, at this mean loss (and IoU) of late."""

    step: int
    steps: int
    loss: float
    iou: float | None = None

    def __str__(self) -> str:
        iou = "" if self.iou is None else f" · IoU {self.iou:.3f}"
        return f"step {self.step} of {self.steps} · loss {self.loss:.4f}{iou}"


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """The state after `step` steps: weights, their averages, optimizer moments, as one safetensors file.

    Attributes:
        losses: of every step.
        weights: named groups of named tensors, such as a module's state and its moving average.
    """

    step: int = 0
    losses: list[float] = field(default_factory=list)
    weights: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)

    def save(self, url: str, optimizer: torch.optim.Optimizer) -> None:
        """Write it and the optimizer's state; the file appears under its name only when complete."""
        tensors = {f"{group}/{key}": value for group, own in self.weights.items() for key, value in own.items()}
        for index, state in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer/{index}/{key}": torch.as_tensor(value) for key, value in state.items()}
        # The JSON travels as bytes beside the tensors: safetensors gives metadata of local files only.
        notes = json.dumps({"step": self.step, "losses": self.losses}).encode()
        tensors["notes"] = torch.frombuffer(bytearray(notes), dtype=torch.uint8)
        data = save(
            {name: value.detach().cpu().clone(memory_format=torch.contiguous_format) for name, value in tensors.items()}
        )
        storage.atomic_put(data, url)

    @classmethod
    def load(cls, url: str, optimizer: torch.optim.Optimizer) -> Checkpoint:
        """Read it, with the optimizer's state restored in place; step 0 without a file."""
        try:
            tensors = load(storage.read_bytes(url))
        except FileNotFoundError:
            return cls()
        notes = json.loads(tensors.pop("notes").numpy().tobytes())
        weights: dict[str, dict[str, Tensor]] = {}
        moments: dict[int, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            group, _, key = name.partition("/")
            if group == "optimizer":
                index, _, moment = key.partition("/")
                moments.setdefault(int(index), {})[moment] = value
            else:
                weights.setdefault(group, {})[key] = value
        optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})
        for parameter, state in optimizer.state.items():
            for name, value in state.items():
                if value.shape == parameter.shape:  # fused optimizers expect the parameter's own layout in memory
                    state[name] = torch.empty_like(parameter).copy_(value)
        return cls(step=notes["step"], losses=notes["losses"], weights=weights)
