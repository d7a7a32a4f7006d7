"""One lease from beginning to end: read, decode ahead, label, encode behind, write, receipt. No Ray needed.

prefetch thread          this thread            writer thread
read → decode  ─queue─▶  batch → labeller  ───▶ PNG rows      ─▶ quarantine, labels, receipt
"""

from __future__ import annotations

import logging
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from engine import storage
from engine.corpus.lease import Lease
from engine.corpus.reader import LeaseReader, open_lease
from engine.corpus.sample import Defect, Sample
from engine.labelling.label import Label
from engine.memory import is_out_of_memory
from engine.run.attempts import Attempt
from engine.run.directory import LabelRun
from engine.run.fitting import Fitting
from engine.run.harvest import Complete, Harvest, LabellerBroken, LeaseProgress, Report, complete_lease
from engine.run.names import index_folder
from engine.run.prefetch import Item, Picture, Prefetch, decode_sample
from engine.run.rows import make_rows, read_rows
from schemas.label import Row
from schemas.receipt import Receipt

if TYPE_CHECKING:
    from engine.run.source import LabellerSource, RunSpec

logger = logging.getLogger(__name__)

OVERFLOWS = 16
"""So many images of a lease, and none that can be labelled before them: what computes no numbers, or settings that make
it do so, would quarantine all. A plain picture may not show it, as nothing is painted where no object is."""
MAX_BATCH_PIXELS = 64_000_000
"""A batch of large images ends early here: part of what is computed, so it must not depend on the machine."""


class Labels(Protocol):
    """What labels images: `engine.labelling.labeller.Labeller` or its fake twin.

    One that finds several concepts gives a list of labels for each image, each with its concept.
    """

    def __call__(self, images: list[np.ndarray], keys: list[str], /) -> Sequence[Label | list[Label]]: ...


def label_lease(lease: Lease, labeller: Labels, run: LabelRun, report: Report = lambda progress: None) -> Receipt:
    """Labels one lease and returns its receipt; a lease that has one is returned at once.

    May be killed at any instant, and run again or twice at the same time: the label file's bytes depend on
    the lease and the run's settings only, and every file appears whole.

    Raises:
        LabellerBroken: the labeller fails whatever it is given.
        OSError: the corpus or the run directory cannot be reached.
    """
    return complete_lease(lease, run, report, work=_Work(lease, labeller, run, report).do)


@dataclass(frozen=True, kw_only=True)
class LabelTask:
    """The labelling as it travels to a worker.

    Attributes:
        weights: URL of m′ of each concept; none where m does all.
    """

    source: LabellerSource
    spec: RunSpec
    run: LabelRun
    weights: tuple[str, ...] = ()

    @property
    def model(self) -> str:
        return self.run.model

    def load(self, *, device: str, threads: int | None) -> Complete:
        """What labels one lease after another."""
        weights = [storage.read_bytes(url) for url in self.weights]
        labeller = Fitting(self.source.build(self.spec, device=device, threads=threads, weights=weights))
        return lambda lease, report: label_lease(lease, labeller, self.run, report)


class _Work:
    """The labelling of one lease."""

    def __init__(self, lease: Lease, labeller: Labels, run: LabelRun, report: Report) -> None:
        self.lease, self.labeller, self.run, self.report = lease, labeller, run, report
        self.indexes = index_folder(run.url, keeps=True)
        self.harvest = Harvest()
        self.planned = 0
        self.labelled = 0
        self.overflown = 0

    def do(self, harvest: Harvest, attempt: Attempt) -> None:
        """Fills rows and defects, keeping off what kills."""
        self.harvest = harvest
        kept = read_rows(self.run, self.lease.id) if self.run.retry else {}
        if attempt.hopeless:
            harvest.bytes["images"] = 0
            self._keep(dict(enumerate(kept)), kept)  # their order is all that is known of their places
            harvest.add_death(len(kept), shard=self.lease.shard.name, key="", deaths=attempt.deaths.total())
        elif attempt.careful:
            self._label_apart(kept, attempt)
        else:
            self._label(kept)

    def _label(self, kept: dict[str, list[Row]]) -> None:
        """All that has no row yet, decoded ahead."""
        with Prefetch(self.lease, skip=kept, indexes=self.indexes) as prefetch:
            self._open(prefetch)
            self._keep(prefetch.skipped, kept)
            self._label_items(prefetch, lambda: prefetch.waiting)
            self.harvest.seconds.update(prefetch.seconds)
            self.harvest.bytes["images"] = prefetch.bytes_read

    def _label_apart(self, kept: dict[str, list[Row]], attempt: Attempt) -> None:
        """The same a few at a time, each few decoded, labelled and encoded under a mark of its own."""
        size = 0
        with open_lease(self.lease, must_open=True, indexes=self.indexes) as reader:
            self._open(reader)
            keys = reader.samples()
            skipped = {place: key for place, key in keys.items() if key in kept}
            self._keep(skipped, kept)
            for span in attempt.divide(reader.planned, self.run.batch_size):
                if attempt.kills(span):
                    key, deaths = keys.get(span.start, ""), attempt.deaths[span]
                    self.harvest.add_death(span.start, shard=self.lease.shard.name, key=key, deaths=deaths)
                    continue
                places = [place for place in range(span.start, span.stop) if place not in skipped]
                if not places:
                    continue
                with attempt.at(span):
                    read = {place: reader.read(place) for place in places}
                    size += sum(len(item.image) for item in read.values() if isinstance(item, Sample))
                    self._label_items(decode_sample(place, item) for place, item in read.items())
        self.harvest.bytes["images"] = size

    def _open(self, reader: Prefetch | LeaseReader) -> None:
        self.planned, self.harvest.samples, self.harvest.ignored = reader.planned, reader.held, reader.ignored

    def _keep(self, places: dict[int, str], kept: dict[str, list[Row]]) -> None:
        self.harvest.rows += [(place, row) for place, key in places.items() for row in kept[key]]
        self.harvest.kept = len(places)
        self._report(labelled=len(places))

    def _label_items(self, items: Iterable[Item], waiting: Callable[[], int] = lambda: 0) -> None:
        with ThreadPoolExecutor(1, thread_name_prefix="encode") as encoder:
            encoding: list[Future[list[tuple[int, Row]]]] = []
            for batch in self._batches(items):
                labels = self._label_batch(batch)
                for done in encoding:
                    self.harvest.rows.extend(done.result())
                # One batch is encoded while the next is labelled; more would only pile up masks.
                encoding = [encoder.submit(self._encode, labels)]
                self._report(labelled=len(labels), waiting=waiting())
            for done in encoding:
                self.harvest.rows.extend(done.result())

    def _batches(self, items: Iterable[Item]) -> Iterator[list[Picture]]:
        batch: list[Picture] = []
        pixels = 0
        for item in items:
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

    def _label_batch(self, batch: list[Picture]) -> list[tuple[Picture, Label | list[Label]]]:
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

    def _label_alone(self, picture: Picture) -> Label | list[Label] | None:
        try:
            (label,) = self.labeller([picture.image], [picture.key])
            return label
        except Exception as error:
            _prove_sound(self.labeller, error)
            self.overflown += isinstance(error, FloatingPointError)
            if self.overflown >= OVERFLOWS and not self.labelled:
                raise LabellerBroken(f"none of the first {self.overflown} images can be labelled: {error}") from error
            message = f"The labeller failed on this image: {type(error).__name__}: {error}"
            defect = Defect(
                shard=picture.shard,
                key=picture.key,
                stage="label",
                reason="out_of_memory" if is_out_of_memory(error) else "label_error",
                message=message,
                traceback=traceback.format_exc(),
            )
            self.harvest.defects.append((picture.index, defect))
            return None

    def _encode(self, labels: list[tuple[Picture, Label | list[Label]]]) -> list[tuple[int, Row]]:
        began = time.perf_counter()
        rows = [
            (picture.index, row) for picture, found in labels for row in make_rows(picture, found, self.run.concept)
        ]
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
