"""Pictures by which a person sees that m′ has learned: samples of both prompts, objects removed, the loss."""

from __future__ import annotations

import io

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from engine.diffusion.grid import draw_grid
from engine.diffusion.model import LatentDiffusion
from engine.diffusion.noise import draw_noise
from engine.diffusion.sampling import Known, guide, sample
from engine.distillation.examples import Examples

COLUMNS = 6
STEPS = 15


@torch.no_grad()
def draw_progress(model: LatentDiffusion, examples: Examples, prompts: tuple[str, str], *, seed: int) -> Image.Image:
    """Samples under y_f, samples under y_b, then images, the region painted over, and what m′ paints there."""
    count = min(COLUMNS, len(examples))
    shape = (count, *examples.latents.shape[2:])
    noise = draw_noise(seed, "progress", "distillation", shape).to(model.device)
    foreground, background = model.encode_text(list(prompts)).split(1)
    rows = [
        model.decode(sample(model, noise, guide(model, foreground, background, weight), STEPS, solver="dpm++"))
        for weight in (1, 0)
    ]
    spread = torch.linspace(0, len(examples) - 1, count).long()
    z0, region = examples.latents[spread, 0].to(model.device), examples.masks[spread, 0].to(model.device)
    known = Known(z0=z0, region=region, noise=noise)
    removed = sample(model, noise, guide(model, foreground, background, 0), STEPS, solver="dpm++", known=known)
    images = model.decode(z0)
    shade = region.repeat_interleave(model.factor, 1).repeat_interleave(model.factor, 2)[:, None]
    rows += [images, torch.where(shade, torch.full_like(images, 0.9), images), model.decode(removed)]
    return draw_grid([row.float().cpu() for row in rows])


def draw_losses(losses: list[float]) -> bytes:
    """The loss of every step and its running mean, as a PNG."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot(xlabel="step", ylabel="loss", title="fine-tuning: masked ε-loss")
    axes.plot(range(1, len(losses) + 1), losses, color="0.8", linewidth=0.6)
    width = max(1, len(losses) // 20)
    means = running_mean(torch.tensor(losses, dtype=torch.float64), width)
    axes.plot(range(width, len(losses) + 1), means, label=f"mean of {width} steps")
    axes.legend()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    return buffer.getvalue()


def running_mean(values: Tensor, width: int) -> Tensor:
    """Mean of each `width` consecutive values: [n - width + 1]."""
    return values.unfold(0, width, 1).mean(1)
