"""YOLO segmentation: images/, labels/ with a polygon per line, and data.yaml."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from engine.export.folder import Folder
from engine.export.item import Item
from engine.export.outline import mask_to_polygons, simplify

DATA = """# Trainers want a validation set: here it is the training set until you name another.
train: images/train
val: images/train
names:
"""


class YoloWriter:
    """One line for each connected part of a mask, an empty file for an image without an object."""

    def __init__(self, folder: Folder, concepts: Sequence[str]) -> None:
        self.folder = folder
        names = (f"  {number}: {json.dumps(concept)}\n" for number, concept in enumerate(concepts))
        folder.write("data.yaml", "".join([DATA, *names]).encode())

    def add(self, item: Item) -> None:
        self.folder.write(f"images/train/{item.name}{item.suffix}", item.image)
        # Classes are numbered from 0 here.
        lines = "".join(mask_to_lines(found.mask, found.number - 1) for found in item.objects)
        self.folder.write(f"labels/train/{item.name}.txt", lines.encode())

    def close(self) -> None:
        """There is nothing left to write."""


def mask_to_lines(mask: np.ndarray, number: int) -> str:
    """A mask as lines of ``number x1 y1 x2 y2 …``, coordinates as fractions of width and height.

    Args:
        number: of its class.
    """
    height, width = mask.shape
    polygons = simplify(mask, mask_to_polygons(mask, "pixels"), lambda found: _fill(found, width, height))
    lines = []
    for polygon in polygons:
        values = (polygon / (width, height)).ravel()
        lines.append(" ".join([str(number), *(f"{value:.7f}" for value in values)]) + "\n")
    return "".join(lines)


def _fill(polygons: list[np.ndarray], width: int, height: int) -> np.ndarray:
    """As trainers do: coordinates rounded down to pixels, which belong to the mask themselves."""
    image = Image.new("1", (width, height))
    draw = ImageDraw.Draw(image)
    for polygon in polygons:
        draw.polygon([tuple(point) for point in np.floor(polygon).astype(int).tolist()], fill=1, outline=1)
    return np.asarray(image)
