"""What every training here shares: random numbers of a step, the learning rate, and checkpoints without pickle."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import torch
from safetensors.torch import load, save
from torch import Tensor

from engine import storage

_OPTIMIZER = "optimizer-"
"""Begins the names of a checkpoint's groups of moments."""


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
    """The state after `step` steps: weights, their averages, optimizer moments, as safetensors files.

    The file at the URL names others beside it, one for each group of tensors: of a large model, only one group at a
    time has its copy in memory. It is written last, so that one checkpoint is whole whenever a training is killed.

    Attributes:
        losses: of every step.
        weights: named groups of named tensors, such as a module's state and its moving average. Of a checkpoint that
            was loaded, a group is read when it is asked for.
    """

    step: int = 0
    losses: list[float] = field(default_factory=list)
    weights: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)

    def save(self, url: str, optimizer: torch.optim.Optimizer) -> None:
        """Write it and the optimizer's state; the file appears under its name only when all is complete."""
        groups = {name: dict(own) for name, own in self.weights.items()}
        for index, state in optimizer.state_dict()["state"].items():
            for moment, value in state.items():
                groups.setdefault(f"{_OPTIMIZER}{moment}", {})[str(index)] = torch.as_tensor(value)
        folder, stem, ending = _split(url)
        files = {group: f"{stem}-{self.step:06d}-{group}{ending}" for group in groups}
        for group, tensors in groups.items():
            storage.atomic_put(_pack(tensors), folder + files[group])
        # The JSON travels as bytes in a tensor: safetensors gives metadata of local files only.
        notes = json.dumps({"step": self.step, "losses": self.losses, "files": files}).encode()
        storage.atomic_put(_pack({"notes": torch.frombuffer(bytearray(notes), dtype=torch.uint8)}), url)
        former = re.compile(rf"{re.escape(stem)}-(\d{{6,}})-.+{re.escape(ending)}")
        for name in storage.list_names(folder or "."):
            if (found := former.fullmatch(name)) and int(found[1]) < self.step:
                storage.remove(folder + name)

    @classmethod
    def load(cls, url: str, optimizer: torch.optim.Optimizer) -> Checkpoint:
        """Read it, with the optimizer's state restored in place; step 0 where files are missing, or of before."""
        folder, *_ = _split(url)
        try:
            notes = json.loads(load(storage.read_bytes(url))["notes"].numpy().tobytes())
            urls = {group: folder + name for group, name in notes["files"].items()}
        except (FileNotFoundError, KeyError):
            return cls()
        if not set(notes["files"].values()) <= set(storage.list_names(folder or ".")):
            return cls()
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        moments: dict[int, dict[str, Tensor]] = {}
        for group in [group for group in urls if group.startswith(_OPTIMIZER)]:
            for index, value in load(storage.read_bytes(urls.pop(group))).items():
                parameter = parameters[int(index)]
                if value.shape == parameter.shape:  # fused optimizers expect the parameter's own layout in memory
                    value = torch.empty_like(parameter).copy_(value)
                moments.setdefault(int(index), {})[group.removeprefix(_OPTIMIZER)] = value
        optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})
        return cls(step=notes["step"], losses=notes["losses"], weights=_Groups(urls))


class _Groups(Mapping[str, Mapping[str, Tensor]]):
    """Tensors of files, by the names of groups; read anew each time."""

    def __init__(self, urls: dict[str, str]) -> None:
        self._urls = urls

    def __getitem__(self, group: str) -> Mapping[str, Tensor]:
        return load(storage.read_bytes(self._urls[group]))

    def __iter__(self) -> Iterator[str]:
        return iter(self._urls)

    def __len__(self) -> int:
        return len(self._urls)


def _split(url: str) -> tuple[str, str, str]:
    """Folder with its slash, stem, and ending with its dot."""
    folder, slash, name = url.rpartition("/")
    stem, dot, ending = name.partition(".")
    return folder + slash, stem, dot + ending


def _pack(tensors: Mapping[str, Tensor]) -> bytes:
    return save(
        {name: value.detach().cpu().clone(memory_format=torch.contiguous_format) for name, value in tensors.items()}
    )
