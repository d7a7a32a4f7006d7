"""One lease from beginning to end: read, decode ahead, label, encode behind, write, receipt. No Ray needed.

prefetch thread          this thread            writer thread
read → decode  ─queue─▶  batch → labeller  ───▶ PNG rows      ─▶ quarantine, labels, receipt
"""

from __future__ import annotations

import logging
import time
import traceback
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from engine import storage
from engine.corpus.lease import Lease
from engine.corpus.reader import open_lease
from engine.corpus.sample import Defect
from engine.labelling.label import Label
from engine.run.directory import Attempt, LabelRun
from engine.run.prefetch import Picture, Prefetch
from engine.run.rows import defects_to_parquet, labels_to_parquet, make_row
from schemas.receipt import Receipt

logger = logging.getLogger(__name__)

MAX_DEATHS = 3
"""A lease whose worker process died this often within one session is quarantined as a whole."""

MAX_BATCH_PIXELS = 64_000_000
"""A batch of large images ends early here: part of what is computed, so it must not depend on the machine."""


class Labels(Protocol):
    """What labels images: `engine.labelling.labeller.Labeller` or its fake twin."""

    def __call__(self, images: list[np.ndarray], keys: list[str]) -> list[Label]: ...


class LabellerBroken(RuntimeError):
    """The labeller fails on a plain picture too: it is not the corpus that is at fault."""


@dataclass(frozen=True, kw_only=True)
class LeaseProgress:
    """How far a lease is: totals since its start, so that reporting one twice counts once."""

    lease_id: str
    planned: int
    labelled: int
    quarantined: int
    finished: bool = False


Report = Callable[[LeaseProgress], None]


def label_lease(lease: Lease, labeller: Labels, run: LabelRun, report: Report = lambda progress: None) -> Receipt:
    """Labels one lease and returns its receipt; a lease that has one is returned at once.

    May be killed at any instant, and run again or twice at the same time: the label file's bytes depend on
    the lease and the run's settings only, and every file appears whole.

    Raises:
        LabellerBroken: the labeller fails whatever it is given.
        OSError: the corpus or the run directory cannot be reached.
    """
    if receipt := run.find_receipt(lease):
        report(_finished(receipt))
        return receipt
    with run.attempt(lease.id) as attempt:
        # A receipt of the same lease under a smaller limit no longer tells the truth once the labels change.
        storage.remove(run.receipt_url(lease.id))
        started = time.perf_counter()
        work = _Work(lease, labeller, run, report)
        if attempt.deaths < MAX_DEATHS:
            work.label()
        else:
            work.give_up(attempt.deaths)
        receipt = work.write(attempt, started)
    report(_finished(receipt))
    return receipt


class _Work:
    """The rows, defects and clocks of one lease in the making."""

    def __init__(self, lease: Lease, labeller: Labels, run: LabelRun, report: Report) -> None:
        self.lease, self.labeller, self.run, self.report = lease, labeller, run, report
        self.rows: list[tuple[int, dict[str, Any]]] = []
        self.defects: list[tuple[int, Defect]] = []
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.bytes_read = 0
        self.planned = 0
        self.labelled = 0

    def label(self) -> None:
        """Fills rows and defects."""
        with Prefetch(self.lease) as prefetch, ThreadPoolExecutor(1, thread_name_prefix="encode") as encoder:
            self.planned = prefetch.planned
            self._report()
            encoding: list[Any] = []
            for batch in self._batches(prefetch):
                labels = self._label_batch(batch)
                for done in encoding:
                    self.rows.extend(done.result())
                # One batch is encoded while the next is labelled; more would only pile up masks.
                encoding = [encoder.submit(self._encode, labels)]
                self._report(labelled=len(labels))
            for done in encoding:
                self.rows.extend(done.result())
            self.seconds.update(prefetch.seconds)
            self.bytes_read = prefetch.bytes_read

    def give_up(self, deaths: int) -> None:
        """Quarantines all of the lease unseen: whatever is in it kills the process that touches it."""
        message = f"{deaths} worker processes died on this part of the corpus; it was not labelled."
        if deaths > MAX_DEATHS:  # even listing the keys kills
            whole = Defect(shard=self.lease.shard.name, key="", stage="label", reason="worker_died", message=message)
            self.defects.append((0, whole))
            return
        for index, item in enumerate(open_lease(self.lease)):
            if not isinstance(item, Defect):
                item = Defect(shard=item.shard, key=item.key, stage="label", reason="worker_died", message=message)
            self.defects.append((index, item))

    def write(self, attempt: Attempt, started: float) -> Receipt:
        """Writes the quarantine, then the labels, then the receipt that vouches for both."""
        run, lease = self.run, self.lease
        began = time.perf_counter()
        rows = [row for _, row in sorted(self.rows, key=lambda pair: pair[0])]
        defects = [defect for _, defect in sorted(self.defects, key=lambda pair: pair[0])]
        labels = labels_to_parquet(rows, run)
        quarantine = defects_to_parquet(defects)
        if defects:
            storage.atomic_put(quarantine, run.quarantine_url(lease.id), token=attempt.token)
        else:
            storage.remove(run.quarantine_url(lease.id))
        storage.atomic_put(labels, run.labels_url(lease.id), token=attempt.token)
        now = time.perf_counter()
        self.seconds.update(write=now - began, total=now - started)
        receipt = Receipt(
            lease=_public(lease),
            lease_id=lease.id,
            stage=run.stage,
            fingerprint=run.fingerprint,
            seen=len(rows) + len(defects),
            labelled=len(rows),
            quarantined=dict(sorted(Counter(defect.reason for defect in defects).items())),
            seconds={name: round(value, 3) for name, value in sorted(self.seconds.items())},
            bytes={
                "images": self.bytes_read,
                "labels": len(labels),
                "quarantine": len(quarantine) if defects else 0,
            },
        )
        storage.atomic_put(receipt.to_json().encode(), run.receipt_url(lease.id), token=attempt.token)
        return receipt

    def _batches(self, prefetch: Prefetch) -> Iterator[list[Picture]]:
        batch: list[Picture] = []
        pixels = 0
        for item in prefetch:
            if not isinstance(item, Picture):
                self.defects.append(item)
                continue
            size = item.image.shape[0] * item.image.shape[1]
            if batch and (len(batch) == self.run.batch_size or pixels + size > MAX_BATCH_PIXELS):
                yield batch
                batch, pixels = [], 0
            batch.append(item)
            pixels += size
        if batch:
            yield batch

    def _label_batch(self, batch: list[Picture]) -> list[tuple[Picture, Label]]:
        began = time.perf_counter()
        try:
            labels = self.labeller([picture.image for picture in batch], [picture.key for picture in batch])
            return list(zip(batch, labels, strict=True))
        except Exception:
            logger.warning("a batch of %s failed; its images are labelled one by one", self.lease.id, exc_info=True)
            return [(picture, label) for picture in batch if (label := self._label_alone(picture))]
        finally:
            self.seconds["label"] += time.perf_counter() - began

    def _label_alone(self, picture: Picture) -> Label | None:
        try:
            (label,) = self.labeller([picture.image], [picture.key])
            return label
        except Exception as error:
            _prove_sound(self.labeller, error)
            message = f"The labeller failed on this image: {type(error).__name__}: {error}"
            defect = Defect(
                shard=picture.shard,
                key=picture.key,
                stage="label",
                reason="label_error",
                message=message,
                traceback=traceback.format_exc(),
            )
            self.defects.append((picture.index, defect))
            return None

    def _encode(self, labels: list[tuple[Picture, Label]]) -> list[tuple[int, dict[str, Any]]]:
        began = time.perf_counter()
        rows = [(picture.index, make_row(picture, label, self.run.concept)) for picture, label in labels]
        self.seconds["encode"] += time.perf_counter() - began
        return rows

    def _report(self, labelled: int = 0) -> None:
        self.labelled += labelled
        progress = LeaseProgress(
            lease_id=self.lease.id,
            planned=self.planned,
            labelled=self.labelled,
            quarantined=len(self.defects),
        )
        self.report(progress)


def _public(lease: Lease) -> dict[str, Any]:
    values = lease.to_json()
    values["shard"]["url"] = storage.redact(values["shard"]["url"])
    return values


def _prove_sound(labeller: Labels, error: Exception) -> None:
    """Raises LabellerBroken if the labeller fails on a plain picture as well."""
    ramp = np.linspace(0, 255, 64, dtype=np.uint8)
    picture = np.stack([np.tile(ramp, (64, 1)), np.tile(ramp[:, None], (1, 64)), np.full((64, 64), 128, np.uint8)], 2)
    try:
        labeller([picture], ["probe"])
    except Exception as again:
        raise LabellerBroken(f"the labeller fails on a plain picture too: {type(again).__name__}: {again}") from error


def _finished(receipt: Receipt) -> LeaseProgress:
    return LeaseProgress(
        lease_id=receipt.lease_id,
        planned=receipt.seen,
        labelled=receipt.labelled,
        quarantined=receipt.failed,
        finished=True,
    )
