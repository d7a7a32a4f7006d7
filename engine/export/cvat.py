"""CVAT for images 1.1: a zip with annotations.xml and images/, to be imported as it is."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from xml.sax.saxutils import quoteattr  # nosec B406

import numpy as np

from engine.export.folder import Folder
from engine.export.item import Item, Object
from engine.export.spool import Spool

ARCHIVE = "cvat.zip"
HEAD = """<?xml version="1.0" encoding="utf-8"?>
<annotations>
<version>1.1</version>
<meta><task><labels>{labels}</labels></task></meta>
"""
LABEL = "<label><name>{name}</name><type>mask</type><attributes></attributes></label>"


class CvatWriter:
    """One mask shape per label; an image without the object has none."""

    def __init__(self, folder: Folder, concepts: Sequence[str]) -> None:
        self.stack = folder.stack()
        file = self.stack.enter_context(folder.open(ARCHIVE))
        self.zip = self.stack.enter_context(zipfile.ZipFile(file, "w", zipfile.ZIP_STORED))
        self.spool = Spool()
        # quoteattr escapes for an attribute; what is left of its quotes is text.
        labels = (LABEL.format(name=quoteattr(concept)[1:-1]) for concept in concepts)
        self.spool.add(HEAD.format(labels="".join(labels)))
        self.count = 0

    def add(self, item: Item) -> None:
        name = f"{item.name}{item.suffix}"
        self.zip.writestr(f"images/{name}", item.image)
        size = f'width="{item.width}" height="{item.height}"'
        self.spool.add(f'<image id="{self.count}" name={quoteattr(name)} {size}>\n')
        for found in item.shown:
            self.spool.add(_to_shape(found))
        self.spool.add("</image>\n")
        self.count += 1

    def close(self) -> None:
        self.spool.add("</annotations>\n")
        with self.zip.open("annotations.xml", "w", force_zip64=True) as file:
            self.spool.copy_to(file)
        self.stack.close()


def _to_shape(found: Object) -> str:
    left, top, width, height = found.bbox
    inside = found.mask[top : top + height, left : left + width]
    box = f'left="{left}" top="{top}" width="{width}" height="{height}"'
    rle = ", ".join(map(str, mask_to_runs(inside)))
    label = quoteattr(found.concept)
    return f'<mask label={label} source="auto" occluded="0" rle="{rle}" {box} z_order="0"></mask>\n'


def mask_to_runs(mask: np.ndarray) -> list[int]:
    """Lengths of runs of equal pixels, row by row, beginning with those that do not belong to the mask (maybe 0)."""
    flat = mask.ravel()
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    runs = np.diff([0, *changes.tolist(), flat.size]).tolist()
    return [0, *runs] if flat[0] else runs
