"""WebDataset tars: KEY.jpg, KEY.json and KEY.mask.png, or KEY.CONCEPT.mask.png for each of several concepts.

A corpus with ground truth, for this project too.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Sequence
from typing import Any

import numpy as np

from engine.corpus.members import MASK_SUFFIX, unsafe_name
from engine.export.class_map import mask_to_grey_png
from engine.export.folder import Folder
from engine.export.item import Item, facts_of

FILE_BYTES = 256 << 20


class WebDatasetWriter:
    """Samples in tars of about 256 MB."""

    def __init__(self, folder: Folder, concepts: Sequence[str]) -> None:
        if len(concepts) > 1:
            _check_names(concepts)
        self.folder = folder
        self.files = self.bytes = 0
        self.stack = folder.stack()
        self.tar: tarfile.TarFile | None = None

    def add(self, item: Item) -> None:
        if self.tar is None:
            file = self.stack.enter_context(self.folder.open(f"{self.files:06d}.tar"))
            tar = tarfile.open(fileobj=file, mode="w|", format=tarfile.PAX_FORMAT)  # noqa: SIM115
            self.tar = self.stack.enter_context(tar)
            self.files += 1
        for suffix, data in _to_members(item).items():
            member = tarfile.TarInfo(f"{item.name}{suffix}")  # of no owner and no time
            member.size = len(data)
            self.tar.addfile(member, io.BytesIO(data))
            self.bytes += len(data)
        if self.bytes >= FILE_BYTES:
            self._end_tar()

    def close(self) -> None:
        self._end_tar()

    def _end_tar(self) -> None:
        self.stack.close()
        self.tar, self.bytes = None, 0


def _to_members(item: Item) -> dict[str, bytes]:
    """Contents by suffix. Of several concepts each has its mask, an empty one if the image does not show it, and none
    if nobody can tell."""
    facts: dict[str, Any]
    if item.several:
        # No concept: of an image that its JSON calls one of a car, no mask of a dog would mean that there is none.
        facts = {"bbox": {found.concept: found.bbox for found in item.shown}}
        masks = {f".{found.concept}": mask_to_grey_png(found.mask) for found in item.objects}
        if item.absent:
            blank = mask_to_grey_png(np.zeros((item.height, item.width), dtype=bool))
            masks |= {f".{concept}": blank for concept in item.absent}
    else:
        (found,) = item.objects
        facts = {"concept": found.concept, "area": float(found.mask.mean()), "bbox": found.bbox}
        masks = {"": mask_to_grey_png(found.mask)}
    return {
        item.suffix: item.image,
        ".json": json.dumps({**facts, **facts_of(item)}, sort_keys=True).encode(),
        **{f"{name}.{MASK_SUFFIX}": mask for name, mask in masks.items()},
    }


def _check_names(concepts: Sequence[str]) -> None:
    """Raises ValueError for concepts that the names of files cannot hold, or cannot tell apart."""
    seen: set[str] = set()
    for concept in concepts:
        if "/" in concept or unsafe_name(concept) or concept.lower() in seen:
            raise ValueError(
                f"--format webdataset names files after concepts, which {concept!r} is no good for; export one concept "
                "with --concept, or take another --format"
            )
        seen.add(concept.lower())
