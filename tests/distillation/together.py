"""One of several processes that fine-tune together, on CPUs, as Ray Train or torchrun begins them.

    RANK=0 WORLD_SIZE=2 ... python -m tests.distillation.together FOLDER ROOM...

ROOM is the number of examples that the memory holds at once, one for each process. Losses and weights go to FOLDER.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
from diffusers.models.unets.unet_2d_blocks import UNetMidBlock2DCrossAttn
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.modules.module import register_module_forward_hook

from tests.distillation.test_distil import make_spec, run

SPEC = make_spec(steps=2, batch_size=6)


def main(folder: str, room: int, rank: int) -> None:
    sizes: list[int] = []

    def run_out(gradient: Tensor) -> None:
        """Amid a backward pass, when some gradients are there already."""
        if len(gradient) > room:
            raise torch.OutOfMemoryError("CUDA out of memory")

    def watch(module: torch.nn.Module, given: Any, found: Any) -> None:
        if isinstance(module, UNetMidBlock2DCrossAttn):
            sizes.append(len(found))
            found.register_hook(run_out)

    register_module_forward_hook(watch)
    weights, losses = run(SPEC, Path(folder, "state"))
    Path(folder, f"{rank}.json").write_text(json.dumps({"losses": losses, "sizes": sizes}))
    save_file({name: value.contiguous() for name, value in weights.items()}, Path(folder, f"{rank}.safetensors"))


if __name__ == "__main__":
    torch.set_num_threads(1)
    number = int(os.environ["RANK"])
    main(sys.argv[1], int(sys.argv[2 + number]), number)
