"""The device that something shall compute on: whether it can, and how exactly a GPU does."""

from __future__ import annotations

import torch


class GpuError(RuntimeError):
    """The GPU cannot be used; the message says why, and what to do."""


def check_device(name: str) -> torch.device:
    """The device that --device names; ValueError for one that is none, or cannot be used here."""
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"--device is {name!r}, which cannot be used here ({reason})") from error
    return device


def prepare_device(device: torch.device | str) -> None:
    """Tries a GPU, and has it round float32 products to TF32, as it does in convolutions anyway; a CPU stays as it is.

    Raises:
        GpuError: torch was built without CUDA or for other GPUs, or the driver is too old for it, or is not there.
    """
    if torch.device(device).type != "cuda":
        return
    try:
        torch.cuda.init()
        torch.zeros(1, device=device).add_(1)  # only a kernel shows whether there are any for this kind of GPU
    except torch.OutOfMemoryError:
        raise
    except (AssertionError, RuntimeError) as error:
        reason = str(error).partition("\n")[0].partition(". ")[0].rstrip(".")
        raise GpuError(
            f"torch {torch.__version__} cannot use the GPU ({reason}); install the NVIDIA driver or the build of torch "
            "that it needs (see deploy/README.md), or hide the GPU from Ray: CUDA_VISIBLE_DEVICES= before the command"
        ) from error
    torch.set_float32_matmul_precision("high")
