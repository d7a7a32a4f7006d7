"""COCO instances: annotations.json and images/, with masks as RLE or polygons."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from engine.export.folder import Folder
from engine.export.item import Item, facts_of, judgement_of
from engine.export.outline import mask_to_polygons, simplify
from engine.export.spool import Spool
from engine.extras import require


class CocoWriter:
    """One annotation per label, of all parts of its mask; an image without the object has none."""

    def __init__(self, folder: Folder, concepts: Sequence[str], *, polygons: bool = False) -> None:
        self.folder, self.concepts, self.polygons = folder, concepts, polygons
        self.codec = require("pycocotools.mask", extra="export", purpose="--format coco")
        self.images, self.annotations = Spool(), Spool()
        self.count = self.annotated = 0

    def add(self, item: Item) -> None:
        self.count += 1
        name = f"{item.name}{item.suffix}"
        self.folder.write(f"images/{name}", item.image)
        self.images.add_json(
            {"id": self.count, "file_name": name, "width": item.width, "height": item.height, **facts_of(item)}
        )
        for found in item.shown:
            # Of one concept an annotation has the number of its image.
            self.annotated = self.annotated + 1 if item.several else self.count
            self.annotations.add_json(
                {
                    "id": self.annotated,
                    "image_id": self.count,
                    "category_id": found.number,
                    "iscrowd": 0,
                    "area": int(found.mask.sum()),
                    "bbox": list(found.bbox),
                    "segmentation": self._segmentation(found.mask),
                    **(judgement_of(found) if item.several else {}),
                }
            )

    def close(self) -> None:
        with self.folder.open("annotations.json") as file:
            whole = Spool()
            for number, concept in enumerate(self.concepts, 1):
                whole.add_json({"id": number, "name": concept, "supercategory": ""})
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
