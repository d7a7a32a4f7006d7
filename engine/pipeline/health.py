"""What befalls workers, counted for all of them: what one meets costs that one its time, what all meet ends the run."""

from __future__ import annotations

from collections import Counter
from typing import Literal

Verdict = Literal["try again", "fail the lease", "fail the run"]

MAX_BROKEN = 2
"""So often is a lease tried anew whose worker turned out to be broken."""
MAX_GIVEN_UP = 3
"""So many leases may fail by broken workers while none labels anything; others get on in the minutes that it takes."""
HOLDING = (0.0, 5.0, 30.0, 120.0)
"""Seconds that a worker waits after each lease in a row that failed: a machine that sees no corpus fails a lease in no
time, and would come by all of them before others have finished theirs."""


class Health:
    """Starts, breaks and failures of workers, and whether any of them gets on meanwhile.

    Args:
        expected: workers that there is room for; until as many have begun, those that have are not all.
    """

    def __init__(self, expected: int = 1) -> None:
        self._expected = expected
        self._workers: set[str] = set()
        self._starting: Counter[str] = Counter()
        self._strides = 0
        self._broken: set[str] = set()
        self._breaks: Counter[str] = Counter()
        self._given_up: set[str] = set()
        self._failures: Counter[str] = Counter()
        self._seen: dict[str, int] = {}

    def starting(self, worker: str) -> int:
        """A worker begins to load; returns how often it has died at that since any last succeeded."""
        self._workers.add(worker)
        self._starting[worker] += 1
        return self._starting[worker] - 1

    def started(self) -> None:
        self._starting.clear()

    def stride(self) -> None:
        """Some worker has labelled something."""
        self._strides += 1
        self._given_up.clear()

    def succeed(self, worker: str) -> None:
        """This one has finished a lease: what it failed at before was not its own fault."""
        del self._failures[worker]

    def breaks(self, worker: str, lease_id: str) -> Verdict:
        """A worker is broken: whether its lease is to be tried again, or is to fail, or the run, as all are broken."""
        del self._starting[worker]  # its process ends in order, and is no death
        self._broken.add(worker)
        self._breaks[lease_id] += 1
        if not self._strides and self._workers <= self._broken and len(self._workers) >= self._expected:
            return "fail the run"
        if self._breaks[lease_id] <= MAX_BROKEN:
            return "try again"
        self._given_up.add(lease_id)
        return "fail the lease" if len(self._given_up) <= MAX_GIVEN_UP else "fail the run"

    def hold(self, worker: str, *, broken: bool) -> float:
        """Seconds that a worker is to wait whose lease has failed: none if others get on with nothing either.

        Args:
            broken: the worker is at fault, whatever others do.
        """
        idle = self._seen.get(worker) == self._strides
        self._seen[worker] = self._strides
        if (idle and not broken) or len(self._workers) < 2:
            return 0.0
        self._failures[worker] += 1
        return HOLDING[min(self._failures[worker], len(HOLDING)) - 1]
