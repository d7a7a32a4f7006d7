"""Where the loss of background inpainting applies: a random rectangle without the object (paper, Sec. 3.2).

The bounds are those of the paper for a 64 × 64 latent (both sides > 10 cells, 256 to 1024 cells in area, at least two
thirds background), as fractions of the image's own cells.
"""

from __future__ import annotations

import torch
from torch import Tensor

SHORTEST_SIDE = 10 / 64
SMALLEST_AREA, LARGEST_AREA = 256 / 64**2, 1024 / 64**2
LEAST_BACKGROUND = 2 / 3
TRIES = 100


def draw_rectangle(
    mask: Tensor, rows: int, columns: int, generator: torch.Generator
) -> tuple[int, int, int, int] | None:
    """A rectangle (top, left, height, width) in cells that obeys the bounds; None after 100 tries.

    Args:
        mask: [h, w] bool, M_pre on the CPU; the image occupies its first `rows` and `columns`.
    """
    heights = _draw_sides(rows, generator)
    widths = _draw_sides(columns, generator)
    tops = (torch.rand(TRIES, generator=generator) * (rows - heights + 1)).long()
    lefts = (torch.rand(TRIES, generator=generator) * (columns - widths + 1)).long()
    sums = torch.zeros(rows + 1, columns + 1)
    sums[1:, 1:] = mask[:rows, :columns].float().cumsum(0).cumsum(1)
    bottoms, rights = tops + heights, lefts + widths
    inside = sums[bottoms, rights] - sums[tops, rights] - sums[bottoms, lefts] + sums[tops, lefts]
    areas, whole = heights * widths, rows * columns
    good = (areas >= SMALLEST_AREA * whole) & (areas <= LARGEST_AREA * whole)
    good &= inside <= (1 - LEAST_BACKGROUND) * areas
    if not good.any():
        return None
    index = int(good.long().argmax())
    return int(tops[index]), int(lefts[index]), int(heights[index]), int(widths[index])


def draw_region(mask: Tensor, rows: int, columns: int, generator: torch.Generator) -> Tensor:
    """The cells to learn background from: a random rectangle minus M_pre, or all background if none fits.

    Returns:
        [h, w] bool; without the letterbox. Empty only if M_pre covers all of the image.
    """
    region = torch.zeros_like(mask)
    rectangle = draw_rectangle(mask, rows, columns, generator)
    if rectangle is None:
        region[:rows, :columns] = True
    else:
        top, left, height, width = rectangle
        region[top : top + height, left : left + width] = True
    return region & ~mask


def _draw_sides(cells: int, generator: torch.Generator) -> Tensor:
    shortest = min(int(SHORTEST_SIDE * cells) + 1, cells)
    return torch.randint(shortest, cells + 1, (TRIES,), generator=generator)
