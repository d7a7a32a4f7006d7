"""How far the labelling is: workers report to one small actor, the driver shows one line."""

from __future__ import annotations

import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any, TextIO, TypeVar

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from engine.corpus.lease import Lease
from engine.pipeline.health import Health
from engine.run.harvest import LeaseProgress
from engine.run.quantities import format_duration
from schemas.receipt import Receipt


class Board(Health):
    """State of the actor: the last word of each lease, and how its workers are."""

    def __init__(self, expected: int = 1) -> None:
        super().__init__(expected)
        self._leases: dict[str, LeaseProgress] = {}
        self._first: float | None = None

    def report(self, progress: LeaseProgress) -> None:
        self._first = self._first or time.monotonic()
        before = self._leases.get(progress.lease_id)
        self._leases[progress.lease_id] = progress
        if progress.finished or progress.labelled > (before.labelled if before else 0):
            self.stride()

    def state(self, settled: Sequence[str] = ()) -> tuple[list[LeaseProgress], float | None]:
        """Progress of every lease, and the seconds since the first of them was opened.

        Args:
            settled: leases that nobody needs to be told of any more; a large run has a hundred thousand.
        """
        for lease_id in settled:
            self._leases.pop(lease_id, None)
        age = None if self._first is None else time.monotonic() - self._first
        return list(self._leases.values()), age


def start_board(expected: int) -> Any:
    """The board as an actor that takes no CPU, beside the driver, and is started anew if its process goes.

    Args:
        expected: workers that there is room for.
    """
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    board = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(Board)
    return board.options(scheduling_strategy=here).remote(expected)


@dataclass(frozen=True, kw_only=True)
class Tally:
    """Numbers of one moment. `planned` is exact unless `estimated`; None while nothing is known."""

    done: int
    planned: int | None
    estimated: bool
    quarantined: int
    leases_done: int
    leases: int


def count(leases: Iterable[Lease], receipts: dict[str, Receipt], open_leases: Iterable[LeaseProgress]) -> Tally:
    """Adds up finished leases (by receipt), opened ones (by report); estimates the rest by bytes, or else by number."""
    reports = {progress.lease_id: progress for progress in open_leases}
    done = planned = quarantined = finished = total = 0
    known_leases = unknown_leases = 0
    known_bytes = unknown_bytes = 0.0
    for lease in leases:
        total += 1
        size = lease.shard.size / lease.parts
        if receipt := receipts.get(lease.id):
            finished += 1
            seen, bad, expected = receipt.seen, receipt.failed, receipt.seen
        elif report := reports.get(lease.id):
            seen, bad, expected = report.labelled + report.quarantined, report.quarantined, report.planned
        else:
            unknown_leases, unknown_bytes = unknown_leases + 1, unknown_bytes + size
            continue
        done, quarantined, planned = done + seen, quarantined + bad, planned + expected
        known_leases, known_bytes = known_leases + 1, known_bytes + size
    if unknown_leases and known_leases:
        sized = known_bytes and unknown_bytes  # some stores tell no sizes
        share = unknown_bytes / known_bytes if sized else unknown_leases / known_leases
        planned += round(share * planned)
    return Tally(
        done=done,
        planned=planned if known_leases or not unknown_leases else None,
        estimated=unknown_leases > 0,
        quarantined=quarantined,
        leases_done=finished,
        leases=total,
    )


def format_line(tally: Tally, *, rate: float | None) -> str:
    """``128 of ~400 images · 3.2 images/s · 1 quarantined · 2 of 8 leases · ETA 1m25s``."""
    if tally.planned is None:
        return f"workers are loading the model · {tally.leases} leases to do"
    planned = f"{'~' if tally.estimated else ''}{tally.planned}"
    parts = [f"{tally.done} of {planned} images"]
    if rate is not None:
        parts.append(f"{rate:.3g} images/s")
    parts.append(f"{tally.quarantined} quarantined")
    parts.append(f"{tally.leases_done} of {tally.leases} leases")
    if rate and tally.done < tally.planned:
        parts.append(f"ETA {format_duration((tally.planned - tally.done) / rate)}")
    return " · ".join(parts)


Line = TypeVar("Line", bound="StatusLine")


class StatusLine:
    """Shows a line while used as a context manager: in place on a terminal, every ten seconds in a log.

    `text` gives the words of the moment; a Ray error in it is taken for one that passes.
    """

    def __init__(self, text: Callable[[], str], *, stream: TextIO | None = None, every: float | None = None) -> None:
        self._text = text
        self._stream = stream or sys.stderr
        self._terminal = self._stream.isatty()
        self._every = every if every is not None else (1.0 if self._terminal else 10.0)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="progress", daemon=True)

    def __enter__(self: Line) -> Line:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join(timeout=10)
        if kind is None:
            self._show()
        if self._terminal:
            self._stream.write("\n")

    def _run(self) -> None:
        while not self._stop.wait(self._every):
            self._show()

    def _show(self) -> None:
        with suppress(ray.exceptions.RayError):  # an actor that is being restarted; there is a next time
            line = self._text()
            if self._terminal:
                width = shutil.get_terminal_size().columns - 1
                line = f"\r{line[:width]:<{width}}"
            else:
                line += "\n"
            self._stream.write(line)
            self._stream.flush()


class ProgressLine(StatusLine):
    """The status line of a labelling.

    `tally` gives the numbers of the moment, and the seconds since the first lease of this session was opened:
    rates count from then on, so that loading models does not blur them. `done` images were done before this
    session. `tell` is told the numbers and the rate, too.
    """

    def __init__(
        self,
        tally: Callable[[], tuple[Tally, float | None]],
        *,
        done: int = 0,
        tell: Callable[[Tally, float | None], None] = lambda tally, rate: None,
        stream: TextIO | None = None,
        every: float | None = None,
    ) -> None:
        super().__init__(self._describe, stream=stream, every=every)
        self._tally, self._tell = tally, tell
        self._done = done
        self.began: float | None = None
        """When the first lease was opened, on the clock of `time.monotonic`; None until it is known."""

    def _describe(self) -> str:
        tally, age = self._tally()
        if self.began is None and age is not None:
            self.began = time.monotonic() - age
        new = tally.done - self._done
        rate = new / age if age and new > 0 else None
        self._tell(tally, rate)
        return format_line(tally, rate=rate)
