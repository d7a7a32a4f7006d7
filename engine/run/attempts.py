"""Marks that outlive a killed worker: they tell which lease, and which of its samples, it was at when it died.

.attempts/LEASE~SESSION-TOKEN                a worker is at the lease
.attempts/LEASE~SESSION-TOKEN-START-STOP     and at these samples of it, alone

Whole leases are tried `MAX_DEATHS` times. From then on their samples are taken a few at a time, each few under a mark
of their own; a few that a worker died on are halved, until the one that kills is by itself.
"""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from engine import storage

ATTEMPTS = ".attempts"
MAX_DEATHS = 3
"""So many workers may die on a lease before its samples are looked at apart."""
MAX_ALONE = 2
"""And so many on one sample alone, or on opening the lease: one death can be a machine's that was taken away."""


@dataclass(frozen=True, kw_only=True, order=True)
class Span:
    """The samples and defects of a lease from place `start` up to `stop`."""

    start: int
    stop: int

    def halves(self) -> tuple[Span, Span]:
        middle = (self.start + self.stop) // 2
        return Span(start=self.start, stop=middle), Span(start=middle, stop=self.stop)


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One worker's attempt at a lease.

    Attributes:
        token: goes into the names of the temporary files the worker writes.
        deaths: earlier attempts of this session that ended without a word, by the samples that they were at; None
            where that was all of the lease.
    """

    folder: str
    lease_id: str
    session: str
    token: str
    deaths: Counter[Span | None] = field(default_factory=Counter)

    @property
    def careful(self) -> bool:
        """Whether samples are to be looked at apart."""
        return self.deaths.total() >= MAX_DEATHS

    @property
    def hopeless(self) -> bool:
        """Whether workers die before they come to any sample, such as on a list of members."""
        return self.deaths[None] >= MAX_DEATHS + MAX_ALONE

    def kills(self, span: Span) -> bool:
        """Whether this is a single sample that has been found out."""
        return span.stop - span.start == 1 and self.deaths[span] >= MAX_ALONE

    def divide(self, count: int, size: int) -> list[Span]:
        """`count` samples, `size` at a time, less where workers died; first come those that they died on."""
        spans = [Span(start=start, stop=min(start + size, count)) for start in range(0, count, size)]
        cut: list[Span] = []
        while spans:
            span = spans.pop()
            if self.deaths[span] and span.stop - span.start > 1:
                spans += span.halves()
            else:
                cut.append(span)
        suspect = {span for dead in self.deaths if dead for span in cut if dead.start <= span.start < dead.stop}
        return sorted(cut, key=lambda span: (span not in suspect, span))

    @contextmanager
    def at(self, span: Span) -> Iterator[None]:
        """Marks that the worker is at these samples alone; unmarks it unless the process dies."""
        mark = storage.join(self.folder, f"{_name(self.lease_id, self.session, self.token)}-{span.start}-{span.stop}")
        storage.touch(mark)
        try:
            yield
        finally:
            storage.remove(mark)


@contextmanager
def mark_attempt(run_url: str, lease_id: str, session: str, files: list[str]) -> Iterator[Attempt]:
    """Marks in the run directory that a worker is at the lease; unmarks it unless the process dies.

    Also sweeps up what killed workers left: marks of earlier sessions, and temporary files.

    Args:
        session: names this start of the driver. Attempts are counted within a session only, so that whoever interrupts
            and resumes a run never gets closer to a quarantined sample.
        files: URLs that are written for the lease.
    """
    folder = storage.join(run_url, ATTEMPTS)
    dead: dict[str, Span | None] = {}
    for name in storage.list_names(folder):
        lease, _, owner = name.rpartition("~")
        if lease != lease_id:
            continue
        of, token, *span = owner.split("-")
        for url in files:
            storage.remove(storage.temporary_url(url, token))
        if of != session:
            storage.remove(storage.join(folder, name))
        elif span:
            dead[token] = Span(start=int(span[0]), stop=int(span[1]))
        else:
            dead.setdefault(token, None)
    attempt = Attempt(
        folder=folder, lease_id=lease_id, session=session, token=uuid.uuid4().hex, deaths=Counter(dead.values())
    )
    mark = storage.join(folder, _name(lease_id, session, attempt.token))
    storage.touch(mark)
    try:
        yield attempt
    finally:
        storage.remove(mark)


def clear_attempts(run_url: str) -> None:
    """Forgets all attempts, once every lease is done."""
    storage.remove_folder(storage.join(run_url, ATTEMPTS))


def _name(lease_id: str, session: str, token: str) -> str:
    return f"{lease_id}~{session}-{token}"
