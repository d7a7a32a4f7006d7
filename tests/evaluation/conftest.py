"""A corpus of two tars with known masks, and a run directory with rows about it."""

from __future__ import annotations

import io
import json
import tarfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from schemas.label import LABEL_SCHEMA


def to_png(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, format="PNG")
    return buffer.getvalue()


@dataclass
class World:
    """Ground truth by (shard, key), and the files of a corpus and of a run about it."""

    corpus: Path
    run: Path
    truths: dict[tuple[str, str], np.ndarray] = field(default_factory=dict)

    def write_shard(self, name: str, samples: dict[str, dict[str, bytes]]) -> None:
        """``samples``: key -> extension -> bytes."""
        self.corpus.mkdir(exist_ok=True)
        with tarfile.open(self.corpus / name, "w") as tar:
            for key, members in samples.items():
                for extension, data in members.items():
                    info = tarfile.TarInfo(f"{key}.{extension}")
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))

    def row(self, shard: str, key: str, mask: np.ndarray, **other: Any) -> dict[str, Any]:
        """A label row whose preliminary mask, heatmap and mask are all ``mask`` unless given."""
        height, width = mask.shape
        images = {
            "mask": mask,
            "preliminary_mask": other.pop("preliminary_mask", mask),
            "heatmap": other.pop("heatmap", mask.astype(np.uint8) * 255),
        }
        pngs = {name: {"bytes": to_png(image), "path": f"{key}.png"} for name, image in images.items()}
        row = {"shard": shard, "key": key, "concept": "car", "width": width, "height": height}
        return {**row, **pngs, "bbox": [0, 0, 0, 0], "area": float(mask.mean()), "flags": [], **other}

    def write_rows(self, file: str, rows: list[dict[str, Any]]) -> None:
        """A label file, and that it is done."""
        path = self.run / file
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist(rows, schema=LABEL_SCHEMA), path)
        path.with_suffix(".json").touch()


@pytest.fixture
def world(tmp_path: Path) -> World:
    """Two shards of three images each, of several sizes; keys repeat between the shards. No rows yet."""
    world = World(tmp_path / "corpus", tmp_path / "run")
    rng = np.random.default_rng(0)
    for shard in range(2):
        samples = {}
        for number in range(3):
            name, key = f"{shard:06d}.tar", f"{number:03d}"
            height, width = 90 + 30 * number, 150 - 20 * shard
            truth = np.zeros((height, width), dtype=bool)
            truth[20 : 60 + 5 * number, 40 + 10 * shard : 100] = True
            world.truths[name, key] = truth
            samples[key] = {
                "json": json.dumps({"concept": "car"}).encode(),
                "mask.png": to_png(truth.astype(np.uint8) * 255),
                "png": to_png(rng.integers(0, 255, (height, width, 3), dtype=np.uint8)),
            }
        world.write_shard(name, samples)
    return world
