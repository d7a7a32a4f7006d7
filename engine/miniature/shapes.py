"""Outlines and colours that the things of the miniature world are made of."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

Color = tuple[float, float, float]
Points = np.ndarray  # (n, 2) float

COLORS: dict[str, Color] = {
    "red": (0.80, 0.13, 0.12),
    "blue": (0.15, 0.30, 0.78),
    "green": (0.12, 0.58, 0.25),
    "yellow": (0.93, 0.80, 0.16),
    "orange": (0.93, 0.50, 0.12),
    "white": (0.93, 0.93, 0.91),
    "black": (0.10, 0.10, 0.11),
    "gray": (0.50, 0.51, 0.53),
    "brown": (0.46, 0.29, 0.16),
    "purple": (0.50, 0.22, 0.62),
}


@dataclass(frozen=True, kw_only=True)
class Part:
    """One filled outline: `points` (n, 2) in the unit frame, a colour, the name of its part ("" = body)."""

    points: Points
    color: Color
    name: str = ""
    textured: bool = True


def ellipse(cx: float, cy: float, rx: float, ry: float, angle: float = 0.0, n: int = 28) -> Points:
    """Outline of an ellipse, turned by `angle` radians."""
    t = np.linspace(0, 2 * np.pi, n, endpoint=False)
    x, y = rx * np.cos(t), ry * np.sin(t)
    c, s = np.cos(angle), np.sin(angle)
    return np.stack([cx + c * x - s * y, cy + s * x + c * y], axis=1)


def limb(x0: float, y0: float, x1: float, y1: float, w0: float, w1: float) -> Points:
    """Outline of a tapered stroke from (x0, y0), `w0` wide, to (x1, y1), `w1` wide."""
    d = np.array([x1 - x0, y1 - y0])
    n = np.array([-d[1], d[0]]) / (np.hypot(*d) + 1e-9)
    a, b = np.array([x0, y0]), np.array([x1, y1])
    cap = b + d / (np.hypot(*d) + 1e-9) * w1 * 0.4
    return np.stack([a + n * w0 / 2, b + n * w1 / 2, cap, b - n * w1 / 2, a - n * w0 / 2])


def box(x0: float, y0: float, x1: float, y1: float, r: float = 0.0) -> Points:
    """Outline of a rectangle with cut corners of size `r`."""
    return np.array(
        [
            (x0 + r, y0),
            (x1 - r, y0),
            (x1, y0 + r),
            (x1, y1 - r),
            (x1 - r, y1),
            (x0 + r, y1),
            (x0, y1 - r),
            (x0, y0 + r),
        ]
    )


def shade(color: Color, factor: float) -> Color:
    """`color` made lighter (factor > 1) or darker (factor < 1), kept within 0..1."""
    r, g, b = (float(np.clip(c * factor, 0, 1)) for c in color)
    return r, g, b
