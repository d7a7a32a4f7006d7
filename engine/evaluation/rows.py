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
    """The label files of one folder of a run directory, or what they hold of one concept.

    Attributes:
        files: URLs of the Parquet files that hold rows of a shard, by shard.
        rows: key and concept of each row in their order in the files, by shard.
        concepts: the concepts found in the rows, in the order in which they first appear.
    """

    files: dict[str, list[str]]
    rows: dict[str, list[tuple[str, str]]]
    concepts: tuple[str, ...]

    @property
    def count(self) -> int:
        """Number of rows."""
        return sum(map(len, self.rows.values()))

    @property
    def concept(self) -> str:
        """The concept of all rows; EvaluationError if there are several."""
        if len(self.concepts) > 1:
            names = ", ".join(self.concepts)
            raise EvaluationError(f"the run holds labels of several concepts ({names}); name one with --concept")
        return self.concepts[0]

    def of(self, concept: str) -> LabelFiles:
        """The rows of one concept; those of all where it is the name of another's ground truth."""
        if len(self.concepts) == 1:
            return self
        if concept not in self.concepts:
            names = ", ".join(self.concepts)
            raise EvaluationError(f"the run holds no labels of {concept!r}; it holds those of {names}")
        rows = {shard: [row for row in found if row[1] == concept] for shard, found in self.rows.items()}
        return LabelFiles(files=self.files, rows={s: found for s, found in rows.items() if found}, concepts=(concept,))

    def read(
        self, shard: str, columns: Collection[str], keys: Collection[str] | None = None
    ) -> dict[str, dict[str, Any]]:
        """The rows of a shard by key (only of ``keys``, if given), with the columns asked for.

        Raises:
            EvaluationError: rows of several concepts, or a damaged file.
        """
        concept = self.concept
        rows: dict[str, dict[str, Any]] = {}
        for url in self.files.get(shard, []):
            for batch in _batches(url, ["shard", "key", "concept", *columns]):
                for row in batch.to_pylist():
                    if (row["shard"], row["concept"]) == (shard, concept) and (keys is None or row["key"] in keys):
                        rows[row["key"]] = row
        return rows


def find_label_files(run: str, folder: str, most: int | None = None) -> LabelFiles | None:
    """The label files in ``run/folder`` that have a receipt, None if there are none.

    Args:
        most: so many of them at most, evenly spread; all if not given.

    Raises:
        EvaluationError: two rows of one image and concept, or a file that is not a label file, or is not there.
    """
    files: dict[str, list[str]] = defaultdict(list)
    rows: dict[str, list[tuple[str, str]]] = defaultdict(list)
    concepts: dict[str, None] = {}
    place = storage.join(run, folder)
    # The names tell which leases are done: of a large run not every receipt is read to draw some of its labels.
    there = storage.list_names(place)
    leases = [name[: -len(".json")] for name in there if name.endswith(".json") and not name.startswith(".")]
    count = len(leases) if most is None else min(most, len(leases))
    for lease in (leases[index * len(leases) // count] for index in range(count)):
        url = storage.join(place, f"{lease}.parquet")
        for batch in _batches(url, ["shard", "key", "concept"]):
            for row in batch.to_pylist():
                if url not in files[row["shard"]]:
                    files[row["shard"]].append(url)
                rows[row["shard"]].append((row["key"], row["concept"]))
                concepts[row["concept"]] = None
    for shard, found in rows.items():
        if len(set(found)) < len(found):
            twice = next(key for key, concept in found if found.count((key, concept)) > 1)
            raise EvaluationError(f"{storage.redact(place)} holds two rows of {shard} {twice}; label into an empty run")
    return LabelFiles(files=dict(files), rows=dict(rows), concepts=tuple(concepts)) if leases else None


def find_labels(run: str, most: int | None = None) -> tuple[LabelFiles, str]:
    """The files with the final labels of a run, or its preliminary ones if it has no others, and their folder.

    Args:
        most: as of `find_label_files`.

    Raises:
        EvaluationError: no labels.
    """
    for folder in ("labels", "preliminary"):
        files = find_label_files(run, folder, most)
        if files is not None and files.count:
            return files, folder
    raise EvaluationError(f"{storage.redact(run)} holds no finished labels; label into it first, or name another run")


def _batches(url: str, columns: list[str]) -> Iterator[Any]:
    try:
        with storage.open_binary(url) as file:
            parquet = pq.ParquetFile(file)
            if absent := set(columns) - set(parquet.schema_arrow.names):
                raise ValueError(f"it has no column {', '.join(sorted(absent))}")
            yield from parquet.iter_batches(batch_size=256, columns=columns)
    except FileNotFoundError as error:
        raise EvaluationError(
            f"there is no {storage.redact(url)}, though a receipt says that it was written; delete the receipt and "
            "label its lease again"
        ) from error
    except ValueError as error:  # pyarrow.ArrowInvalid is a ValueError
        raise EvaluationError(f"{storage.redact(url)} is not a label file: {error}") from error
