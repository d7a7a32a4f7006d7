"""The things of the miniature world: birds, cars, dogs and humans, as filled outlines in a unit frame.

A thing is a list of `Part`s in painting order. Coordinates are in a frame where the thing roughly spans
[-0.5, 0.5] in both directions, x to the right and y downwards; `scenes` scales, turns, mirrors and places it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from engine.miniature.shapes import COLORS, Color, Part, box, ellipse, limb, shade

SKIN: list[Color] = [(0.95, 0.78, 0.66), (0.82, 0.62, 0.47), (0.60, 0.41, 0.28), (0.38, 0.25, 0.17)]


@dataclass(frozen=True, kw_only=True)
class Thing:
    """A drawn concept: its parts, the adjective its caption may use ("red") and the extra phrase ("with a red hat")."""

    concept: str
    parts: list[Part]
    adjective: str
    extra: str = ""
    stands: bool = True


def _pick_color(rng: np.random.Generator, names: list[str]) -> tuple[str, Color]:
    name = names[rng.integers(len(names))]
    jitter = rng.normal(0, 0.035, 3)
    r, g, b = (float(np.clip(c + j, 0, 1)) for c, j in zip(COLORS[name], jitter, strict=True))
    return name, (r, g, b)


def draw_bird(rng: np.random.Generator) -> Thing:
    """A bird seen from the side, perched or with spread wings."""
    adjective, color = _pick_color(rng, ["red", "blue", "green", "yellow", "white", "black", "brown", "gray", "orange"])
    wing, belly = shade(color, rng.uniform(0.55, 0.8)), shade(color, rng.uniform(1.1, 1.5))
    beak = COLORS["orange"] if rng.random() < 0.6 else (0.25, 0.22, 0.2)
    fat, tilt = rng.uniform(0.16, 0.23), rng.uniform(-0.35, 0.2)
    flying = rng.random() < 0.35
    hx, hy = 0.27, -0.17 + tilt * 0.2
    parts = [
        Part(
            points=np.array([(-0.22, -0.02), (-0.52, -0.06 - tilt * 0.3), (-0.5, 0.08), (-0.2, 0.1)]),
            color=wing,
        )
    ]
    if flying:
        lift = rng.uniform(0.3, 0.5)
        parts.append(
            Part(
                points=np.array([(0.12, -0.05), (-0.02, -lift), (-0.25, -lift - 0.04), (-0.16, 0.0)]),
                color=wing,
            )
        )
    else:
        for x in (-0.03, 0.07):
            parts.append(
                Part(points=limb(x, 0.12, x + 0.02, 0.38, 0.035, 0.03), color=shade(beak, 0.8), textured=False)
            )
    parts += [
        Part(points=ellipse(0.0, 0.0, 0.30, fat, tilt), color=color),
        Part(points=ellipse(0.05, 0.07, 0.20, fat * 0.55, tilt), color=belly),
        Part(
            points=np.array([(hx + 0.1, hy - 0.05), (hx + 0.27, hy + 0.02), (hx + 0.1, hy + 0.06)]),
            color=beak,
            textured=False,
        ),
        Part(points=ellipse(hx, hy, 0.135, 0.13), color=shade(color, 1.08)),
        Part(points=ellipse(hx + 0.05, hy - 0.03, 0.025, 0.025), color=(0.03, 0.03, 0.03), textured=False),
    ]
    if flying:
        drop = rng.uniform(0.2, 0.42)
        parts.append(
            Part(
                points=np.array([(0.14, -0.02), (0.02, -drop), (-0.34, -drop - 0.1), (-0.12, 0.08)]),
                color=shade(wing, 1.2),
            )
        )
    else:
        parts.append(Part(points=ellipse(-0.07, 0.0, 0.2, fat * 0.6, tilt + 0.15), color=wing))
    return Thing(concept="bird", parts=parts, adjective=adjective, stands=not flying)


def draw_car(rng: np.random.Generator) -> Thing:
    """A car seen from the side: saloon, hatchback or van; now and then with a roof box."""
    adjective, color = _pick_color(
        rng, ["red", "blue", "green", "yellow", "white", "black", "gray", "orange", "purple"]
    )
    low, roof = rng.uniform(-0.06, 0.0), rng.uniform(-0.26, -0.2)
    x0, x1 = (-0.38, 0.22) if rng.random() < 0.5 else (-0.47, 0.18)
    if rng.random() < 0.25:
        roof -= 0.08
        x0, x1 = -0.48, 0.3
    glass = (0.55, 0.68, 0.78) if rng.random() < 0.7 else (0.16, 0.2, 0.25)
    slope = rng.uniform(0.06, 0.14)
    cabin = np.array([(x0, low), (x0 + slope, roof), (x1 - slope, roof), (x1 + 0.04, low)])
    parts: list[Part] = []
    extra = ""
    if rng.random() < 0.12:
        name, paint = _pick_color(rng, ["red", "black", "white", "blue", "yellow"])
        parts.append(
            Part(
                points=box(x0 + slope, roof - 0.12, x1 - slope, roof + 0.02, 0.03),
                color=paint,
                name="roof box",
            )
        )
        extra = f"with a {name} roof box" if rng.random() < 0.5 else "with a roof box"
    middle = (x0 + x1) / 2 + rng.uniform(-0.03, 0.03)
    parts += [
        Part(points=cabin, color=color),
        Part(
            points=np.array(
                [
                    (x0 + 0.05, low),
                    (x0 + slope + 0.03, roof + 0.04),
                    (middle - 0.02, roof + 0.04),
                    (middle - 0.02, low),
                ]
            ),
            color=glass,
            textured=False,
        ),
        Part(
            points=np.array(
                [
                    (middle + 0.02, low),
                    (middle + 0.02, roof + 0.04),
                    (x1 - slope - 0.02, roof + 0.04),
                    (x1 - 0.02, low),
                ]
            ),
            color=glass,
            textured=False,
        ),
        Part(points=box(-0.5, low - 0.01, 0.5, 0.17, 0.05), color=color),
        Part(points=box(-0.5, 0.11, 0.5, 0.17, 0.02), color=shade(color, 0.65)),
        Part(points=ellipse(0.47, 0.04, 0.03, 0.035), color=(0.98, 0.95, 0.7), textured=False),
        Part(points=ellipse(-0.47, 0.04, 0.025, 0.03), color=(0.7, 0.08, 0.08), textured=False),
    ]
    radius = rng.uniform(0.095, 0.12)
    for x in (-0.29, 0.29):
        parts.append(Part(points=ellipse(x, 0.16, radius, radius), color=(0.07, 0.07, 0.08), textured=False))
        parts.append(
            Part(points=ellipse(x, 0.16, radius * 0.5, radius * 0.5), color=(0.65, 0.66, 0.68), textured=False)
        )
    return Thing(concept="car", parts=parts, adjective=adjective, extra=extra)


def draw_dog(rng: np.random.Generator) -> Thing:
    """A dog seen from the side, standing or sitting, plain or with patches."""
    adjective, color = _pick_color(rng, ["brown", "black", "white", "gray", "orange", "yellow"])
    dark = shade(color, rng.uniform(0.6, 0.8))
    hx, hy = 0.33, rng.uniform(-0.26, -0.18)
    parts: list[Part] = []
    if rng.random() < 0.6:
        step = rng.uniform(-0.07, 0.07)
        for x, c in ((-0.2, dark), (0.14, dark), (-0.27, color), (0.2, color)):
            parts.append(Part(points=limb(x, 0.05, x + (step if c is dark else -step), 0.42, 0.11, 0.075), color=c))
        parts.append(Part(points=limb(-0.3, -0.08, -0.48, -0.32 + rng.uniform(0, 0.3), 0.07, 0.04), color=dark))
        parts.append(Part(points=ellipse(-0.03, -0.03, 0.33, 0.155), color=color))
    else:
        parts += [
            Part(points=limb(-0.26, 0.34, -0.48, 0.26, 0.07, 0.04), color=dark),
            Part(points=limb(0.2, 0.0, 0.22, 0.42, 0.1, 0.08), color=dark),
            Part(points=ellipse(-0.12, 0.24, 0.2, 0.19), color=color),
            Part(points=ellipse(0.05, 0.06, 0.17, 0.3, 0.5), color=color),
            Part(points=limb(0.13, 0.05, 0.15, 0.42, 0.11, 0.085), color=shade(color, 1.08)),
        ]
    parts.append(Part(points=limb(0.16, -0.05, hx - 0.02, hy, 0.2, 0.17), color=color))
    if rng.random() < 0.4:
        patch = shade(COLORS["white"] if adjective != "white" else COLORS["brown"], 1.0)
        parts.append(Part(points=ellipse(rng.uniform(-0.2, 0.1), -0.02, 0.09, 0.08, rng.uniform(0, 3)), color=patch))
    parts += [
        Part(points=limb(hx + 0.02, hy + 0.01, hx + 0.2, hy + 0.06, 0.12, 0.085), color=shade(color, 1.1)),
        Part(points=ellipse(hx, hy, 0.12, 0.115), color=color),
        Part(points=ellipse(hx + 0.22, hy + 0.04, 0.03, 0.028), color=(0.05, 0.05, 0.05), textured=False),
        Part(points=ellipse(hx + 0.06, hy - 0.03, 0.022, 0.022), color=(0.04, 0.03, 0.03), textured=False),
        Part(points=ellipse(hx - 0.07, hy + 0.01, 0.05, 0.115, rng.uniform(-0.3, 0.3)), color=dark),
    ]
    return Thing(concept="dog", parts=parts, adjective=adjective)


def draw_human(rng: np.random.Generator) -> Thing:
    """A human seen from the front, in full or from the chest upwards; now and then with a hat."""
    adjective, shirt = _pick_color(
        rng, ["red", "blue", "green", "yellow", "white", "black", "gray", "orange", "purple"]
    )
    _, trousers = _pick_color(rng, ["blue", "black", "gray", "brown", "white"])
    skin = SKIN[rng.integers(len(SKIN))]
    hair = [(0.1, 0.08, 0.06), (0.35, 0.2, 0.1), (0.85, 0.7, 0.4), (0.6, 0.6, 0.6)][rng.integers(4)]
    parts: list[Part] = []
    extra = ""
    if rng.random() < 0.22:  # from the chest upwards: no arms or legs to see
        top, r = -0.18, 0.2
        parts += [
            Part(points=box(-0.36, 0.14, 0.36, 0.62, 0.13), color=shirt),
            Part(points=box(-0.08, -0.04, 0.08, 0.2), color=shade(skin, 0.88), textured=False),
        ]
    else:
        top, r = -0.39, 0.085
        for side in (-1, 1):
            spread = rng.uniform(0.02, 0.12)
            parts.append(
                Part(
                    points=limb(side * 0.055, 0.08, side * (0.055 + spread), 0.46, 0.1, 0.075),
                    color=trousers,
                    name="legs",
                )
            )
            parts.append(
                Part(
                    points=ellipse(side * (0.075 + spread), 0.47, 0.055, 0.028),
                    color=(0.12, 0.1, 0.1),
                    name="legs",
                    textured=False,
                )
            )
            raised = rng.random() < 0.3
            ex, ey = side * rng.uniform(0.2, 0.27), (-0.45 if raised else rng.uniform(-0.02, 0.1))
            mx, my = side * 0.19, (-0.2 if raised else -0.1)
            parts += [
                Part(
                    points=limb(side * 0.1, -0.24, mx, my, 0.075, 0.065),
                    color=shade(shirt, 0.85),
                    name="arms",
                ),
                Part(points=limb(mx, my, ex, ey, 0.055, 0.045), color=skin, name="arms"),
            ]
        parts.append(Part(points=np.array([(-0.13, -0.28), (0.13, -0.28), (0.1, 0.12), (-0.1, 0.12)]), color=shirt))
        if rng.random() < 0.2:
            extra = "with arms and legs"
    parts += [
        Part(points=ellipse(0, top - r * 0.25, r * 1.12, r * 1.12), color=hair),
        Part(points=ellipse(0, top, r * 0.93, r * 1.08), color=skin),
        Part(
            points=ellipse(-r * 0.35, top - r * 0.1, r * 0.12, r * 0.12),
            color=(0.06, 0.05, 0.05),
            textured=False,
        ),
        Part(
            points=ellipse(r * 0.35, top - r * 0.1, r * 0.12, r * 0.12),
            color=(0.06, 0.05, 0.05),
            textured=False,
        ),
    ]
    if not extra and rng.random() < 0.15:
        name, felt = _pick_color(rng, ["red", "blue", "green", "yellow", "black", "white"])
        parts += [
            Part(points=box(-r * 0.95, top - r * 2.2, r * 0.95, top - r * 0.7, r * 0.2), color=felt, name="hat"),
            Part(
                points=box(-r * 1.7, top - r * 0.9, r * 1.7, top - r * 0.5),
                color=shade(felt, 0.8),
                name="hat",
            ),
        ]
        extra = f"with a {name} hat" if rng.random() < 0.7 else "with a hat"
    return Thing(concept="human", parts=parts, adjective=adjective, extra=extra)


CONCEPTS: dict[str, Callable[[np.random.Generator], Thing]] = {
    "bird": draw_bird,
    "car": draw_car,
    "dog": draw_dog,
    "human": draw_human,
}


def describe(thing: Thing) -> dict[str, Any]:
    """What a scene's JSON says of a thing."""
    return {"concept": thing.concept, "adjective": thing.adjective, "extra": thing.extra}
