"""The quarantine row: one sample (or a whole shard, key "") that could not be labelled, and why."""

from __future__ import annotations

import pyarrow as pa

QUARANTINE_SCHEMA_VERSION = 1

QUARANTINE_SCHEMA = pa.schema(
    [
        pa.field("shard", pa.string(), nullable=False),
        pa.field("key", pa.string(), nullable=False),  # "" when the shard as a whole is concerned
        pa.field("stage", pa.string(), nullable=False),  # read | decode | label
        pa.field("reason", pa.string(), nullable=False),  # a short stable word, for counting
        pa.field("error", pa.string(), nullable=False),  # one sentence for a person
        pa.field("traceback", pa.string(), nullable=False),  # "" where none applies
    ],
    metadata={"maskmine.schema_version": str(QUARANTINE_SCHEMA_VERSION)},
)
