"""Plain folders: images/, masks/ with a PNG each, labels.csv, and classes.txt if there are several concepts."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from engine.export.class_map import check_classes, item_to_png
from engine.export.folder import Folder
from engine.export.item import Item
from engine.export.spool import Spool

HEADER = ("shard", "key", "image", "mask", "concept", "width", "height", "area", "quality", "flags")


class PngWriter:
    """One mask per image, of the same name: 255 on the object, or the numbers of the lines of classes.txt."""

    def __init__(self, folder: Folder, concepts: Sequence[str]) -> None:
        check_classes(concepts, "png")
        self.folder = folder
        if len(concepts) > 1:
            folder.write("classes.txt", "".join(f"{concept}\n" for concept in concepts).encode())
        self.table = Spool()
        self._write_row(HEADER)

    def add(self, item: Item) -> None:
        image, mask = f"images/{item.name}{item.suffix}", f"masks/{item.name}.png"
        self.folder.write(image, item.image)
        self.folder.write(mask, item_to_png(item))
        files, size = (item.shard, item.key, image, mask), (item.width, item.height)
        for found in item.objects:
            measures = f"{found.mask.mean():.6f}", f"{found.quality:.4f}"
            self._write_row((*files, found.concept, *size, *measures, " ".join(found.flags)))

    def close(self) -> None:
        with self.folder.open("labels.csv") as file:
            self.table.copy_to(file)

    def _write_row(self, values: tuple[object, ...]) -> None:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerow(values)
        self.table.add(text.getvalue())
