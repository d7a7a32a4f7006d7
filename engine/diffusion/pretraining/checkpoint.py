"""Training state as one safetensors file: modules, their averages, optimizer moments, the step. No pickle anywhere."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn


def save_checkpoint(
    path: Path,
    *,
    step: int,
    modules: Mapping[str, nn.Module],
    optimizer: torch.optim.Optimizer,
    losses: list[float],
) -> None:
    """Write the state after `step` steps; the file appears under its name only when complete."""
    tensors: dict[str, Tensor] = {}
    for name, module in modules.items():
        tensors |= {f"{name}/{key}": value.detach().cpu().contiguous() for key, value in module.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer/{index}/{key}": torch.as_tensor(value).cpu() for key, value in state.items()}
    partial = path.with_name(f".{path.name}.partial")
    save_file(
        {k: v.clone() for k, v in tensors.items()},
        partial,
        metadata={"step": str(step), "losses": json.dumps(losses)},
    )
    partial.rename(path)


def load_checkpoint(
    path: Path, *, modules: Mapping[str, nn.Module], optimizer: torch.optim.Optimizer
) -> tuple[int, list[float]]:
    """Restore in place what `save_checkpoint` wrote; returns the steps done and the losses, (0, []) without a file."""
    if not path.exists():
        return 0, []
    with safe_open(path, "pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a mapping
        metadata = file.metadata()
    for name, module in modules.items():
        own = {key.removeprefix(f"{name}/"): value for key, value in tensors.items() if key.startswith(f"{name}/")}
        module.load_state_dict(own)
    moments: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith("optimizer/"):
            _, index, field = key.split("/")
            moments.setdefault(int(index), {})[field] = value
    optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})
    return int(metadata["step"]), json.loads(metadata["losses"])
