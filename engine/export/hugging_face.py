"""A folder that `datasets.load_dataset` reads: Parquet files with image features, and a card."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from engine.export.class_map import IGNORE, check_classes, item_to_png
from engine.export.folder import Folder
from engine.export.item import Item
from schemas.label import PNG

FILE_BYTES = 128 << 20
ROW_GROUP = 64
CARD = """---
task_categories:
- image-segmentation
configs:
- config_name: default
  data_files:
  - split: train
    path: data/*.parquet
---

Images and masks of {names}, mined by maskmine: no person has drawn them.
"""
CLASSES = """
A mask holds class numbers: 0 background, {numbers}; {ignore} where nobody can tell.
The columns concept, quality and flags have an entry for each label of an image.
"""
Column = tuple[pa.DataType, dict[str, Any]]
"""Its type in Arrow, and as a feature."""
_STRING: Column = (pa.string(), {"dtype": "string", "_type": "Value"})
_FLOAT: Column = (pa.float32(), {"dtype": "float32", "_type": "Value"})
_IMAGE: Column = (PNG, {"_type": "Image"})


def _list_of(column: Column) -> Column:
    # What versions of `datasets` before 4 call it, and later ones understand.
    return pa.list_(column[0]), {"feature": column[1], "_type": "Sequence"}


def make_schema(*, several: bool) -> pa.Schema:
    """The columns, as `datasets` reads them; of several concepts, lists of what there is of each label."""
    label = {"concept": _STRING, "quality": _FLOAT, "flags": _list_of(_STRING)}
    if several:
        label = {name: _list_of(column) for name, column in label.items()}
    columns = {"image": _IMAGE, "mask": _IMAGE, "shard": _STRING, "key": _STRING, **label}
    features = {name: feature for name, (_, feature) in columns.items()}
    return pa.schema([(name, kind) for name, (kind, _) in columns.items()]).with_metadata(
        {"huggingface": json.dumps({"info": {"features": features}})}
    )


def make_card(concepts: Sequence[str]) -> str:
    """README.md, which says where the data are, and what they show."""
    names = [json.dumps(concept) for concept in concepts]
    card = CARD.format(names=", ".join(names))
    if len(names) == 1:
        return card
    numbers = ", ".join(f"{number} {name}" for number, name in enumerate(names, 1))
    return card + CLASSES.format(numbers=numbers, ignore=IGNORE)


class HuggingFaceWriter:
    """Rows in files of about 128 MB."""

    def __init__(self, folder: Folder, concepts: Sequence[str]) -> None:
        check_classes(concepts, "hf")
        self.folder = folder
        self.schema = make_schema(several=len(concepts) > 1)
        self.rows: list[dict[str, Any]] = []
        self.bytes = self.files = 0
        self.stack = folder.stack()
        self.table: pq.ParquetWriter | None = None
        folder.write("README.md", make_card(concepts).encode())

    def add(self, item: Item) -> None:
        mask = item_to_png(item)
        labels: dict[str, list[Any]] = {
            "concept": [found.concept for found in item.objects],
            "quality": [found.quality for found in item.objects],
            "flags": [found.flags for found in item.objects],
        }
        self.rows.append(
            {
                "image": {"bytes": item.image, "path": f"{item.name}{item.suffix}"},
                "mask": {"bytes": mask, "path": f"{item.name}.png"},
                "shard": item.shard,
                "key": item.key,
                **(labels if item.several else {name: values[0] for name, values in labels.items()}),
            }
        )
        self.bytes += len(item.image) + len(mask)
        if len(self.rows) == ROW_GROUP:
            self._write_rows()
        if self.bytes >= FILE_BYTES:
            self._end_file()

    def close(self) -> None:
        if self.rows or not self.files:
            self._write_rows()
        self._end_file()

    def _write_rows(self) -> None:
        if self.table is None:
            file = self.stack.enter_context(self.folder.open(f"data/train-{self.files:05d}.parquet"))
            self.table = self.stack.enter_context(pq.ParquetWriter(file, self.schema))
            self.files += 1
        self.table.write_table(pa.Table.from_pylist(self.rows, schema=self.schema))
        self.rows = []

    def _end_file(self) -> None:
        if self.rows:
            self._write_rows()
        self.stack.close()
        self.table, self.bytes = None, 0
