"""The work on one lease from its start to its receipt, whatever is done to it. No Ray needed."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

from engine import storage
from engine.corpus.lease import Lease
from engine.corpus.sample import Defect
from engine.run.attempts import Attempt
from engine.run.directory import LabelRun
from engine.run.heartbeat import timestamp
from engine.run.rows import defects_to_parquet, labels_to_parquet
from schemas.receipt import Receipt
from schemas.run import RunManifest


@dataclass(frozen=True, kw_only=True)
class LeaseProgress:
    """How far a lease is: totals since its start, so that reporting one twice counts once.

    Attributes:
        waiting: images that are decoded and not labelled yet.
        busy: seconds that the labeller was at work.
    """

    lease_id: str
    planned: int
    labelled: int
    quarantined: int
    finished: bool = False
    waiting: int = 0
    busy: float = 0.0


Report = Callable[[LeaseProgress], None]
Complete = Callable[[Lease, Report], Receipt]
"""What a worker does to one lease after another."""


class LeaseTask(Protocol):
    """All that a worker needs besides its leases. Picklable; holds names, not weights."""

    @property
    def model(self) -> str:
        """The model as the user named it."""

    @property
    def run(self) -> LabelRun:
        """Where results go."""

    def load(self, *, device: str, threads: int | None) -> Complete:
        """Loads the model, once per worker; `threads` limits those of the process."""


class LeasePlan(Protocol):
    """What a driver needs of a plan, whatever is to be done to its leases.

    Attributes:
        leases: all of them; `remaining` are those without a receipt, `receipts` those of the others, by lease id.
        task: for the workers.
        places: what every node of a cluster must see.
        sized: whether sizes of shards are bytes to be read.
    """

    sized: ClassVar[bool]

    @property
    def run(self) -> LabelRun: ...

    @property
    def manifest(self) -> RunManifest: ...

    @property
    def leases(self) -> list[Lease]: ...

    @property
    def remaining(self) -> list[Lease]: ...

    @property
    def receipts(self) -> dict[str, Receipt]: ...

    @property
    def task(self) -> LeaseTask: ...

    @property
    def places(self) -> set[str]: ...


class LabellerBroken(RuntimeError):
    """The labeller fails whatever it is given: it is not the corpus that is at fault."""


class Hopeless(LabellerBroken):
    """It is not this worker, either: whoever tried would fail."""


@dataclass(kw_only=True)
class Harvest:
    """What the work on a lease brings.

    Attributes:
        rows: of the label file, each with its image's place in the lease; images may come in any order, those of one
            image in that of its concepts.
        defects: of the quarantine file, likewise.
        archive: the images, where the work has made them; None where they were there.
        kept: how many of the images have the rows of an earlier session.
        samples: that the shard has for the lease, whatever its limit; None where nobody has looked.
        seconds, bytes, ignored: for the receipt.
    """

    rows: list[tuple[int, dict[str, Any]]] = field(default_factory=list)
    defects: list[tuple[int, Defect]] = field(default_factory=list)
    archive: bytes | None = None
    kept: int = 0
    samples: int | None = None
    seconds: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    bytes: dict[str, int] = field(default_factory=dict)
    ignored: dict[str, int] = field(default_factory=dict)

    def add_steps(self, step: str, worker: object) -> None:
        """Adds what a labeller (or a synthesizer) took for the steps that a step consists of, if it keeps account."""
        if watch := getattr(worker, "stopwatch", None):
            for part, seconds in watch.take().items():
                self.seconds[f"{step}.{part}"] += seconds

    def add_death(self, index: int, *, shard: str, key: str, deaths: int) -> None:
        """Quarantines a sample, or (with an empty key) a lease, on which workers died."""
        message = f"{deaths} worker processes died on this part of the corpus; it was not labelled."
        defect = Defect(shard=shard, key=key, stage="label", reason="worker_died", message=message)
        self.defects.append((index, defect))


def complete_lease(
    lease: Lease,
    run: LabelRun,
    report: Report,
    *,
    work: Callable[[Harvest, Attempt], None],
) -> Receipt:
    """Does the work on a lease and returns its receipt; one that settles the lease already is returned at once.

    May be killed at any instant, and run again or twice at the same time: what `work` brings depends on the lease and
    the run's settings only, and every file appears whole.

    Args:
        work: fills the harvest; the attempt says what has killed earlier workers, not to be touched again.
    """
    found = run.find_receipt(lease)
    if found and run.settles(found, lease):
        report(_finished(found))
        return found
    with run.attempt(lease.id) as attempt:
        # A receipt of the same lease under a smaller limit no longer tells the truth once the labels change. One that
        # was not there before is another attempt's, of all of the lease.
        if found:
            storage.remove(run.receipt_url(lease.id))
        started = time.perf_counter()
        harvest = Harvest()
        work(harvest, attempt)
        receipt = _write(harvest, lease, run, attempt, started)
    report(_finished(receipt))
    return receipt


def _write(harvest: Harvest, lease: Lease, run: LabelRun, attempt: Attempt, started: float) -> Receipt:
    """Writes the quarantine, then images and labels, then the receipt that vouches for all."""
    began = time.perf_counter()
    rows = [row for _, row in sorted(harvest.rows, key=lambda pair: pair[0])]
    images = len({place for place, _ in harvest.rows})
    defects = [defect for _, defect in sorted(harvest.defects, key=lambda pair: pair[0])]
    labels = labels_to_parquet(rows, run)
    quarantine = defects_to_parquet(defects)
    if defects:
        storage.atomic_put(quarantine, run.quarantine_url(lease.id), token=attempt.token)
    else:
        storage.remove(run.quarantine_url(lease.id))
    if harvest.archive is not None:
        storage.atomic_put(harvest.archive, run.images_url(lease.id), token=attempt.token)
    storage.atomic_put(labels, run.labels_url(lease.id), token=attempt.token)
    now = time.perf_counter()
    seconds = {**harvest.seconds, "write": now - began, "total": now - started}
    receipt = Receipt(
        lease=_public(lease),
        lease_id=lease.id,
        stage=run.stage,
        fingerprint=run.fingerprint,
        seen=images + len(defects),
        labelled=images,
        quarantined=_count(defect.reason for defect in defects),
        flags=_count(flag for row in rows for flag in row["flags"]),
        ignored=harvest.ignored,
        seconds={name: round(value, 3) for name, value in sorted(seconds.items())},
        bytes={**harvest.bytes, "labels": len(labels), "quarantine": len(quarantine) if defects else 0},
        finished=timestamp(),
        session=run.session,
        kept=harvest.kept,
        samples=harvest.samples,
    )
    storage.atomic_put(receipt.to_json().encode(), run.receipt_url(lease.id), token=attempt.token)
    return receipt


def _count(words: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(words).items()))


def _public(lease: Lease) -> dict[str, Any]:
    values = lease.to_json()
    values["shard"]["url"] = storage.redact(values["shard"]["url"])
    return values


def _finished(receipt: Receipt) -> LeaseProgress:
    return LeaseProgress(
        lease_id=receipt.lease_id,
        planned=receipt.seen,
        labelled=receipt.labelled,
        quarantined=receipt.failed,
        finished=True,
    )
