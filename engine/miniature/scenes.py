"""Compose scenes of the miniature world: place, clutter, things, light, and the exact masks of everything drawn.

Scene i of a seed depends on (seed, i) and the settings alone, so a corpus of any size and any part of one can be drawn
anywhere. Masks serve evaluation; nothing that trains or labels reads them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from engine.miniature.backgrounds import PLACES, draw_background, light, smooth_noise
from engine.miniature.shapes import Part, box, ellipse, limb
from engine.miniature.things import CONCEPTS, Thing, describe

SUPERSAMPLING = 3
MINIMUM_AREA, MAXIMUM_AREA = 0.03, 0.60
MINIMUM_VISIBLE = 0.6
"""Share of each of two objects that nothing in front of it hides, where two are asked for."""
CLUTTER = ("stone", "bush", "post", "crate", "ball")


@dataclass(frozen=True, kw_only=True)
class Scene:
    """One drawn scene.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        caption: what a person would write under it.
        masks: (H, W) bool of every thing and named part that is visible, by name ("car", "hat"); empty without things.
        metadata: concept (None without things), kind, place, things, clutter.
    """

    image: np.ndarray
    caption: str
    masks: dict[str, np.ndarray] = field(default_factory=dict)
    metadata: dict[str, Any] = field(default_factory=dict)


def draw_scene(
    seed: int,
    index: int,
    *,
    width: int = 128,
    height: int = 128,
    concept: str | None = None,
    objects: int | None = None,
) -> Scene:
    """Scene `index` of `seed`: of the given concept, or of any (or none) when `concept` is None.

    Args:
        objects: 1 or 2 things in every scene, two of different concepts and none of them mostly hidden; None leaves
            their number to chance.

    Raises:
        ValueError: a concept that the miniature world does not have, another number of objects, or an image under 32
            pixels.
    """
    if concept is not None and concept not in CONCEPTS:
        raise ValueError(f"the miniature world has no {concept!r}; it has {', '.join(CONCEPTS)}")
    if min(width, height) < 32:
        raise ValueError(f"a scene of {width}x{height} pixels is too small; both sides must be at least 32")
    if objects not in (None, 1, 2):
        raise ValueError(f"{objects} objects were asked for; a scene has 1 or 2 of them")
    rng = np.random.default_rng(
        [seed, index, width, height, 0 if concept is None else 1 + list(CONCEPTS).index(concept)]
    )
    things = _choose_things(rng, concept, objects)
    place = list(PLACES)[rng.integers(len(PLACES))]
    image = draw_background(rng, place, height, width)
    clutter = _draw_clutter(rng, image)
    coverage: dict[str, np.ndarray] = {}
    spots = _choose_spots(rng, len(things))
    whole: dict[str, float] = {}
    for thing, spot in zip(things, spots, strict=True):
        _draw_thing(rng, image, thing, coverage, spot, share=1.0 if len(things) == 1 else 0.45)
        whole[thing.concept] = (coverage[thing.concept] >= 0.5).mean()
    if things and rng.random() < 0.2:
        clutter.append(_occlude(rng, image, coverage))
    image = light(rng, image)
    masks = {name: alpha >= 0.5 for name, alpha in coverage.items()}
    small = any(masks[thing.concept].mean() < MINIMUM_AREA * 0.7 for thing in things)
    hidden = objects == 2 and any(masks[name].mean() < MINIMUM_VISIBLE * share for name, share in whole.items())
    if small or hidden:  # draw another
        index += 1_000_000_007
        return draw_scene(seed, index, width=width, height=height, concept=concept, objects=objects)
    return Scene(
        image=(image * 255 + 0.5).astype(np.uint8),
        caption=_write_caption(rng, things, place, clutter),
        masks={name: mask for name, mask in masks.items() if mask.any()},
        metadata={
            "concept": things[0].concept if things else None,
            "kind": ("empty", "single", "pair")[len(things)] if not (things and things[0].extra) else "part",
            "place": place,
            "clutter": clutter,
            "things": [describe(thing) for thing in things],
        },
    )


def _choose_things(rng: np.random.Generator, concept: str | None, objects: int | None) -> list[Thing]:
    """One thing mostly, two in a tenth of the scenes, and none in a fifth unless a concept or number is asked for."""
    names = list(CONCEPTS)
    draw = rng.random()
    if concept is None:
        if draw < 0.2 and objects is None:
            return []
        concept = names[rng.integers(len(names))]
    things = [CONCEPTS[concept](rng)]
    if draw > 0.9 if objects is None else objects == 2:
        other = [name for name in names if name != concept][rng.integers(len(names) - 1)]
        things = [things[0], CONCEPTS[other](rng)]
    return things


def _choose_spots(rng: np.random.Generator, count: int) -> list[tuple[float, float]]:
    if count <= 1:
        return [(rng.uniform(0.25, 0.75), rng.uniform(0.35, 0.72))] * count
    left = (rng.uniform(0.2, 0.32), rng.uniform(0.4, 0.7))
    right = (rng.uniform(0.68, 0.8), rng.uniform(0.4, 0.7))
    return [left, right] if rng.random() < 0.5 else [right, left]


def _write_caption(rng: np.random.Generator, things: list[Thing], place: str, clutter: list[str]) -> str:
    """Captions say more or less: colours, place and clutter are named in some, the things always.

    That clutter is named now and then teaches a model to tell it from the things: what no caption ever names, the
    nearest noun draws to itself.
    """
    named = sorted(set(clutter)) if rng.random() < 0.5 else []
    extras = "".join(f" and a {name}" for name in named[:2])
    if not things:
        return "a photo of a background" if rng.random() < 0.4 else f"a photo of {place}{extras}"
    if len(things) == 2:
        text = f"a photo of a {things[0].concept} and a {things[1].concept}"
    else:
        thing = things[0]
        human = thing.concept == "human"
        colored = f"human in {thing.adjective}" if human else f"{thing.adjective} {thing.concept}"
        noun = colored if rng.random() < 0.45 and not thing.extra else thing.concept
        article = "an" if noun[0] in "aeiou" else "a"
        text = f"a photo of {article} {noun}"
        if thing.extra:
            text += f" {thing.extra}"
    text += extras
    if rng.random() < 0.5:
        text += f" in {place}" if place in ("a forest", "a room", "the sky", "water") else f" on {place}"
    return text


def _rasterise(points: np.ndarray, height: int, width: int) -> np.ndarray:
    """Anti-aliased coverage of a polygon given in pixels: (H, W) float32 in 0..1."""
    s = SUPERSAMPLING
    canvas = Image.new("L", (width * s, height * s))
    ImageDraw.Draw(canvas).polygon([(float(x) * s, float(y) * s) for x, y in points], fill=255)
    return np.asarray(canvas.reduce(s), dtype=np.float32) / 255


def _paint(image: np.ndarray, alpha: np.ndarray, color: np.ndarray | tuple[float, ...]) -> None:
    image += alpha[..., None] * (np.asarray(color, np.float32) - image)


def _place(
    rng: np.random.Generator, thing: Thing, height: int, width: int, spot: tuple[float, float], share: float
) -> list[np.ndarray]:
    """Outlines of all parts in pixels, scaled so that the thing covers a drawn fraction of the image."""
    probe = np.zeros((48, 48), np.float32)
    for part in thing.parts:
        probe = np.maximum(probe, _rasterise((part.points * 0.8 + 0.5) * 48, 48, 48))
    unit_area = float(probe.mean()) / 0.64
    area = np.exp(rng.uniform(np.log(MINIMUM_AREA), np.log(MAXIMUM_AREA))) * share
    scale = np.sqrt(max(area, MINIMUM_AREA) * width * height / unit_area)
    mirror, angle = (-1 if rng.random() < 0.5 else 1), rng.normal(0, 0.08)
    squeeze = rng.uniform(0.88, 1.12)
    c, s = np.cos(angle), np.sin(angle)
    turn = np.array([[c, -s], [s, c]]) @ np.diag([mirror * squeeze, 1 / squeeze]) * scale
    return [part.points @ turn.T + np.array([spot[0] * width, spot[1] * height]) for part in thing.parts]


def _draw_thing(
    rng: np.random.Generator,
    image: np.ndarray,
    thing: Thing,
    coverage: dict[str, np.ndarray],
    spot: tuple[float, float],
    share: float,
) -> None:
    """Paint shadow and parts into `image` (in place) and enter the coverage of the thing and its named parts."""
    h, w, _ = image.shape
    outlines = _place(rng, thing, h, w, spot, share)
    everything = np.concatenate(outlines)
    if thing.stands and rng.random() < 0.7:
        bottom, middle, extent = everything[:, 1].max(), everything[:, 0].mean(), np.ptp(everything[:, 0])
        shadow = _rasterise(ellipse(middle, bottom - extent * 0.03, extent * 0.5, extent * 0.08), h, w)
        image *= 1 - rng.uniform(0.25, 0.55) * shadow[..., None]
    texture = _surface(rng, h, w)
    for part, points in zip(thing.parts, outlines, strict=True):
        alpha = _rasterise(points, h, w)
        color = np.clip(np.asarray(part.color) * texture[..., None], 0, 1) if part.textured else part.color
        _paint(image, alpha, color)
        for name in coverage:  # what is painted later hides what is there
            coverage[name] = coverage[name] * (1 - alpha) if name not in (thing.concept, part.name) else coverage[name]
        for name in filter(None, (thing.concept, part.name)):
            coverage[name] = np.maximum(coverage.get(name, np.zeros((h, w), np.float32)), alpha)


def _surface(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Brightness pattern of a thing's surface: shading from above, mottling, sometimes stripes. (H, W), near 1."""
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    pattern = (
        1.12 - rng.uniform(0.1, 0.3) * y + rng.uniform(0, 0.1) * smooth_noise(rng, height, width, rng.uniform(8, 30))
    )
    if rng.random() < 0.15:
        direction = rng.uniform(0, np.pi)
        pattern += 0.12 * np.sign(np.sin((np.cos(direction) * x + np.sin(direction) * y) * rng.uniform(40, 90)))
    return pattern


def _blob(rng: np.random.Generator, cx: float, cy: float, rx: float, ry: float) -> np.ndarray:
    outline = ellipse(0, 0, 1, 1, n=14) * rng.uniform(0.7, 1.15, (14, 1))
    return outline * (rx, ry) + (cx, cy)


def _draw_clutter(rng: np.random.Generator, image: np.ndarray) -> list[str]:
    """Distractors (drawn into `image`) and their names: they belong to no mask, and few captions mention them."""
    h, w, _ = image.shape
    names = []
    for _ in range(rng.integers(0, 5)):
        cx, cy, size = rng.uniform(0, w), rng.uniform(0.25, 1.0) * h, h * rng.uniform(0.03, 0.13)
        kind = rng.integers(len(CLUTTER))
        names.append(CLUTTER[kind])
        gray = rng.uniform(0.25, 0.7)
        if kind == 0:
            part = Part(points=_blob(rng, cx, cy, size * 1.3, size), color=(gray, gray * 0.97, gray * 0.93))
        elif kind == 1:
            part = Part(points=_blob(rng, cx, cy, size * 1.5, size * 1.2), color=(0.15, rng.uniform(0.3, 0.5), 0.13))
        elif kind == 2:
            part = Part(
                points=limb(cx, cy, cx, cy - size * 4, size * 0.4, size * 0.35),
                color=(gray, gray * 0.8, gray * 0.6),
            )
        elif kind == 3:
            part = Part(points=box(cx - size, cy - size, cx + size, cy + size), color=(0.62, 0.47, 0.28))
        else:
            r, g, b = rng.uniform(0.1, 0.95, 3)
            part = Part(points=ellipse(cx, cy, size * 0.8, size * 0.8), color=(r, g, b))
        surface = 1 + 0.12 * smooth_noise(rng, h, w, 30)[..., None]
        _paint(image, _rasterise(part.points, h, w), np.clip(np.asarray(part.color) * surface, 0, 1))
    return names


def _occlude(rng: np.random.Generator, image: np.ndarray, coverage: dict[str, np.ndarray]) -> str:
    """Something in front of the things, a post or a bush at the lower edge; what it hides leaves the masks."""
    h, w, _ = image.shape
    x = rng.uniform(0.15, 0.85) * w
    name = "post" if rng.random() < 0.5 else "bush"
    if name == "post":
        points, color = (
            limb(x, h, x, -5, w * 0.05, w * 0.05),
            np.array([0.4, 0.3, 0.2]) * rng.uniform(0.6, 1.5),
        )
    else:
        points = _blob(rng, x, h, w * rng.uniform(0.15, 0.35), h * rng.uniform(0.1, 0.25))
        color = np.array([0.2, 0.42, 0.15]) * rng.uniform(0.7, 1.3)
    alpha = _rasterise(points, h, w)
    _paint(image, alpha, np.clip(color, 0, 1))
    for thing in coverage:
        coverage[thing] = coverage[thing] * (1 - alpha)
    return name
