"""A driver's snapshots in its run directory, so that others can see how far it is. No Ray needed."""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from datetime import datetime, timezone
from types import TracebackType
from typing import Any

from engine import storage
from schemas.snapshot import Snapshot

logger = logging.getLogger(__name__)

FOLDER = "progress"
EVERY = 30.0
"""Seconds between two snapshots; an object store takes a put for each."""


class Heartbeat:
    """Writes snapshots of one stage while used as a context manager; a run is no failure for want of one."""

    def __init__(self, run_url: str, first: Snapshot, *, every: float = EVERY) -> None:
        self._url = snapshot_url(run_url, first.stage)
        self._last = first
        self._every = every
        self._next = 0.0

    def __enter__(self) -> Heartbeat:
        self._write()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._last = replace(self._last, ended=True)
        self._write()

    def beat(self, **values: Any) -> None:
        """Takes new values, and writes them if it is time."""
        self._last = replace(self._last, **values)
        if time.monotonic() >= self._next:
            self._write()

    def _write(self) -> None:
        self._next = time.monotonic() + self._every
        self._last = replace(self._last, updated=timestamp())
        try:
            storage.atomic_put(self._last.to_json().encode(), self._url)
        except Exception as error:  # whatever a store raises: the labels matter, this does not
            logger.debug("no snapshot: %s", error)


def snapshot_url(run_url: str, stage: str) -> str:
    """Where a run keeps the snapshot of a stage."""
    return storage.join(run_url, FOLDER, f"{stage}.json")


def timestamp() -> str:
    """This moment, ISO 8601 in UTC."""
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")
