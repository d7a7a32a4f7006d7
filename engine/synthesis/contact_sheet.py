"""A picture of a synthetic set to look at: image | cut-out | background | mask of samples spread over the set."""

from __future__ import annotations

import io
import json
import tarfile
from collections import defaultdict

import numpy as np
from PIL import Image

from engine import storage
from engine.evaluation.contact_sheet import TILE, compose

SHARDS = 6
"""As many tars are read at most: each as a whole."""
CHECKS = 8
"""Side of the squares behind what is cut out, pixels."""


def write_contact_sheet(shards: list[str], concept: str, path: str, count: int = 24) -> str:
    """Draw up to `count` samples as one PNG.

    Args:
        shards: URLs of the tars.
        path: file or URL to write.

    Returns:
        `path`.
    """
    spread = np.linspace(0, len(shards) - 1, min(SHARDS, len(shards))).round().astype(int)
    chosen = [shards[place] for place in spread]
    cells = []
    for place, url in enumerate(chosen):
        share = count * (place + 1) // len(chosen) - count * place // len(chosen)
        samples = list(_read_samples(url).items())
        cells += [_draw_cell(key, members) for key, members in samples[:share]]
    buffer = io.BytesIO()
    title = f"{concept}: synthetic images, cut-outs, backgrounds and masks"
    compose(title, cells).save(buffer, format="PNG")
    storage.atomic_put(buffer.getvalue(), storage.absolute(path))
    return path


def _read_samples(url: str) -> dict[str, dict[str, bytes]]:
    """Members (suffix -> bytes) by key."""
    samples: defaultdict[str, dict[str, bytes]] = defaultdict(dict)
    with tarfile.open(fileobj=io.BytesIO(storage.read_bytes(url))) as tar:
        for member in tar:
            key, _, suffix = member.name.partition(".")
            file = tar.extractfile(member)
            assert file is not None, "all members are files"
            samples[key][suffix] = file.read()
    return samples


def _draw_cell(key: str, members: dict[str, bytes]) -> tuple[str, list[Image.Image]]:
    """Caption and pictures of a sample; an empty square where it has no background."""
    pictures = [_open(members["png"]), _on_checks(_open(members["foreground.png"]))]
    empty = Image.new("RGB", pictures[0].size, "white")
    pictures += [_open(members["background.png"]) if "background.png" in members else empty, _open(members["mask.png"])]
    facts = json.loads(members["json"])
    return f"{key}  {facts['prompt']}", [_fit(picture) for picture in pictures]


def _open(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data), formats=("PNG",))


def _on_checks(cutout: Image.Image) -> Image.Image:
    """An RGBA picture over grey and white squares."""
    rows, columns = np.indices((cutout.height, cutout.width)) // CHECKS
    squares = np.where((rows + columns) % 2, 224, 255).astype(np.uint8)
    below = Image.fromarray(squares).convert("RGBA")
    return Image.alpha_composite(below, cutout)


def _fit(picture: Image.Image) -> Image.Image:
    scale = TILE / max(picture.size)
    size = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
    return picture.convert("RGB").resize(size, Image.Resampling.LANCZOS)
