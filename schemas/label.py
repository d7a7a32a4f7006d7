"""The label row: one image, its mask at the image's own size, and what is known about how good the mask is.

The files are plain Parquet and PNG: pandas, DuckDB, `datasets` and any PNG decoder read them.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa

LABEL_SCHEMA_VERSION = 3
"""Raised whenever a column is added, removed or changes its meaning. Part of a run's fingerprint."""

PNG = pa.struct([pa.field("bytes", pa.binary()), pa.field("path", pa.string())])
"""An encoded image as `datasets` spells it: the file's bytes, and the name it would have on disk."""

LABEL_SCHEMA = pa.schema(
    [
        pa.field("shard", pa.string(), nullable=False),
        pa.field("key", pa.string(), nullable=False),  # unique within the shard
        pa.field("concept", pa.string(), nullable=False),
        pa.field("width", pa.int32(), nullable=False),  # of the upright image, pixels
        pa.field("height", pa.int32(), nullable=False),
        pa.field("mask", PNG, nullable=False),  # 1 bit, height × width
        pa.field("preliminary_mask", PNG, nullable=False),  # 1 bit, latent size
        pa.field("heatmap", PNG, nullable=False),  # 8 bit grey, latent size, min–max scaled per image
        pa.field("advantage", PNG),  # 8 bit grey, latent size, 128 + 512 A clipped; null where A was not asked for
        pa.field("bbox", pa.list_(pa.int32(), 4), nullable=False),  # x, y, w, h in pixels; zeros if the mask is empty
        pa.field("area", pa.float32(), nullable=False),  # fraction of the image, 0–1
        pa.field("separation", pa.float32()),  # of the heatmap's mixture, 0–1
        pa.field("refined_separation", pa.float32()),  # of the difference's mixture; null before refinement
        pa.field("presence", pa.float32()),  # above 0 the concept explains the image better than background does
        pa.field("quality", pa.float32()),  # 0–1, from signals that need no ground truth
        pa.field("flags", pa.list_(pa.string()), nullable=False),  # for example one_mode, empty, touches_border
    ]
)

Row = dict[str, Any]
"""A row of it, by column."""


def label_schema(
    *, fingerprint: str, model: str, revision: str | None, seed: int, stage: str, prompt: str
) -> pa.Schema:
    """`LABEL_SCHEMA` with the metadata of every label file; it is the same for any two writers of a file."""
    return LABEL_SCHEMA.with_metadata(
        {
            "maskmine.schema_version": str(LABEL_SCHEMA_VERSION),
            "maskmine.fingerprint": fingerprint,
            "maskmine.model": model,
            "maskmine.revision": revision or "",
            "maskmine.seed": str(seed),
            "maskmine.stage": stage,
            "maskmine.prompt": prompt,
        }
    )
