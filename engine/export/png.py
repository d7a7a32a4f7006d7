"""Plain folders: images/, masks/ with a PNG each, and labels.csv."""

from __future__ import annotations

import csv
import io

from engine.export.folder import Folder
from engine.export.item import Item, mask_to_grey_png
from engine.export.spool import Spool

HEADER = ("shard", "key", "image", "mask", "concept", "width", "height", "area", "quality", "flags")


class PngWriter:
    """One mask per image, 255 on the object, of the same name."""

    def __init__(self, folder: Folder, concept: str) -> None:
        self.folder = folder
        self.table = Spool()
        self._write_row(HEADER)

    def add(self, item: Item) -> None:
        image, mask = f"images/{item.name}{item.suffix}", f"masks/{item.name}.png"
        self.folder.write(image, item.image)
        self.folder.write(mask, mask_to_grey_png(item.mask))
        measures = f"{item.mask.mean():.6f}", f"{item.quality:.4f}"
        flags = " ".join(item.flags)
        self._write_row((item.shard, item.key, image, mask, item.concept, item.width, item.height, *measures, flags))

    def close(self) -> None:
        with self.folder.open("labels.csv") as file:
            self.table.copy_to(file)

    def _write_row(self, values: tuple[object, ...]) -> None:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerow(values)
        self.table.add(text.getvalue())
