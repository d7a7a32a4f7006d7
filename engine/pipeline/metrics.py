"""What a labelling tells Prometheus, through Ray's own exporter: each node serves the metrics of its workers.

Counters count work that was done, also that of leases which were lost and done again; receipts count results.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from ray.util import metrics

from engine.pipeline.progress import Tally
from engine.run.harvest import LeaseProgress
from schemas.receipt import Receipt


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One metric, as Ray is told of it; Prometheus sees it with the prefix ``ray_``, counters with ``_total``."""

    kind: Literal["counter", "gauge", "histogram"]
    meaning: str
    tags: tuple[str, ...] = ("stage",)


METRICS = {
    "maskmine_samples": Metric(kind="counter", meaning="Images by outcome.", tags=("stage", "outcome")),
    "maskmine_leases": Metric(kind="counter", meaning="Leases that got a receipt.", tags=("stage",)),
    "maskmine_bytes": Metric(kind="counter", meaning="Bytes read and written.", tags=("stage", "direction")),
    "maskmine_busy_seconds": Metric(kind="counter", meaning="Seconds that labellers were at work."),
    "maskmine_step_seconds": Metric(kind="histogram", meaning="Seconds of a lease by step.", tags=("stage", "step")),
    "maskmine_busy_share": Metric(kind="gauge", meaning="Share of its time that a worker's labeller is at work."),
    "maskmine_waiting_images": Metric(kind="gauge", meaning="Images that a worker has decoded and not labelled yet."),
    "maskmine_leases_left": Metric(kind="gauge", meaning="Leases of the run without a receipt."),
    "maskmine_images_planned": Metric(kind="gauge", meaning="Images of the run, estimated until all are counted."),
    "maskmine_images_done": Metric(
        kind="gauge", meaning="Images of the run that are done, those of earlier starts too."
    ),
}
"""All of them by name. The stage is that of the method: preliminary or refined."""
LABELLED = "labelled"
"""The outcome of an image that has a label; others are named after the reason of their quarantine."""
BOUNDARIES = [0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0, 10000.0]
"""Of the histogram, seconds."""


@cache
def _metric(name: str) -> Any:
    """Ray's object, one per process."""
    metric = METRICS[name]
    if metric.kind == "histogram":
        return metrics.Histogram(name, metric.meaning, boundaries=BOUNDARIES, tag_keys=metric.tags)
    kinds = {"counter": metrics.Counter, "gauge": metrics.Gauge}
    return kinds[metric.kind](name, metric.meaning, tag_keys=metric.tags)


def _add(name: str, value: float, tags: dict[str, str]) -> None:
    if value > 0:  # Ray refuses to count nothing
        _metric(name).inc(value, tags=tags)


class WorkerMetrics:
    """Those of one worker, from what it reports of its lease and from the receipt."""

    def __init__(self, stage: str) -> None:
        self._tags = {"stage": stage}
        self._last: LeaseProgress | None = None
        self._moment = time.monotonic()

    def report(self, progress: LeaseProgress) -> None:
        """Counts what is new since the last report; of a lease that is finished the receipt tells the rest."""
        if progress.finished:
            return
        now = time.monotonic()
        last = self._last
        if last is None or last.lease_id != progress.lease_id or last.busy > progress.busy:
            last = None
        busy = progress.busy - (last.busy if last else 0.0)
        new = progress.labelled - (last.labelled if last else 0)
        _add("maskmine_samples", new, {**self._tags, "outcome": LABELLED})
        _add("maskmine_busy_seconds", busy, self._tags)
        if last:
            share = busy / max(now - self._moment, 1e-6)
            _metric("maskmine_busy_share").set(min(1.0, share), tags=self._tags)
        _metric("maskmine_waiting_images").set(progress.waiting, tags=self._tags)
        self._last, self._moment = progress, now

    def finish(self, receipt: Receipt) -> None:
        """Counts a lease that this worker has done; of one that was done already nothing was reported before."""
        if self._last is None or self._last.lease_id != receipt.lease_id:
            return
        for outcome, number in {LABELLED: receipt.labelled - self._last.labelled, **receipt.quarantined}.items():
            _add("maskmine_samples", number, {**self._tags, "outcome": outcome})
        _add("maskmine_leases", 1, self._tags)
        read = receipt.bytes.get("images", 0)
        for direction, size in {"in": read, "out": sum(receipt.bytes.values()) - read}.items():
            _add("maskmine_bytes", size, {**self._tags, "direction": direction})
        for step, seconds in receipt.seconds.items():
            _metric("maskmine_step_seconds").observe(seconds, tags={**self._tags, "step": step})
        _metric("maskmine_waiting_images").set(0, tags=self._tags)
        self._last = None


class DriverGauges:
    """Those of the driver, which sees all leases."""

    def __init__(self, stage: str) -> None:
        self._tags = {"stage": stage}

    def show(self, tally: Tally) -> None:
        """Sets them to the numbers of the moment."""
        _metric("maskmine_leases_left").set(tally.leases - tally.leases_done, tags=self._tags)
        _metric("maskmine_images_done").set(tally.done, tags=self._tags)
        if tally.planned is not None:
            _metric("maskmine_images_planned").set(tally.planned, tags=self._tags)
