"""Decisions of a person about single labels: a CSV file with the columns shard, key and decision."""

from __future__ import annotations

import csv
import io

DECISIONS = ("accept", "reject", "unsure")


def parse_review(text: str) -> dict[tuple[str, str], str]:
    """Decisions by (shard, key); of several about one image the last counts.

    accept: to be learned from whatever its quality and flags. reject: not to be. unsure: no decision.

    Raises:
        ValueError: not such a file; the message names the line.
    """
    rows = csv.DictReader(io.StringIO(text.removeprefix("\ufeff")))
    if missing := {"shard", "key", "decision"} - set(rows.fieldnames or ()):
        raise ValueError(f"it has no column {', '.join(sorted(missing))}; its first line must be shard,key,decision")
    review = {}
    for row in rows:
        decision = (row["decision"] or "").strip().lower()
        if decision not in DECISIONS:
            raise ValueError(f"line {rows.line_num} decides {decision!r}; it must be {', '.join(DECISIONS)}")
        review[row["shard"], row["key"]] = decision
    return review
