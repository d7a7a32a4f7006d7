"""Labels of a run beside the images that they are of, as the report and exports read them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from typing import Any

from engine import storage
from engine.corpus.lease import Lease
from engine.corpus.reader import open_lease
from engine.corpus.sample import Sample
from engine.run.directory import FIRST, STAGE_FOLDERS, RunError, read_manifest, read_receipts
from engine.run.example_source import ExampleSource, find_corpus, refuse_segmenter
from engine.run.names import index_folder
from engine.run.quantities import format_count
from engine.segmenter.examples import Row, read_rows
from schemas.receipt import Receipt
from schemas.run import RunManifest

AT_ONCE = 8
"""Label files."""


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
    def concepts(self) -> tuple[str, ...]:
        """Those whose labels are wanted, in the run's order."""
        return (self.only,) if self.only else tuple(self.manifest.fingerprint.get("concepts") or [self.concept])

    @property
    def unfinished(self) -> bool:
        """Whether these are coarse masks of a run that was to have refined ones."""
        asked = self.manifest.config.get("stage")
        coarse = isinstance(asked, dict) and asked.get("stage") == "preliminary"
        return self.stage == "preliminary" and not coarse

    @property
    def labels_url(self) -> str:
        return storage.join(self.url, STAGE_FOLDERS[self.stage])

    def rows(self, columns: Sequence[str]) -> Iterator[Row]:
        """All label rows, without their images; nothing but label files is read."""
        leases = [Lease.from_json(receipt.lease) for _, receipt in sorted(self.receipts.items())]
        with ThreadPoolExecutor(AT_ONCE) as pool:
            for start in range(0, len(leases), AT_ONCE):  # no more are read than are waited for
                some = leases[start : start + AT_ONCE]
                for found in pool.map(lambda lease: self.read(lease, columns, Counter()), some):
                    for rows in found.values():
                        yield from rows.values()

    def read(self, lease: Lease, columns: Sequence[str], tally: Counter[str]) -> dict[str, dict[str, Row]]:
        """The rows of a lease by key and concept, as `read_rows`."""
        return read_rows(self.labels_url, lease, columns, tally, concepts=self.concepts)

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
    """An image as the corpus holds it, still encoded, and its label rows by concept.

    Attributes:
        rows: that are wanted, at least one; `others` are not.
    """

    shard: str
    key: str
    image: bytes
    rows: dict[str, Row]
    others: dict[str, Row]


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
    refuse_segmenter(url, manifest)
    for name in [stage] if stage else stages:
        if receipts := read_receipts(url, name):
            return LabelledRun(url=url, manifest=manifest, stage=name, receipts=receipts)
    kind = f"{stage} labels that are finished" if stage else "finished labels"
    raise RunError(f"{storage.redact(url)} holds no {kind}; {FIRST}")


def find_images(run: LabelledRun, input_url: str | None) -> ExampleSource:
    """The labelled images that are still where they were, or in the corpus named instead, by their leases.

    Raises:
        ValueError: no such corpus, or another one.
    """
    # Of whatever stage: "preliminary" stands for refined labels, too.
    return find_corpus(run.url, run.manifest, "preliminary", input_url, stage=run.stage)


@dataclass(frozen=True, kw_only=True)
class Extent:
    """Of which stage labels are, and of how much of the corpus.

    Attributes:
        leases: that have labels; `in_part` of them of their first images only.
        unlabelled: other leases of the corpus.
        gone: leases with labels that are not in the corpus, and `gone_labels` images there.
        quarantined: images that could not be labelled.
    """

    stage: str
    leases: int
    in_part: int
    unlabelled: int
    gone: int
    gone_labels: int
    quarantined: int

    @classmethod
    def of(cls, run: LabelledRun, source: ExampleSource) -> Extent:
        """That of a run's labels.

        Args:
            source: as `find_images` gives it.
        """
        return cls(
            stage=run.stage,
            leases=len(source.leases),
            in_part=source.in_part,
            unlabelled=source.unlabelled,
            gone=source.gone,
            gone_labels=source.gone_labels,
            quarantined=sum(receipt.failed for receipt in run.receipts.values()),
        )

    def describe(self) -> str:
        """For a person: a line about what there is, and one about what is missing, if anything is."""
        coarse, total = " (coarse masks)" if self.stage == "preliminary" else "", self.leases + self.unlabelled
        lines = [f"stage       {self.stage}{coarse}, of {self.leases} of {format_count(total, 'lease')}"]
        missing = [
            (self.unlabelled, f"{format_count(self.unlabelled, 'lease')} without labels as yet"),
            (self.in_part, f"{format_count(self.in_part, 'lease')} with labels of the first images only"),
            (self.gone, f"{format_count(self.gone, 'lease')} with {self.gone_labels} labels, not in this corpus"),
            (self.quarantined, f"{format_count(self.quarantined, 'image')} in quarantine"),
        ]
        if any(count for count, _ in missing):
            lines.append("missing     " + ", ".join(text for count, text in missing if count))
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """The same as JSON values."""
        return asdict(self)


def read_labelled(
    run: LabelledRun,
    leases: Sequence[Lease],
    columns: Sequence[str],
    tally: Counter[str],
    wanted: Callable[[Row], bool],
    *,
    shards: Collection[str] | None = None,
) -> Iterator[LabelledImage]:
    """The images that a row is wanted of, in the corpus's order; each shard is opened once, for all concepts.

    Args:
        leases: as `find_images` gives them.
        tally: counts wanted rows that cannot be given, as label_without_image and unreadable_image.
        shards: names of those that rows are wanted of, if that is known: label files of others are not read.

    Raises:
        ValueError: a label file that is none, or is not there.
        OSError: corpus or labels cannot be reached.
    """
    for lease in leases:
        if shards is not None and lease.shard.name not in shards:
            continue
        found = run.read(lease, columns, tally)
        chosen = {key: {name: row for name, row in rows.items() if wanted(row)} for key, rows in found.items()}
        chosen = {key: rows for key, rows in chosen.items() if rows}
        if not chosen:
            continue
        with open_lease(lease, keys=chosen, indexes=index_folder(run.url)) as reader:
            for sample in reader:
                rows = chosen.pop(sample.key, {})
                if not rows:
                    continue
                if isinstance(sample, Sample):
                    others = {name: row for name, row in found[sample.key].items() if name not in rows}
                    yield LabelledImage(
                        shard=sample.shard, key=sample.key, image=sample.image, rows=rows, others=others
                    )
                else:
                    tally["unreadable_image"] += len(rows)
        if chosen:
            tally["label_without_image"] += sum(map(len, chosen.values()))
    here = {lease.id for lease in leases}
    for lease_id, receipt in run.receipts.items():
        if lease_id not in here and (shards is None or receipt.lease["shard"]["name"] in shards):
            gone = run.read(Lease.from_json(receipt.lease), columns, tally).values()
            tally.update("label_without_image" for rows in gone for row in rows.values() if wanted(row))
