"""The masks of an image in one picture: 0 and 255 of one concept, class numbers of several."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

from engine.export.item import Item
from engine.labelling.png import masks_to_classes

IGNORE = 255
"""Where nobody can tell what is there: what trainers leave out by default."""
MOST = IGNORE - 1
"""Classes that 8 bits hold beside background and `IGNORE`."""


def check_classes(concepts: Sequence[str], name: str) -> None:
    """Raises ValueError if a format of that name has no numbers for so many classes."""
    if len(concepts) > MOST:
        raise ValueError(
            f"--format {name} has class maps of 8 bits, for {MOST} concepts, and the run has {len(concepts)}; export "
            "one with --concept, or take another --format: coco, yolo-seg, cvat, label-studio or webdataset"
        )


def item_to_classes(item: Item) -> np.ndarray:
    """(H, W) uint8: 0 background, the number of an object's class, or `IGNORE`.

    Nobody must learn that an object is background because its label was left out. A concept without any label, which
    could not be made, may be anywhere.
    """
    classes = masks_to_classes([found.mask for found in item.objects], [found.number for found in item.objects])
    if len(item.objects) + len(item.left_out) + len(item.absent) < len(item.concepts):
        classes[classes == 0] = IGNORE
    for found in item.left_out:
        classes[found.mask & (classes == 0)] = IGNORE
    return classes


def item_to_png(item: Item) -> bytes:
    """The item's masks as an 8-bit PNG."""
    return mask_to_grey_png(item.objects[0].mask) if not item.several else _to_png(item_to_classes(item))


def mask_to_grey_png(mask: np.ndarray) -> bytes:
    """A mask (H, W) as an 8-bit PNG, 255 on the object: what every reader of masks takes."""
    return _to_png(mask.astype(np.uint8) * 255)


def _to_png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()
