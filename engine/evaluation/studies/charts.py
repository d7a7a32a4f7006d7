"""Curves and bars of a study as PNGs."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator

COLOURS = ("#1f5fa8", "#d9822b", "#3d8f5b", "#8a4f9e")
FAINT = "0.85"


def draw_curves(
    x: Sequence[float],
    curves: Mapping[str, Sequence[float | None]],
    *,
    title: str,
    xlabel: str,
    ylabel: str,
    spread: Mapping[str, Sequence[float]] | None = None,
    mark: tuple[float, str] | None = None,
    logarithmic: bool = False,
) -> bytes:
    """Curves over x, with gaps at None, and a band of ± `spread` around those that have one.

    Args:
        mark: an x with its name, drawn as a vertical line.
        logarithmic: scale of y.
    """
    figure, axes = _start(title, xlabel, ylabel)
    for colour, (name, values) in zip(COLOURS, curves.items(), strict=False):
        y = np.array(values, dtype=float)
        axes.plot(x, y, marker="o", markersize=3, color=colour, label=name)
        if spread and name in spread:
            s = np.array(spread[name], dtype=float)
            axes.fill_between(x, y - s, y + s, color=colour, alpha=0.15, linewidth=0)
    if mark:
        axes.axvline(mark[0], color="0.4", linestyle=":", linewidth=1)
        axes.annotate(
            mark[1],
            (mark[0], 0.03),
            xycoords=("data", "axes fraction"),
            xytext=(4, 0),
            textcoords="offset points",
            color="0.4",
        )
    if logarithmic:
        axes.set_yscale("log")
    if all(float(value).is_integer() for value in x):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(color=FAINT, linewidth=0.6)
    axes.legend(frameon=False)
    return _finish(figure)


def draw_bars(
    names: Sequence[str],
    groups: Mapping[str, Sequence[float | None]],
    *,
    title: str,
    xlabel: str,
    ylabel: str,
    bold: Sequence[int] = (),
    baseline: tuple[float, str] | None = None,
) -> bytes:
    """Bars for each name, side by side for each group.

    Args:
        bold: positions of the names that matter.
        baseline: a y with its name, drawn as a horizontal line.
    """
    figure, axes = _start(title, xlabel, ylabel)
    width = 0.8 / len(groups)
    for index, (colour, (group, values)) in enumerate(zip(COLOURS, groups.items(), strict=False)):
        y = np.array(values, dtype=float)
        places = [place + (index - (len(groups) - 1) / 2) * width for place in range(len(names))]
        bars = axes.bar(places, y, width, color=colour, label=group)
        axes.bar_label(bars, [f"{value:.3f}" for value in y], fontsize=7, padding=1)
    if baseline:
        axes.axhline(baseline[0], color="0.4", linestyle=":", linewidth=1, label=baseline[1])
    axes.set_xticks(range(len(names)), names)
    for position in bold:
        axes.get_xticklabels()[position].set_fontweight("bold")
    axes.set_axisbelow(True)
    axes.grid(axis="y", color=FAINT, linewidth=0.6)
    axes.margins(y=0.12)
    figure.legend(frameon=False, loc="outside lower center", ncols=3)
    return _finish(figure)


TITLE_LETTERS = 15
"""How many letters of a name are as wide as the picture below it; longer ones are broken."""


def draw_tiles(
    rows: Sequence[Sequence[np.ndarray]], names: Sequence[str], *, title: str, bold: Sequence[int] = ()
) -> bytes:
    """Pictures in rows, a name over each column: (H, W, 3) uint8 as they are, (H, W) uint8 heatmaps, bool masks."""
    side = 1.15
    width, height = side * len(names), side * len(rows)
    tight = ConstrainedLayoutEngine(w_pad=0.01, h_pad=0.02, wspace=0, hspace=0)
    figure = Figure(figsize=(width, height + 0.55), layout=tight)
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=10)
    grid = figure.subplots(len(rows), len(names), squeeze=False)
    for r, row in enumerate(rows):
        for c, picture in enumerate(row):
            axes = grid[r, c]
            mask = picture.dtype == np.bool_
            axes.imshow(picture, cmap="gray" if mask else "inferno", vmin=0, vmax=1 if mask else 255)
            axes.set_axis_off()
            if r == 0:
                name, weight = textwrap.fill(names[c], TITLE_LETTERS), "bold" if c in bold else "normal"
                axes.set_title(name, fontsize=9, fontweight=weight)
    return _finish(figure)


def _start(title: str, xlabel: str, ylabel: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot(xlabel=xlabel, ylabel=ylabel)
    axes.set_title(title, fontsize=11)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    return figure, axes


def _finish(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    return buffer.getvalue()
