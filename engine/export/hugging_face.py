"""A folder that `datasets.load_dataset` reads: Parquet files with image features, and a card."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from engine.export.folder import Folder
from engine.export.item import Item, mask_to_grey_png
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

Images and masks of {name}, mined by maskmine: no person has drawn them.
"""
_COLUMNS = {
    "image": (PNG, {"_type": "Image"}),
    "mask": (PNG, {"_type": "Image"}),
    "shard": (pa.string(), {"dtype": "string", "_type": "Value"}),
    "key": (pa.string(), {"dtype": "string", "_type": "Value"}),
    "concept": (pa.string(), {"dtype": "string", "_type": "Value"}),
    "quality": (pa.float32(), {"dtype": "float32", "_type": "Value"}),
    "flags": (pa.list_(pa.string()), {"feature": {"dtype": "string", "_type": "Value"}, "_type": "List"}),
}
SCHEMA = pa.schema([(name, kind) for name, (kind, _) in _COLUMNS.items()]).with_metadata(
    {"huggingface": json.dumps({"info": {"features": {name: feature for name, (_, feature) in _COLUMNS.items()}}})}
)


class HuggingFaceWriter:
    """Rows in files of about 128 MB."""

    def __init__(self, folder: Folder, concept: str) -> None:
        self.folder = folder
        self.rows: list[dict[str, Any]] = []
        self.bytes = self.files = 0
        self.stack = folder.stack()
        self.table: pq.ParquetWriter | None = None
        folder.write("README.md", CARD.format(name=json.dumps(concept)).encode())

    def add(self, item: Item) -> None:
        mask = mask_to_grey_png(item.mask)
        self.rows.append(
            {
                "image": {"bytes": item.image, "path": f"{item.name}{item.suffix}"},
                "mask": {"bytes": mask, "path": f"{item.name}.png"},
                "shard": item.shard,
                "key": item.key,
                "concept": item.concept,
                "quality": item.quality,
                "flags": item.flags,
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
            self.table = self.stack.enter_context(pq.ParquetWriter(file, SCHEMA))
            self.files += 1
        self.table.write_table(pa.Table.from_pylist(self.rows, schema=SCHEMA))
        self.rows = []

    def _end_file(self) -> None:
        if self.rows:
            self._write_rows()
        self.stack.close()
        self.table, self.bytes = None, 0
