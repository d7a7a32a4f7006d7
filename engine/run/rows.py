"""Labels as rows, rows as Parquet: the same labels always give the same bytes."""

from __future__ import annotations

import io
import logging
import math

import pyarrow as pa
import pyarrow.parquet as pq

from engine import storage
from engine.corpus.sample import Defect
from engine.labelling.label import Label
from engine.labelling.png import heatmap_to_png, mask_to_png
from engine.run.directory import LabelRun
from engine.run.prefetch import Picture
from schemas.label import Row, label_schema
from schemas.quarantine import QUARANTINE_SCHEMA

logger = logging.getLogger(__name__)


def make_rows(picture: Picture, found: Label | list[Label], concept: str) -> list[Row]:
    """The rows of an image: of its label, or of those of several concepts.

    Args:
        concept: of labels that name none.
    """
    labels = found if isinstance(found, list) else [found]
    return [make_row(picture, label, label.concept or concept) for label in labels]


def make_row(picture: Picture, label: Label, concept: str) -> Row:
    """One row of `schemas.label`."""
    height, width = picture.image.shape[:2]
    assert label.mask.shape == (height, width), "a mask must have its image's own size"
    return {
        "shard": picture.shard,
        "key": picture.key,
        "concept": concept,
        "width": width,
        "height": height,
        "mask": {"bytes": mask_to_png(label.mask), "path": f"{picture.key}.mask.png"},
        "preliminary_mask": {
            "bytes": mask_to_png(label.preliminary_mask),
            "path": f"{picture.key}.preliminary.png",
        },
        "heatmap": {"bytes": heatmap_to_png(label.heatmap), "path": f"{picture.key}.heatmap.png"},
        "advantage": None
        if label.advantage is None
        else {"bytes": heatmap_to_png(label.advantage), "path": f"{picture.key}.advantage.png"},
        "bbox": list(label.bbox),
        "area": float(label.area),
        "separation": _or_null(label.separation),
        "refined_separation": _or_null(label.refined_separation),
        "presence": _or_null(label.presence),
        "quality": _or_null(label.quality),
        "flags": list(label.flags),
    }


def labels_to_parquet(rows: list[Row], run: LabelRun) -> bytes:
    """Rows as a label file, in the order given; no rows make a valid file without rows."""
    return _to_parquet(pa.Table.from_pylist(rows, schema=_schema_of(run)))


def _schema_of(run: LabelRun) -> pa.Schema:
    return label_schema(
        fingerprint=run.fingerprint,
        model=storage.redact(run.model),
        revision=run.revision,
        seed=run.seed,
        stage=run.stage,
        prompt=run.prompt,
    )


def read_rows(run: LabelRun, lease_id: str) -> dict[str, list[Row]]:
    """The rows that a lease has in the run already, by key; none if they are damaged, or of other settings."""
    try:
        data = storage.read_bytes(run.labels_url(lease_id))
    except FileNotFoundError:
        return {}
    try:
        table = pq.read_table(io.BytesIO(data))
        if (table.schema.metadata or {}).get(b"maskmine.fingerprint") == run.fingerprint.encode():
            rows: dict[str, list[Row]] = {}
            for row in table.cast(_schema_of(run)).to_pylist():
                rows.setdefault(row["key"], []).append(row)
            return rows
    except (ValueError, OSError, pa.ArrowException):
        logger.warning("%s is damaged; it is made anew", storage.redact(run.labels_url(lease_id)))
    return {}


def defects_to_parquet(defects: list[Defect]) -> bytes:
    """Defects as a quarantine file, in the order given."""
    rows = [
        {
            "shard": defect.shard,
            "key": defect.key,
            "stage": defect.stage,
            "reason": defect.reason,
            "error": storage.redact(defect.message),
            "traceback": storage.redact(defect.traceback),
        }
        for defect in defects
    ]
    return _to_parquet(pa.Table.from_pylist(rows, schema=QUARANTINE_SCHEMA))


def _to_parquet(table: pa.Table) -> bytes:
    buffer = io.BytesIO()
    # PNGs gain nothing from dictionaries, and statistics over them would only copy bytes into the footer.
    pq.write_table(
        table,
        buffer,
        compression="zstd",
        row_group_size=1024,
        use_dictionary=[name for name in ("shard", "concept", "reason") if name in table.schema.names],
        write_statistics=["shard", "key"],
    )
    return buffer.getvalue()


def _or_null(value: float) -> float | None:
    return None if math.isnan(value) else float(value)
