"""One lease from beginning to end: read, decode ahead, label, encode behind, write, receipt. No Ray needed.

prefetch thread          this thread            writer thread
read → decode  ─queue─▶  batch → labeller  ───▶ PNG rows      ─▶ quarantine, labels, receipt
"""

from __future__ import annotations

import logging
import time
import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from engine import storage
from engine.corpus.lease import Lease
from engine.corpus.reader import open_lease
from engine.corpus.sample import Defect
from engine.labelling.label import Label
from engine.run.directory import LabelRun
from engine.run.harvest import (
    MAX_DEATHS,
    Complete,
    Harvest,
    LabellerBroken,
    LeaseProgress,
    Report,
    complete_lease,
)
from engine.run.prefetch import Picture, Prefetch
from engine.run.rows import make_row
from schemas.receipt import Receipt

if TYPE_CHECKING:
    from engine.run.source import LabellerSource, RunSpec

logger = logging.getLogger(__name__)

MAX_BATCH_PIXELS = 64_000_000
"""A batch of large images ends early here: part of what is computed, so it must not depend on the machine."""


class Labels(Protocol):
    """What labels images: `engine.labelling.labeller.Labeller` or its fake twin."""

    def __call__(self, images: list[np.ndarray], keys: list[str]) -> list[Label]: ...


def label_lease(lease: Lease, labeller: Labels, run: LabelRun, report: Report = lambda progress: None) -> Receipt:
    """Labels one lease and returns its receipt; a lease that has one is returned at once.

    May be killed at any instant, and run again or twice at the same time: the label file's bytes depend on
    the lease and the run's settings only, and every file appears whole.

    Raises:
        LabellerBroken: the labeller fails whatever it is given.
        OSError: the corpus or the run directory cannot be reached.
    """
    work = _Work(lease, labeller, run, report)
    return complete_lease(lease, run, report, work=work.label, give_up=work.give_up)


@dataclass(frozen=True, kw_only=True)
class LabelTask:
    """The labelling as it travels to a worker.

    Attributes:
        weights: URL of m′, None where m does all.
    """

    source: LabellerSource
    spec: RunSpec
    run: LabelRun
    weights: str | None = None

    @property
    def model(self) -> str:
        return self.run.model

    def load(self, *, device: str, threads: int | None) -> Complete:
        """What labels one lease after another."""
        concept = storage.read_bytes(self.weights) if self.weights else None
        labeller = self.source.build(self.spec, device=device, threads=threads, weights=concept)
        return lambda lease, report: label_lease(lease, labeller, self.run, report)


class _Work:
    """The labelling of one lease."""

    def __init__(self, lease: Lease, labeller: Labels, run: LabelRun, report: Report) -> None:
        self.lease, self.labeller, self.run, self.report = lease, labeller, run, report
        self.harvest = Harvest()
        self.planned = 0
        self.labelled = 0

    def label(self, harvest: Harvest) -> None:
        """Fills rows and defects."""
        self.harvest = harvest
        with Prefetch(self.lease) as prefetch, ThreadPoolExecutor(1, thread_name_prefix="encode") as encoder:
            self.planned = prefetch.planned
            self._report()
            encoding: list[Any] = []
            for batch in self._batches(prefetch):
                labels = self._label_batch(batch)
                for done in encoding:
                    harvest.rows.extend(done.result())
                # One batch is encoded while the next is labelled; more would only pile up masks.
                encoding = [encoder.submit(self._encode, labels)]
                self._report(labelled=len(labels), waiting=prefetch.waiting)
            for done in encoding:
                harvest.rows.extend(done.result())
            harvest.seconds.update(prefetch.seconds)
            harvest.bytes["images"] = prefetch.bytes_read
            harvest.ignored = prefetch.ignored

    def give_up(self, harvest: Harvest, deaths: int) -> None:
        """Quarantines all of the lease unseen: whatever is in it kills the process that touches it."""
        harvest.bytes["images"] = 0
        if deaths > MAX_DEATHS:  # even listing the keys kills
            harvest.add_death(0, shard=self.lease.shard.name, key="", deaths=deaths)
            return
        for index, item in enumerate(open_lease(self.lease)):
            if isinstance(item, Defect):
                harvest.defects.append((index, item))
            else:
                harvest.add_death(index, shard=item.shard, key=item.key, deaths=deaths)

    def _batches(self, prefetch: Prefetch) -> Iterator[list[Picture]]:
        batch: list[Picture] = []
        pixels = 0
        for item in prefetch:
            if not isinstance(item, Picture):
                self.harvest.defects.append(item)
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
            self.harvest.seconds["label"] += time.perf_counter() - began
            self.harvest.add_steps("label", self.labeller)

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
            self.harvest.defects.append((picture.index, defect))
            return None

    def _encode(self, labels: list[tuple[Picture, Label]]) -> list[tuple[int, dict[str, Any]]]:
        began = time.perf_counter()
        rows = [(picture.index, make_row(picture, label, self.run.concept)) for picture, label in labels]
        self.harvest.seconds["encode"] += time.perf_counter() - began
        return rows

    def _report(self, labelled: int = 0, waiting: int = 0) -> None:
        self.labelled += labelled
        progress = LeaseProgress(
            lease_id=self.lease.id,
            planned=self.planned,
            labelled=self.labelled,
            quarantined=len(self.harvest.defects),
            waiting=waiting,
            busy=self.harvest.seconds["label"],
        )
        self.report(progress)


def _prove_sound(labeller: Labels, error: Exception) -> None:
    """Raises LabellerBroken if the labeller fails on a plain picture as well."""
    ramp = np.linspace(0, 255, 64, dtype=np.uint8)
    picture = np.stack([np.tile(ramp, (64, 1)), np.tile(ramp[:, None], (1, 64)), np.full((64, 64), 128, np.uint8)], 2)
    try:
        labeller([picture], ["probe"])
    except Exception as again:
        raise LabellerBroken(f"the labeller fails on a plain picture too: {type(again).__name__}: {again}") from error
