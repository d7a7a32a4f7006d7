"""COCO instances: annotations.json and images/, with masks as RLE or polygons."""

from __future__ import annotations

from typing import Any

import numpy as np

from engine.export.folder import Folder
from engine.export.item import Item, facts_of
from engine.export.outline import mask_to_polygons, simplify
from engine.export.spool import Spool
from engine.extras import require


class CocoWriter:
    """One annotation per image, of all parts of its mask; an image without the object has none."""

    def __init__(self, folder: Folder, concept: str, *, polygons: bool = False) -> None:
        self.folder, self.concept, self.polygons = folder, concept, polygons
        self.codec = require("pycocotools.mask", extra="export", purpose="--format coco")
        self.images, self.annotations = Spool(), Spool()
        self.count = 0

    def add(self, item: Item) -> None:
        self.count += 1
        name = f"{item.name}{item.suffix}"
        self.folder.write(f"images/{name}", item.image)
        self.images.add_json(
            {"id": self.count, "file_name": name, "width": item.width, "height": item.height, **facts_of(item)}
        )
        if not item.empty:
            self.annotations.add_json(
                {
                    "id": self.count,
                    "image_id": self.count,
                    "category_id": 1,
                    "iscrowd": 0,
                    "area": int(item.mask.sum()),
                    "bbox": list(item.bbox),
                    "segmentation": self._segmentation(item.mask),
                }
            )

    def close(self) -> None:
        with self.folder.open("annotations.json") as file:
            whole = Spool()
            whole.add_json({"id": 1, "name": self.concept, "supercategory": ""})
            file.write(b'{"info": {"description": "mined by maskmine"},\n"licenses": [],\n"categories": [')
            whole.copy_to(file)
            file.write(b'],\n"images": [')
            self.images.copy_to(file)
            file.write(b'],\n"annotations": [')
            self.annotations.copy_to(file)
            file.write(b"]}\n")

    def _segmentation(self, mask: np.ndarray) -> Any:
        if not self.polygons:
            rle = self.codec.encode(np.asfortranarray(mask, dtype=np.uint8))
            return {"size": list(mask.shape), "counts": rle["counts"].decode("ascii")}
        polygons = simplify(mask, mask_to_polygons(mask), lambda found: self._fill(found, mask.shape))
        return [polygon.ravel().tolist() for polygon in polygons]

    def _fill(self, polygons: list[np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
        height, width = shape
        rles = self.codec.frPyObjects([polygon.ravel().tolist() for polygon in polygons], height, width)
        return self.codec.decode(self.codec.merge(rles)).astype(bool)
