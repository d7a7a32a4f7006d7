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
from PIL import Image, ImageDraw
from torch import Tensor

from engine.diffusion.model import COMPONENTS, LatentDiffusion
from engine.diffusion.pretraining.data import to_model_range
from engine.diffusion.sampling import sample_ddim

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
    lines = [
        "# Model card",
        "",
        f"A text-to-image latent diffusion model in diffusers format ({size / 1e6:.1f} MB of safetensors), trained "
        f"from scratch on {images} captioned images of {config['resolution']} pixels. No mask was read.",
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
    save_grid([to_model_range(images), out], path)


def write_samples(model: LatentDiffusion, prompts: list[str], path: Path, *, seed: int, steps: int = 20) -> None:
    """A PNG with a sample of every prompt, from fixed noise."""
    shape = (len(prompts), model.unet.config.in_channels, model.latent_size, model.latent_size)
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(model.device)
    context = model.encode_text(prompts)
    images = model.decode(sample_ddim(model, noise, context, steps)).cpu()
    save_grid([images], path, titles=prompts)


def save_grid(rows: list[Tensor], path: Path, *, titles: list[str] | None = None) -> None:
    """Rows of images ([n, 3, H, W] in [-1, 1]) as one PNG, with an optional title over each column."""
    height, width = rows[0].shape[-2:]
    head = 24 if titles else 0
    sheet = Image.new("RGB", (len(rows[0]) * width, head + len(rows) * height), "white")
    for r, row in enumerate(rows):
        for c, image in enumerate(row):
            pixels = ((image.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 0).numpy()
            sheet.paste(Image.fromarray(pixels), (c * width, head + r * height))
    pen = ImageDraw.Draw(sheet)
    for c, title in enumerate(titles or []):
        words = title.removeprefix("a photo of ")
        pen.text((c * width + 2, 2), words[: width // 6] + "\n" + words[width // 6 :], fill="black")
    sheet.save(path)
