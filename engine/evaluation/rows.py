"""Label rows of a run, shard by shard, as the evaluation reads them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow.parquet as pq

from engine import storage


class EvaluationError(ValueError):
    """What was asked to be compared cannot be compared; the message says why and what to do."""


@dataclass(frozen=True, kw_only=True)
class LabelFiles:
    """The label files of one folder of a run directory.

    Attributes:
        files: URLs of the Parquet files that hold rows of a shard, by shard.
        keys: the rows' keys in their order in the files, by shard.
        concepts: the concepts found in the rows.
    """

    files: dict[str, list[str]]
    keys: dict[str, list[str]]
    concepts: set[str]

    @property
    def count(self) -> int:
        """Number of rows."""
        return sum(map(len, self.keys.values()))

    @property
    def concept(self) -> str:
        """The concept of all rows; EvaluationError if there are several."""
        if len(self.concepts) > 1:
            names = ", ".join(sorted(self.concepts))
            raise EvaluationError(f"the run holds labels of several concepts ({names}); name one with --concept")
        return next(iter(self.concepts))

    def read(
        self, shard: str, columns: Collection[str], keys: Collection[str] | None = None
    ) -> dict[str, dict[str, Any]]:
        """The rows of a shard by key (only of ``keys``, if given), with the columns asked for."""
        rows: dict[str, dict[str, Any]] = {}
        for url in self.files.get(shard, []):
            for batch in _batches(url, ["shard", "key", *columns]):
                for row in batch.to_pylist():
                    if row["shard"] == shard and (keys is None or row["key"] in keys):
                        rows[row["key"]] = row
        return rows


def find_label_files(run: str, folder: str) -> LabelFiles | None:
    """The label files in ``run/folder``, None if there are none.

    Raises:
        EvaluationError: two rows of one image, or a file that is not a label file.
    """
    files: dict[str, list[str]] = defaultdict(list)
    keys: dict[str, list[str]] = defaultdict(list)
    concepts: set[str] = set()
    place = storage.join(run, folder)
    names = [name for name in storage.list_names(place) if name.endswith(".parquet") and name[0] not in "._"]
    for name in names:
        url = storage.join(place, name)
        for batch in _batches(url, ["shard", "key", "concept"]):
            for row in batch.to_pylist():
                if url not in files[row["shard"]]:
                    files[row["shard"]].append(url)
                keys[row["shard"]].append(row["key"])
                concepts.add(row["concept"])
    for shard, found in keys.items():
        if len(set(found)) < len(found):
            twice = next(key for key in found if found.count(key) > 1)
            raise EvaluationError(f"{storage.redact(place)} holds two rows of {shard} {twice}; label into an empty run")
    return LabelFiles(files=dict(files), keys=dict(keys), concepts=concepts) if names else None


def find_labels(run: str) -> tuple[LabelFiles, str]:
    """The files with the final labels of a run, or its preliminary ones if it has no others, and their folder.

    Raises:
        EvaluationError: no labels.
    """
    for folder in ("labels", "preliminary"):
        files = find_label_files(run, folder)
        if files is not None and files.count:
            return files, folder
    raise EvaluationError(f"{storage.redact(run)} holds no labels; label into it first, or name another run")


def _batches(url: str, columns: list[str]) -> Iterator[Any]:
    try:
        with storage.open_binary(url) as file:
            parquet = pq.ParquetFile(file)
            if absent := set(columns) - set(parquet.schema_arrow.names):
                raise ValueError(f"it has no column {', '.join(sorted(absent))}")
            yield from parquet.iter_batches(batch_size=256, columns=columns)
    except ValueError as error:  # pyarrow.ArrowInvalid is a ValueError
        raise EvaluationError(f"{storage.redact(url)} is not a label file: {error}") from error
