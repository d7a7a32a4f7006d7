"""One labelled image, ready to be written in any format."""

from __future__ import annotations

import hashlib
import io
import re
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from PIL import Image

from engine.corpus.decode import DecodeError, decode_image
from engine.run.labelled import LabelledImage
from engine.run.rows import png_to_array

COLUMNS = ("concept", "width", "height", "mask", "bbox", "area", "quality", "flags")
LONGEST = 120
"""Of a part of a name; file systems take 255 bytes, and an ending comes yet."""
_SUFFIXES = {"JPEG": ".jpg", "PNG": ".png", "WEBP": ".webp"}
_ORIENTATION = 0x0112


class Unusable(Exception):
    """Why a label cannot be exported, in the word that it is counted by."""


@dataclass(frozen=True, kw_only=True)
class Item:
    """An image and its mask.

    Attributes:
        name: SHARD/KEY, of letters, digits, ``-``, ``_`` and ``~`` alone: unique, and fit for any file system.
        suffix: of the image's file, with its dot.
        image: encoded, and stored upright.
        mask: (H, W) bool, at the image's size.
    """

    name: str
    suffix: str
    shard: str
    key: str
    image: bytes
    mask: np.ndarray
    concept: str
    bbox: tuple[int, int, int, int]
    quality: float
    flags: list[str]

    @property
    def width(self) -> int:
        return self.mask.shape[1]

    @property
    def height(self) -> int:
        return self.mask.shape[0]

    @property
    def empty(self) -> bool:
        return not self.mask.any()


class Writer(Protocol):
    """Writes items in one format, one after the other."""

    def add(self, item: Item) -> None:
        """Writes one item; nothing of it is kept in memory."""

    def close(self) -> None:
        """Writes what comes after the last one."""


def make_item(labelled: LabelledImage) -> Item:
    """Decodes image and mask.

    Raises:
        Unusable: one of the two is damaged, or they are of different sizes.
    """
    row = labelled.row
    try:
        pixels = decode_image(labelled.image)
    except DecodeError as error:
        raise Unusable("unreadable_image") from error
    try:
        mask = png_to_array(row["mask"])
    except Exception as error:  # PIL raises nearly anything on damaged data
        raise Unusable("bad_mask") from error
    if mask.shape != pixels.shape[:2] or mask.dtype != np.bool_:
        raise Unusable("bad_mask")
    image, suffix = _store_upright(labelled.image, pixels)
    return Item(
        name=f"{safe_name(labelled.shard.removesuffix('.tar'))}/{safe_name(labelled.key)}",
        suffix=suffix,
        shard=labelled.shard,
        key=labelled.key,
        image=image,
        mask=mask,
        concept=row["concept"],
        bbox=tuple(row["bbox"]),
        quality=row["quality"] or 0.0,
        flags=list(row["flags"]),
    )


def safe_name(text: str) -> str:
    """The text with all but letters, digits, ``-`` and ``_`` written as ``~`` and hexadecimal digits; no two alike."""
    name = re.sub(r"[^A-Za-z0-9_-]", lambda match: "".join(f"~{byte:02X}" for byte in match[0].encode()), text)
    if name.lower() in ("images", "labels"):  # YOLO finds a label's file by replacing one with the other
        name = f"~{ord(name[0]):02X}{name[1:]}"
    if len(name) > LONGEST:
        name = f"{name[:LONGEST]}~{hashlib.sha256(text.encode()).hexdigest()[:16]}"
    return name or "~"


def mask_to_grey_png(mask: np.ndarray) -> bytes:
    """A mask (H, W) as an 8-bit PNG, 255 on the object: what every reader of masks takes."""
    buffer = io.BytesIO()
    Image.fromarray(mask.astype(np.uint8) * 255).save(buffer, format="PNG")
    return buffer.getvalue()


def facts_of(item: Item) -> dict[str, Any]:
    """What a format that has room for it says about a label."""
    return {"shard": item.shard, "key": item.key, "quality": round(item.quality, 4), "flags": item.flags}


def _store_upright(data: bytes, pixels: np.ndarray) -> tuple[bytes, str]:
    """The image as it is, or as a PNG if it is stored turned: not every reader turns it back."""
    with Image.open(io.BytesIO(data)) as image:
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
