"""Whether what computes can use the GPU that there is."""

from __future__ import annotations

import torch


class GpuError(RuntimeError):
    """The GPU cannot be used; the message says why, and what to do."""


def check_device(device: torch.device | str) -> None:
    """Nothing on a CPU or a GPU that torch can use.

    Raises:
        GpuError: torch was built without CUDA, or the driver is too old for it, or is not there.
    """
    if torch.device(device).type != "cuda":
        return
    try:
        torch.cuda.init()
    except (AssertionError, RuntimeError) as error:  # of a torch without CUDA, of a driver that does not suit it
        reason = str(error).partition("\n")[0].partition(". ")[0].rstrip(".")
        raise GpuError(
            f"torch {torch.__version__} cannot use the GPU ({reason}); install the NVIDIA driver or the build of torch "
            "that it needs (see deploy/README.md), or hide the GPU from Ray: CUDA_VISIBLE_DEVICES= before the command"
        ) from error
