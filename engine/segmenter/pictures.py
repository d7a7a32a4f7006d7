"""Pictures by which a person sees what a segmenter has learned: its masks beside the labels, loss and IoU."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import one_hot

from engine.diffusion.grid import draw_grid
from engine.segmenter.examples import Example
from engine.segmenter.spec import SegmenterSpec
from engine.segmenter.train import History
from engine.segmenter.unet import images_to_tensor, logits_to_probability

COLUMNS = 8
COLOURS = ((0, 0, 0), (230, 75, 60), (70, 140, 240), (80, 190, 90), (245, 190, 50), (160, 95, 205), (60, 200, 200))
"""Of the background and of classes, which begin anew after the last."""


@torch.no_grad()
def draw_predictions(network: nn.Module, examples: Sequence[Example], spec: SegmenterSpec, device: str) -> Image.Image:
    """The middles of some examples: images, labels, and probabilities as the network sees them."""
    columns = min(COLUMNS, len(examples))
    chosen = [examples[index * len(examples) // columns] for index in range(columns)]
    windows = [_middle(example, spec.crop) for example in chosen]
    images = images_to_tensor(np.stack([example.image[w] for example, w in zip(chosen, windows, strict=True)]))
    labels = np.stack([example.mask[w] for example, w in zip(chosen, windows, strict=True)])
    probability = logits_to_probability(network(images.to(device)).float()).cpu()
    if (classes := probability.shape[1]) > 1:
        truth = one_hot(torch.from_numpy(labels).long(), classes).movedim(-1, 1)
        return draw_grid([images, _coloured(truth), _coloured(probability)])
    return draw_grid([images, _grey(torch.from_numpy(labels)), _grey(probability[:, 0])])


def draw_history(history: History) -> bytes:
    """Loss and IoU of every step and their running means, as a PNG."""
    figure = Figure(figsize=(9, 4), layout="constrained")
    FigureCanvasAgg(figure)
    for column, (name, values) in enumerate([("loss", history.losses), ("IoU with the labels", history.ious)]):
        axes = figure.add_subplot(1, 2, column + 1, xlabel="step", ylabel=name)
        axes.plot(range(1, len(values) + 1), values, color="0.8", linewidth=0.6)
        width = max(1, len(values) // 50)
        means = torch.tensor(values, dtype=torch.float64).unfold(0, width, 1).nanmean(1)
        axes.plot(range(width, len(values) + 1), means, label=f"mean of {width} steps")
        axes.legend()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    return buffer.getvalue()


def _middle(example: Example, side: int) -> tuple[slice, slice]:
    top, left = ((length - side) // 2 for length in example.mask.shape)
    return slice(top, top + side), slice(left, left + side)


def _grey(values: Tensor) -> Tensor:
    """[n, h, w] in 0..1 -> [n, 3, h, w] in -1..1."""
    return (values.float() * 2 - 1)[:, None].expand(-1, 3, -1, -1)


def _coloured(shares: Tensor) -> Tensor:
    """[n, C, h, w] of background and classes, summing to 1 -> [n, 3, h, w] in -1..1, their colours mixed."""
    numbers = [0, *(1 + index % (len(COLOURS) - 1) for index in range(shares.shape[1] - 1))]
    colours = torch.tensor([COLOURS[number] for number in numbers]) / 127.5 - 1
    return torch.einsum("nchw,cr->nrhw", shares.float(), colours)
