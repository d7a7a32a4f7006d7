"""Labels of a run beside the images that they are of, as the report and exports read them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from engine import storage
from engine.corpus.lease import Lease
from engine.corpus.reader import open_lease
from engine.corpus.sample import Sample
from engine.run.directory import FIRST, STAGE_FOLDERS, RunError, find_corpus_url, read_manifest, read_receipts
from engine.run.example_source import find_corpus, find_synthetic
from engine.segmenter.examples import read_rows
from schemas.receipt import Receipt
from schemas.run import RunManifest


@dataclass(frozen=True, kw_only=True)
class LabelledRun:
    """The finished labels of a run: final ones, or preliminary ones if it has no others.

    Attributes:
        url: of the run directory, absolute.
        stage: of the labels.
        only: of several concepts, the one whose labels are wanted.
        receipts: of all leases that are done, by lease id.
    """

    url: str
    manifest: RunManifest
    stage: str
    receipts: dict[str, Receipt]
    only: str | None = None

    @property
    def concept(self) -> str:
        return self.only or str(self.manifest.fingerprint.get("concept", ""))

    @property
    def labels_url(self) -> str:
        return storage.join(self.url, STAGE_FOLDERS[self.stage])

    @property
    def count(self) -> int:
        """Number of labels, of all concepts."""
        return sum(receipt.labelled for receipt in self.receipts.values())

    def rows(self, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
        """All label rows, without their images; nothing but label files is read."""
        for _, receipt in sorted(self.receipts.items()):
            yield from self.read(Lease.from_json(receipt.lease), columns, Counter()).values()

    def read(self, lease: Lease, columns: Sequence[str], tally: Counter[str]) -> dict[str, dict[str, Any]]:
        """The rows of a lease by key, as `read_rows`."""
        return read_rows(self.labels_url, lease, columns, tally, concept=self.only)

    def of(self, concept: str | None) -> LabelledRun:
        """The labels of one concept; those of all where the run has but one.

        Raises:
            RunError: a concept that the run does not have, or none where it has several.
        """
        several = self.manifest.fingerprint.get("concepts")
        if concept not in (several or [None, self.concept]):
            there = ", ".join(several or [self.concept])
            raise RunError(f"{storage.redact(self.url)} holds labels of {there}; name one of them with --concept")
        return replace(self, only=concept) if several else self


@dataclass(frozen=True, kw_only=True)
class LabelledImage:
    """An image as the corpus holds it, still encoded, and its label row."""

    shard: str
    key: str
    image: bytes
    row: dict[str, Any]


def open_labelled(run: str, stage: str | None = None) -> LabelledRun:
    """The labels of a run directory, of predictions, or of a synthetic set.

    Args:
        stage: of the labels, instead of the last one that there are labels of.

    Raises:
        RunError: no run, or one without labels.
        ValueError: no such stage.
    """
    stages = ("refined", "preliminary")
    if stage is not None and stage not in stages:
        raise ValueError(f"stage is {stage!r}; give {' or '.join(stages)}")
    url = storage.absolute(run)
    manifest = read_manifest(url)
    for name in [stage] if stage else stages:
        if receipts := read_receipts(url, name):
            return LabelledRun(url=url, manifest=manifest, stage=name, receipts=receipts)
    kind = f"{stage} labels that are finished" if stage else "finished labels"
    raise RunError(f"{storage.redact(url)} holds no {kind}; {FIRST}")


def find_images(run: LabelledRun, input_url: str | None) -> list[Lease]:
    """The leases of the labelled images that are still where they were, or in the corpus named instead.

    Raises:
        ValueError: no such corpus, or another one.
    """
    parent, _, folder = run.url.rpartition("/")
    if input_url is None and folder == "synthetic" and find_corpus_url(run.manifest) is None:
        return find_synthetic(parent)[0].leases
    # Of whatever stage: "preliminary" stands for refined labels, too.
    return find_corpus(run.url, run.manifest, "preliminary", input_url).leases


def read_labelled(
    run: LabelledRun,
    leases: Sequence[Lease],
    columns: Sequence[str],
    tally: Counter[str],
    wanted: Callable[[dict[str, Any]], bool],
) -> Iterator[LabelledImage]:
    """The wanted rows with their images, in the corpus's order.

    Args:
        leases: as `find_images` gives them.
        tally: counts wanted rows that cannot be given, as label_without_image and unreadable_image.

    Raises:
        ValueError: a label file that is none, or is not there.
        OSError: corpus or labels cannot be reached.
    """
    for lease in leases:
        found = run.read(lease, columns, tally)
        rows = {key: row for key, row in found.items() if wanted(row)}
        if not rows:
            continue
        with open_lease(lease, keys=rows) as reader:
            for sample in reader:
                row = rows.pop(sample.key, None)
                if row is None:
                    continue
                if isinstance(sample, Sample):
                    yield LabelledImage(shard=sample.shard, key=sample.key, image=sample.image, row=row)
                else:
                    tally["unreadable_image"] += 1
        if rows:
            tally["label_without_image"] += len(rows)
    here = {lease.id for lease in leases}
    for lease_id, receipt in run.receipts.items():
        if lease_id not in here:
            rows = run.read(Lease.from_json(receipt.lease), columns, tally)
            tally.update("label_without_image" for row in rows.values() if wanted(row))
