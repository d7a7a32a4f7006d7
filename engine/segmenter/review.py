"""Decisions of a person about single labels: a CSV file with the columns shard, key and decision."""

from __future__ import annotations

import csv
import hashlib
import io

from engine import storage

DECISIONS = ("accept", "reject", "unsure")


def parse_review(text: str) -> dict[tuple[str, str], str]:
    """Decisions by (shard, key); of several about one image the last counts.

    accept: to be learned from whatever its quality and flags. reject: not to be. unsure: no decision.

    Raises:
        ValueError: not such a file; the message names the line.
    """
    rows = csv.DictReader(io.StringIO(text.removeprefix("\ufeff"), newline=None))
    try:
        return _decide(rows)
    except csv.Error as error:
        raise ValueError(f"line {rows.line_num + 1} is no CSV: {error}") from error


def _decide(rows: csv.DictReader[str]) -> dict[tuple[str, str], str]:
    if missing := {"shard", "key", "decision"} - set(rows.fieldnames or ()):
        raise ValueError(f"it has no column {', '.join(sorted(missing))}; its first line must be shard,key,decision")
    review = {}
    for row in rows:
        decision = (row["decision"] or "").strip().lower()
        if decision not in DECISIONS:
            raise ValueError(f"line {rows.line_num} decides {decision!r}; it must be {', '.join(DECISIONS)}")
        review[row["shard"], row["key"]] = decision
    return review


def read_review(url: str | None) -> tuple[dict[tuple[str, str], str], str]:
    """The decisions in the file that a --review names, and the file's hash; none without a file.

    Raises:
        ValueError: there is none, or another file.
    """
    if url is None:
        return {}, ""
    try:
        data = storage.read_bytes(storage.absolute(url))
        return parse_review(data.decode()), hashlib.sha256(data).hexdigest()[:16]
    except (OSError, ValueError) as error:
        raise ValueError(f"--review {storage.redact(url)} cannot be used: {error}") from error
