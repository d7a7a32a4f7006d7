"""Places of the miniature world: a ground, sometimes a sky, clutter, and light."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image

Rng = np.random.Generator


def smooth_noise(rng: Rng, height: int, width: int, cells: float) -> np.ndarray:
    """Band-limited noise, (height, width) float32 with mean near 0 and deviation near 1; `cells` per image height."""
    h = max(2, round(cells))
    w = max(2, round(cells * width / height))
    coarse = Image.fromarray(rng.normal(0, 1, (h, w)).astype(np.float32))
    return np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC))


def _tint(rng: Rng, base: tuple[float, float, float], spread: float = 0.06) -> np.ndarray:
    return np.clip(np.array(base) + rng.normal(0, spread, 3), 0, 1).astype(np.float32)


def _mottled(rng: Rng, h: int, w: int, base: tuple[float, float, float], fine: float, coarse: float) -> np.ndarray:
    value = coarse * smooth_noise(rng, h, w, 5) + fine * smooth_noise(rng, h, w, rng.uniform(20, 44))
    return _tint(rng, base)[None, None] * (1 + value[..., None])


def _grass(rng: Rng, h: int, w: int) -> np.ndarray:
    blades = smooth_noise(rng, h, w * 2, 40)[:, ::2]
    return _mottled(rng, h, w, (0.33, 0.52, 0.20), 0.12, 0.10) * (1 + 0.12 * blades[..., None])


def _sand(rng: Rng, h: int, w: int) -> np.ndarray:
    y = np.linspace(0, rng.uniform(20, 50), h)[:, None] + 2.0 * smooth_noise(rng, h, w, 4)
    return _mottled(rng, h, w, (0.82, 0.72, 0.50), 0.04, 0.05) * (1 + 0.05 * np.sin(y))[..., None]


def _snow(rng: Rng, h: int, w: int) -> np.ndarray:
    return _mottled(rng, h, w, (0.88, 0.90, 0.95), 0.02, 0.05)


def _water(rng: Rng, h: int, w: int) -> np.ndarray:
    y = np.linspace(0, rng.uniform(30, 70), h)[:, None] + 1.5 * smooth_noise(rng, h, w, 6)
    return _mottled(rng, h, w, (0.20, 0.42, 0.58), 0.06, 0.08) * (1 + 0.12 * np.sin(y))[..., None]


def _street(rng: Rng, h: int, w: int) -> np.ndarray:
    road = _mottled(rng, h, w, (0.38, 0.38, 0.40), 0.07, 0.05)
    line = round(h * rng.uniform(0.55, 0.95))
    dashes = (np.arange(w) // max(2, w // 8) % 2 == 0)[None, :, None]
    road[line : line + max(1, h // 40)] = np.where(dashes, 0.85, road[line : line + max(1, h // 40)])
    return road


def _forest(rng: Rng, h: int, w: int) -> np.ndarray:
    image = _mottled(rng, h, w, (0.17, 0.32, 0.16), 0.28, 0.2)
    for _ in range(rng.integers(4, 9)):
        x, width = rng.integers(0, w), max(2, round(w * rng.uniform(0.02, 0.07)))
        image[:, x : x + width] = _tint(rng, (0.27, 0.19, 0.12)) * rng.uniform(0.7, 1.3)
    return image


def _brick(rng: Rng, h: int, w: int) -> np.ndarray:
    rows = max(4, int(rng.integers(7, 14)))
    size = h / rows
    y, x = np.mgrid[:h, :w]
    row = (y // size).astype(int)
    shifted = x + (row % 2) * size
    joint = (y % size < max(1, size * 0.14)) | (shifted % (2 * size) < max(1, size * 0.14))
    brick = (row * 37 + (shifted // (2 * size)).astype(int) * 17) % 11 / 11
    image = _tint(rng, (0.60, 0.30, 0.22)) * (0.8 + 0.4 * brick[..., None])
    return np.where(joint[..., None], 0.72, image) * (1 + 0.05 * smooth_noise(rng, h, w, 30)[..., None])


def _wood(rng: Rng, h: int, w: int) -> np.ndarray:
    plank = h / rng.integers(4, 9)
    y = np.mgrid[:h, :w][0]
    grain = smooth_noise(rng, h, w, 4) * 3 + y * 0.9
    tone = 0.85 + 0.3 * ((y // plank * 29) % 7 / 7)
    image = _tint(rng, (0.58, 0.41, 0.26)) * (tone * (1 + 0.06 * np.sin(grain)))[..., None]
    return np.where((y % plank < 1.2)[..., None], 0.18, image)


def _room(rng: Rng, h: int, w: int) -> np.ndarray:
    wall = _mottled(rng, h, w, tuple(rng.uniform(0.45, 0.9, 3)), 0.015, 0.03)
    stripes = rng.random() < 0.4
    if stripes:
        wall *= (1 + 0.07 * np.sign(np.sin(np.arange(w) / w * rng.uniform(30, 70))))[None, :, None]
    floor = round(h * rng.uniform(0.65, 0.85))
    wall[floor:] = _wood(rng, h - floor, w) if h - floor > 8 else 0.4
    return wall


def _sky(rng: Rng, h: int, w: int) -> np.ndarray:
    fade = np.linspace(0, 1, h, dtype=np.float32)[:, None, None]
    top, low = _tint(rng, (0.36, 0.58, 0.86)), _tint(rng, (0.78, 0.86, 0.93))
    clouds = np.clip(smooth_noise(rng, h, w, rng.uniform(3, 6)) - rng.uniform(0.2, 1.2), 0, 1)[..., None]
    return (top * (1 - fade) + low * fade) * (1 - clouds) + 0.96 * clouds


PLACES: dict[str, tuple[Callable[[Rng, int, int], np.ndarray], bool]] = {
    "grass": (_grass, True),
    "sand": (_sand, True),
    "snow": (_snow, True),
    "water": (_water, True),
    "a street": (_street, True),
    "a forest": (_forest, False),
    "a brick wall": (_brick, False),
    "a wooden floor": (_wood, False),
    "a room": (_room, False),
    "the sky": (_sky, False),
}
"""Name as captions say it -> (texture, whether a horizon with sky may show)."""


def draw_background(rng: Rng, place: str, height: int, width: int) -> np.ndarray:
    """An object-free place, (height, width, 3) float32 in 0..1 before lighting."""
    texture, open_air = PLACES[place]
    image = texture(rng, height, width)
    if open_air and rng.random() < 0.45:
        horizon = round(height * rng.uniform(0.2, 0.5))
        beyond = _sky if rng.random() < 0.7 else _forest
        image[:horizon] = beyond(rng, max(horizon, 2), width)[:horizon]
    return np.clip(image, 0, 1).astype(np.float32)


def light(rng: Rng, image: np.ndarray) -> np.ndarray:
    """Side light, exposure, colour cast and sensor noise over the finished scene; values stay within 0..1."""
    h, w, _ = image.shape
    angle = rng.uniform(0, 2 * np.pi)
    y, x = np.mgrid[-1 : 1 : h * 1j, -1 : 1 : w * 1j]
    ramp = 1 + rng.uniform(0, 0.22) * (np.cos(angle) * x + np.sin(angle) * y)
    exposure = rng.uniform(0.75, 1.15) * rng.normal(1, 0.03, 3)
    noise = rng.normal(0, rng.uniform(0.002, 0.018), image.shape)
    return np.clip(image * ramp[..., None] * exposure + noise, 0, 1).astype(np.float32)
