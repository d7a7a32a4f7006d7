"""One labelled image with its objects, ready to be written in any format."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from PIL import Image

from engine.corpus.decode import FORMATS, DecodeError, decode_image
from engine.export.names import Names
from engine.labelling.png import png_to_array
from engine.run.labelled import LabelledImage
from schemas.label import Row

COLUMNS = ("concept", "width", "height", "mask", "bbox", "area", "quality", "flags")
_SUFFIXES = {"JPEG": ".jpg", "MPO": ".jpg", "PNG": ".png", "WEBP": ".webp"}
"""By PIL's name of the format: MPO is a JPEG that holds more pictures, such as a phone's depth map."""
_ORIENTATION = 0x0112


class Unusable(Exception):
    """Why a label cannot be exported, in the word that it is counted by."""


@dataclass(frozen=True, kw_only=True)
class Object:
    """What a label says of a concept in an image.

    Attributes:
        number: of its class, from 1 on, in the order of the export's concepts.
        mask: (H, W) bool, at the image's size; of an empty one the image does not show the concept.
    """

    concept: str
    number: int
    mask: np.ndarray
    bbox: tuple[int, int, int, int]
    quality: float
    flags: list[str]

    @property
    def empty(self) -> bool:
        return not self.mask.any()


@dataclass(frozen=True, kw_only=True)
class Item:
    """An image and what is labelled in it.

    Attributes:
        name: SHARD/KEY, of letters, digits, ``-``, ``_`` and ``~`` alone: unique whatever their case, and fit for any
            file system.
        suffix: of the image's file, with its dot.
        image: encoded, and stored upright.
        concepts: of the export; one without a label is in none of the following.
        objects: at least one, in the order of their numbers.
        left_out: what labels say that are not to be exported, and that found anything.
        absent: concepts whose label, which is not to be exported, says that they are not to be seen; of one whose mask
            came out empty for another reason nothing is known.
    """

    name: str
    suffix: str
    shard: str
    key: str
    image: bytes
    concepts: tuple[str, ...]
    objects: tuple[Object, ...]
    left_out: tuple[Object, ...]
    absent: tuple[str, ...]

    @property
    def width(self) -> int:
        return self.objects[0].mask.shape[1]

    @property
    def height(self) -> int:
        return self.objects[0].mask.shape[0]

    @property
    def several(self) -> bool:
        """Whether the export is of several concepts."""
        return len(self.concepts) > 1

    @property
    def shown(self) -> tuple[Object, ...]:
        """The objects that are not empty."""
        return tuple(found for found in self.objects if not found.empty)


class Writer(Protocol):
    """Writes items in one format, one after the other."""

    def add(self, item: Item) -> None:
        """Writes one item; nothing of it is kept in memory."""

    def close(self) -> None:
        """Writes what comes after the last one."""


def make_item(labelled: LabelledImage, concepts: Sequence[str], names: Names) -> Item:
    """Decodes image and masks.

    Args:
        concepts: of the export, in order.
        names: of the export; gives the item its own.

    Raises:
        Unusable: the image or a mask is damaged, or they are of different sizes. Of several masks one is enough:
            nobody knows what it would have said of the image.
    """
    try:
        pixels = decode_image(labelled.image)
    except DecodeError as error:
        raise Unusable("unreadable_image") from error
    # Of many concepts an image shows few: empty masks that nobody has asked for need no decoding.
    marked = {concept: row for concept, row in labelled.others.items() if row["area"]}
    objects, left_out = (
        tuple(
            _make_object(rows[concept], number, pixels.shape[:2])
            for number, concept in enumerate(concepts, 1)
            if concept in rows
        )
        for rows in (labelled.rows, marked)
    )
    image, suffix = _store_upright(labelled.image, pixels)
    return Item(
        name=names.name(labelled.shard, labelled.key),
        suffix=suffix,
        shard=labelled.shard,
        key=labelled.key,
        image=image,
        concepts=tuple(concepts),
        objects=objects,
        left_out=left_out,
        absent=tuple(concept for concept, row in labelled.others.items() if "absent" in row["flags"]),
    )


def _make_object(row: Row, number: int, shape: tuple[int, ...]) -> Object:
    """What a row says of an image of that shape; raises Unusable."""
    try:
        mask = png_to_array(row["mask"])
    except Exception as error:  # PIL raises nearly anything on damaged data
        raise Unusable("bad_mask") from error
    if mask.shape != shape or mask.dtype != np.bool_:
        raise Unusable("bad_mask")
    return Object(
        concept=row["concept"],
        number=number,
        mask=mask,
        bbox=tuple(row["bbox"]),
        quality=row["quality"] or 0.0,
        flags=list(row["flags"]),
    )


def facts_of(item: Item) -> dict[str, Any]:
    """What a format that has room for it says about an image's label, or labels."""
    place = {"shard": item.shard, "key": item.key}
    if not item.several:
        return {**place, **judgement_of(item.objects[0])}
    return {**place, "labels": [{"concept": found.concept, **judgement_of(found)} for found in item.objects]}


def judgement_of(found: Object) -> dict[str, Any]:
    """How good a label is held to be."""
    return {"quality": round(found.quality, 4), "flags": found.flags}


def _store_upright(data: bytes, pixels: np.ndarray) -> tuple[bytes, str]:
    """The image as it is, or as a PNG if it is stored turned: not every reader turns it back."""
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        suffix = _SUFFIXES[str(image.format)]
        try:
            turned = image.getexif().get(_ORIENTATION, 1) in range(2, 9)
        except Exception:  # broken EXIF, which `decode_image` does not heed either
            turned = False
    if not turned:
        return data, suffix
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue(), ".png"
