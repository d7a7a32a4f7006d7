"""Masks as polygons: exact, holes included; then simpler ones that still say the same.

An outline follows the edges of pixels, with the mask on its right. A hole becomes part of the polygon around it by a
cut from its left side to the next outline: a polygon that passes a line twice encloses the same as without it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Literal

import numpy as np

TOLERANCES = (1.0, 0.5)
"""Pixels that a simpler outline may be off."""
LEAST_IOU = 0.99
"""Of a simpler outline, filled, with the mask."""

Anchor = Literal["corners", "pixels"]

_STEPS = ((1, 0), (0, 1), (-1, 0), (0, -1))
_INSIDE = ((0, 0), (-1, 0), (-1, -1), (0, -1))
"""From the beginning of an edge to the pixel that it belongs to, by direction."""

Edge = tuple[int, int, int]
"""x and y of where it begins, and its direction (right, down, left, up)."""


def mask_to_polygons(mask: np.ndarray, anchor: Anchor = "corners") -> list[np.ndarray]:
    """One polygon, (N, 2) of x and y, for each 4-connected part of a mask ((H, W) bool).

    Args:
        anchor: corners follow the pixels' edges, in whole numbers: for readers that fill what is inside (COCO).
            pixels stay within the outermost pixels, a quarter off their centres: for readers that round
            coordinates down to pixels and fill these, too (YOLO).
    """
    loops = _trace(mask)
    place_of = {edge: (number, place) for number, loop in enumerate(loops) for place, edge in enumerate(loop)}
    cuts: dict[int, list[tuple[int, list[Edge]]]] = defaultdict(list)
    # From right to left: the outline that a hole is cut through to is always further left.
    holes = [number for number, loop in enumerate(loops) if _is_hole(loop)]
    holes.sort(key=lambda number: _leftmost(loops[number])[0], reverse=True)
    for number in holes:
        x, y, direction = _leftmost(loops[number])
        gaps = np.flatnonzero(~mask[y, :x])
        start = int(gaps[-1]) + 1 if len(gaps) else 0
        parent, place = place_of[start, y + 1, 3]
        own = place_of[x, y, direction][1]
        cuts[parent].append((place, _with_cuts(loops[number], cuts.pop(number, []), own, anchor)))
    return [
        _thin(_to_points(_with_cuts(loop, cuts.get(number, []), 0, anchor), anchor))
        for number, loop in enumerate(loops)
        if not _is_hole(loop)
    ]


def simplify(
    mask: np.ndarray, polygons: list[np.ndarray], fill: Callable[[list[np.ndarray]], np.ndarray]
) -> list[np.ndarray]:
    """Polygons with fewer corners, or these themselves where that would cost too much of the mask.

    Args:
        fill: from polygons to the mask that a reader makes of them.
    """
    for tolerance in TOLERANCES:
        simpler = [_reduce(polygon, tolerance) for polygon in polygons]
        filled = fill(simpler)
        if (filled & mask).sum() >= LEAST_IOU * (filled | mask).sum():
            return simpler
    return polygons


def _trace(mask: np.ndarray) -> list[list[Edge]]:
    """All outlines as edges in a row; those of holes run the other way round."""
    padded = np.pad(mask, 1)
    height, width = mask.shape
    starts = np.zeros((height + 1, width + 1, 4), dtype=bool)
    inside = padded[1:-1, 1:-1]
    starts[:-1, :-1, 0] = inside & ~padded[:-2, 1:-1]
    starts[:-1, 1:, 1] = inside & ~padded[1:-1, 2:]
    starts[1:, 1:, 2] = inside & ~padded[2:, 1:-1]
    starts[1:, :-1, 3] = inside & ~padded[1:-1, :-2]
    left = {(int(x), int(y), int(d)) for y, x, d in np.argwhere(starts)}
    loops = []
    for y, x, d in np.argwhere(starts):
        edge = int(x), int(y), int(d)
        loop = []
        while edge in left:
            left.remove(edge)
            loop.append(edge)
            x, y, d = edge
            x, y = x + _STEPS[d][0], y + _STEPS[d][1]
            # To the right first: pixels that touch at a corner alone are parts of their own.
            edge = next((at for turn in (1, 0, 3) if (at := (x, y, (d + turn) % 4)) in left), (x, y, -1))
        if loop:
            loops.append(loop)
    return loops


def _is_hole(loop: list[Edge]) -> bool:
    # The mask is on the right of an outline: its leftmost edge runs up if that is an outer one, down if it is a hole's.
    return _leftmost(loop)[2] == 1


def _leftmost(loop: list[Edge]) -> Edge:
    return min(edge for edge in loop if edge[2] in (1, 3))


def _with_cuts(loop: list[Edge], cuts: list[tuple[int, list[Edge]]], first: int, anchor: Anchor) -> list[Edge]:
    """The loop's edges with those of its holes where they are cut through to; it begins and, if a hole, ends there."""
    hole = _is_hole(loop)
    if hole and anchor == "corners":
        first = (first + 1) % len(loop)  # where the cut arrives is where that edge ends
    at: dict[int, list[list[Edge]]] = defaultdict(list)
    for place, edges in cuts:
        at[place].append(edges)
    edges = []
    for place in [*range(first, len(loop)), *range(first)]:
        edges.append(loop[place])
        for below in at.get(place, ()):
            edges += [*below, loop[place]]
    return [*edges, loop[first]] if hole else edges


def _to_points(edges: list[Edge], anchor: Anchor) -> np.ndarray:
    array = np.array(edges)
    if anchor == "corners":
        return array[:, :2].astype(float)
    inside, steps = np.array(_INSIDE)[array[:, 2]], np.array(_STEPS)[array[:, 2]]
    outwards = np.stack([steps[:, 1], -steps[:, 0]], axis=1)  # to the left of the edge
    return array[:, :2] + inside + 0.5 + 0.25 * outwards


def _thin(points: np.ndarray) -> np.ndarray:
    """Without points on a straight line between their neighbours."""
    before, after = points - np.roll(points, 1, axis=0), np.roll(points, -1, axis=0) - points
    bend = before[:, 0] * after[:, 1] - before[:, 1] * after[:, 0]
    back = (before * after).sum(axis=1) < 0
    return points[(bend != 0) | back]


def _reduce(points: np.ndarray, tolerance: float) -> np.ndarray:
    """Douglas and Peucker's simplification of a closed outline; at least a triangle, or the points as they are."""
    far = int(((points - points[0]) ** 2).sum(axis=1).argmax())
    closed = np.vstack([points, points[:1]])
    keep = np.zeros(len(closed), dtype=bool)
    keep[[0, far, -1]] = True
    todo = [(0, far), (far, len(points))]
    while todo:
        start, end = todo.pop()
        if end - start < 2:
            continue
        (x0, y0), (x1, y1) = closed[start], closed[end]
        between = closed[start + 1 : end] - closed[start]
        length = np.hypot(x1 - x0, y1 - y0)
        if length:
            distance = np.abs(between[:, 0] * (y1 - y0) - between[:, 1] * (x1 - x0)) / length
        else:
            distance = np.hypot(between[:, 0], between[:, 1])
        worst = int(distance.argmax())
        if distance[worst] > tolerance:
            middle = start + 1 + worst
            keep[middle] = True
            todo += [(start, middle), (middle, end)]
    kept = points[keep[:-1]]
    return kept if len(kept) >= 3 else points
