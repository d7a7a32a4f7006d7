"""YOLO segmentation: images/, labels/ with a polygon per line, and data.yaml."""

from __future__ import annotations

import json

import numpy as np
from PIL import Image, ImageDraw

from engine.export.folder import Folder
from engine.export.item import Item
from engine.export.outline import mask_to_polygons, simplify

DATA = """# Trainers want a validation set: here it is the training set until you name another.
train: images/train
val: images/train
names:
  0: {name}
"""


class YoloWriter:
    """One line for each connected part of a mask, an empty file for an image without the object."""

    def __init__(self, folder: Folder, concept: str) -> None:
        self.folder = folder
        folder.write("data.yaml", DATA.format(name=json.dumps(concept)).encode())

    def add(self, item: Item) -> None:
        self.folder.write(f"images/train/{item.name}{item.suffix}", item.image)
        self.folder.write(f"labels/train/{item.name}.txt", mask_to_lines(item.mask).encode())

    def close(self) -> None:
        """There is nothing left to write."""


def mask_to_lines(mask: np.ndarray) -> str:
    """A mask as lines of ``class x1 y1 x2 y2 …``, coordinates as fractions of width and height."""
    height, width = mask.shape
    polygons = simplify(mask, mask_to_polygons(mask, "pixels"), lambda found: _fill(found, width, height))
    lines = []
    for polygon in polygons:
        values = (polygon / (width, height)).ravel()
        lines.append(" ".join(["0", *(f"{value:.7f}" for value in values)]) + "\n")
    return "".join(lines)


def _fill(polygons: list[np.ndarray], width: int, height: int) -> np.ndarray:
    """As trainers do: coordinates rounded down to pixels, which belong to the mask themselves."""
    image = Image.new("1", (width, height))
    draw = ImageDraw.Draw(image)
    for polygon in polygons:
        draw.polygon([tuple(point) for point in np.floor(polygon).astype(int).tolist()], fill=1, outline=1)
    return np.asarray(image)
