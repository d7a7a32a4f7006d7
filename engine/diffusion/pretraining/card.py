"""What a training leaves for people: a model card with loss curves, reconstructions, samples."""

from __future__ import annotations

import json
import math
import platform
from datetime import date
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from torch import Tensor

from engine.diffusion.grid import draw_grid
from engine.diffusion.model import COMPONENTS, LatentDiffusion
from engine.diffusion.pretraining.data import to_model_range
from engine.diffusion.sampling import guide, sample

CURVE_POINTS = 12


def write_card(
    folder: Path, *, command: str, images: int, config: dict[str, Any], losses: dict[str, list[float]]
) -> None:
    """Write README.md (for people) and training.json (for programs) beside the model in `folder`."""
    curves = {name: thin(values) for name, values in losses.items() if values}
    day = date.today().isoformat()
    record = {"date": day, "command": command, "images": images, "config": config, "losses": curves}
    (folder / "training.json").write_text(json.dumps(record, indent=1) + "\n")
    size = sum(path.stat().st_size for part in COMPONENTS for path in (folder / part).glob("*.safetensors"))
    initial = config.get("initial")
    lines = [
        "# Model card",
        "",
        f"A text-to-image latent diffusion model in diffusers format ({size / 1e6:.1f} MB of safetensors), trained "
        f"{f'on from the model {initial}' if initial else 'from scratch'} on {images} captioned images of "
        f"{config['resolution']} pixels. No mask was read.",
        "",
        f"    {command}",
        "",
        f"Date {day}, seed {config['seed']}, {platform.machine()}, torch {torch.__version__}. "
        "All settings are in `training.json`.",
        "",
        "| loss (mean since the last row) | step | value |",
        "| --- | --- | --- |",
        *(f"| {name} | {step} | {value:.4f} |" for name, curve in curves.items() for step, value in curve),
        "",
        "![samples](samples.png)",
        "",
    ]
    (folder / "README.md").write_text("\n".join(lines))


def thin(losses: list[float]) -> list[list[float]]:
    """A curve of at most CURVE_POINTS points: [last step of an interval, mean loss over it]."""
    every = max(1, math.ceil(len(losses) / CURVE_POINTS))
    parts = [(start, losses[start : start + every]) for start in range(0, len(losses), every)]
    return [[start + len(part), round(sum(part) / len(part), 5)] for start, part in parts]


def write_reconstructions(vae: AutoencoderKL, images: Tensor, path: Path) -> None:
    """A PNG of images ([N, 3, R, R] uint8) above their reconstructions."""
    with torch.no_grad():
        x = to_model_range(images).to(vae.device)
        out = vae.decode(vae.encode(x).latent_dist.mean).sample.cpu()
    draw_grid([to_model_range(images), out]).save(path)


def write_samples(model: LatentDiffusion, prompts: list[str], path: Path, *, seed: int, steps: int = 20) -> None:
    """A PNG with a sample of every prompt, from fixed noise."""
    shape = (len(prompts), model.unet.config.in_channels, model.latent_size, model.latent_size)
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(model.device)
    context = model.encode_text(prompts)
    images = model.decode(sample(model, noise, guide(model, context, context, 1), steps)).cpu()
    draw_grid([images], titles=prompts).save(path)
