"""All labels of a run in one pass: how their measures are distributed, and which are the worst."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

COLUMNS = (
    "width",
    "height",
    "area",
    "separation",
    "refined_separation",
    "presence",
    "quality",
    "flags",
)
MEASURES = ("quality", "area", "separation", "refined_separation")
"""Those between 0 and 1, which are shown as histograms."""
BINS = 20


@dataclass(kw_only=True)
class Survey:
    """What was found.

    Attributes:
        count: of labels.
        worst: rows, those of least quality first; equals in the order of shard and key.
        flags: labels with a flag, by flag; "" counts those without any.
        histograms: labels in each of BINS equal parts of 0..1, by measure.
        sums, known: sum of a measure, and of how many labels it is known.
    """

    count: int = 0
    worst: list[dict[str, Any]] = field(default_factory=list)
    flags: Counter[str] = field(default_factory=Counter)
    histograms: dict[str, list[int]] = field(default_factory=lambda: {name: [0] * BINS for name in MEASURES})
    sums: Counter[str] = field(default_factory=Counter)
    known: Counter[str] = field(default_factory=Counter)

    def means(self) -> dict[str, float]:
        """The mean of each measure that is known of any label."""
        return {name: self.sums[name] / self.known[name] for name in MEASURES if self.known[name]}


def survey_rows(rows: Iterable[dict[str, Any]], most: int) -> Survey:
    """Looks at all rows (with `COLUMNS`) and keeps the worst ``most`` of them."""
    survey = Survey()
    survey.worst = heapq.nsmallest(most, _counted(rows, survey), key=_badness)
    return survey


def _badness(row: dict[str, Any]) -> tuple[float, str, str]:
    return row["quality"] or 0.0, row["shard"], row["key"]


def _counted(rows: Iterable[dict[str, Any]], survey: Survey) -> Iterator[dict[str, Any]]:
    for row in rows:
        survey.count += 1
        survey.flags.update(row["flags"] or [""])
        for name in MEASURES:
            value = row[name]
            if value is not None:
                survey.histograms[name][min(int(max(value, 0.0) * BINS), BINS - 1)] += 1
                survey.sums[name] += value
                survey.known[name] += 1
        yield row
