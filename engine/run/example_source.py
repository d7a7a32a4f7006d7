"""Where a segmenter's examples come from: the corpus of a run, with its labels, and its synthetic images."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

from engine import storage
from engine.corpus.catalogue import CorpusError, list_shards
from engine.corpus.indexes import IndexFolder
from engine.corpus.lease import LEASE_VERSION, Lease, plan_leases
from engine.run.directory import (
    FIRST,
    STAGE_FOLDERS,
    RunError,
    check_corpus,
    find_corpus_url,
    find_input,
    read_manifest,
    read_receipts,
)
from engine.run.names import index_folder
from engine.run.quantities import format_count
from engine.run.training import share_out, spread
from engine.segmenter.spec import Labels
from schemas.receipt import Receipt
from schemas.run import RunManifest


class NothingToLearn(RunError):
    """The labels or images asked for are still to be made."""


@dataclass(frozen=True, kw_only=True)
class ExampleSource:
    """Images, and what says where the object is in them.

    Attributes:
        name: corpus or synthetic; its counts are named after it.
        labels_url: folder of label files, None where the corpus's own masks are the labels.
        leases: to be read.
        digest: of all images and labels there are, for the fingerprint.
        alone: whether the corpus's masks are of one concept (see `Sample.truth`): not where its run has several, of
            which only one may be learned.
        counts: of labels of each lease, of each concept; empty if they are not known.
        wanted: examples of each lease; empty as long as nobody has decided.
        in_part: so many of the leases have labels of their first images only.
        unlabelled: so many other leases have no labels yet.
        gone: so many others have labels, and their shard is not in the corpus (any more).
        gone_labels: theirs, of each concept.
        indexes: those of large tars that the labelling has kept.
    """

    name: str
    labels: Labels
    labels_url: str | None
    leases: list[Lease]
    digest: str
    alone: bool = True
    counts: tuple[int, ...] = ()
    wanted: tuple[int, ...] = ()
    in_part: int = 0
    unlabelled: int = 0
    gone: int = 0
    gone_labels: int = 0
    indexes: IndexFolder | None = None

    def describe_missing(self) -> str:
        """What is not read for want of labels or images, for a person; "" where nothing is missing."""
        unlabelled, gone = format_count(self.unlabelled, "other"), format_count(self.gone, "other")
        text = f"; {unlabelled} {'has' if self.unlabelled == 1 else 'have'} no labels yet" if self.unlabelled else ""
        if self.gone:
            labels = format_count(self.gone_labels, "label")
            text += f"; {gone} with {labels} {'is' if self.gone == 1 else 'are'} not in this corpus"
        return text

    def cut(self, wanted: Sequence[int]) -> ExampleSource:
        """The source without the leases of which no example is wanted."""
        kept = [place for place, number in enumerate(wanted) if number]
        return replace(
            self,
            leases=[self.leases[place] for place in kept],
            counts=tuple(self.counts[place] for place in kept if self.counts),
            wanted=tuple(wanted[place] for place in kept),
        )


def cut_sources(sources: Sequence[ExampleSource], examples: int) -> list[ExampleSource]:
    """The sources with no more leases than a training can look at in so many examples, and how many it wants of each:
    in proportion to their labels, or as many of each where it is not known how many they have."""
    leases = [lease for source in sources for lease in source.leases]
    counts = [count for source in sources for count in source.counts]
    if len(counts) == len(leases):
        shared = zip(share_out(counts, examples), counts, strict=True)
        # A lease that gives all it has is read to its end, so that the rest of it is accounted for, too.
        shares = [examples if share == count > 0 else share for share, count in shared]
    else:
        chosen, each = spread(range(len(leases)), examples, each=1)
        shares = [0] * len(leases)
        for place in chosen:
            shares[place] = each
    ends = list(accumulate(len(source.leases) for source in sources))
    return [source.cut(shares[end - len(source.leases) : end]) for source, end in zip(sources, ends, strict=True)]


def find_masked(corpus: str, concept: str, run_url: str | None = None) -> ExampleSource:
    """A corpus with masks of its own.

    Args:
        run_url: learn from the images that this run has labelled, to compare with; from all if it has labelled none.

    Raises:
        CorpusError: there is none.
        RunError: a receipt of the run is unreadable.
    """
    leases = plan_leases(list_shards(storage.absolute(find_input(corpus, concept))))
    receipts: dict[str, Receipt] = {}
    if run_url is not None:
        receipts = read_receipts(run_url, "refined") or read_receipts(run_url, "preliminary")
    own = _choose_labelled(leases, receipts)
    return ExampleSource(
        name="corpus",
        labels="truth",
        labels_url=None,
        leases=own or leases,
        digest=_digest(own or leases, {}),
        counts=tuple(receipts[lease.id].labelled for lease in own),
        unlabelled=len(leases) - len(own) if own else 0,
    )


def find_corpus(
    run_url: str, labelled: RunManifest, labels: Labels, input_url: str | None, *, stage: str | None = None
) -> ExampleSource:
    """The corpus of a run, with the labels asked for; that of a synthetic set is the images that it has made.

    Args:
        labelled: the run's manifest.
        input_url: where the corpus is, if it is no longer where it was labelled, or made.
        stage: whose label files to read, instead of the last one that has such labels.

    Raises:
        ValueError: no such corpus or labels; the message says what to do.
    """
    refuse_segmenter(run_url, labelled)
    made = labelled.kind == "synthetic images"
    where = input_url
    if where is None:
        where = storage.join(run_url, "images") if made else find_corpus_url(labelled)
    if where is None:
        raise RunError(f"{storage.redact(run_url)} does not say where its corpus is; give --input")
    try:
        concept = str(labelled.fingerprint.get("concept"))
        shards = list_shards(storage.absolute(find_input(where, concept)))
    except CorpusError as error:
        what = "what the run made" if made else "the corpus that the run labelled"
        hint = "" if input_url is not None else f" ({what}; name it with --input if it has moved)"
        raise RunError(f"{error}{hint}") from error
    if labels == "truth":
        return replace(find_masked(where, concept, run_url), alone=not labelled.fingerprint.get("concepts"))
    # A shard that was made is one lease, whatever its size, which is not known when it is planned.
    leases = [Lease(shard=shard) for shard in shards] if made else plan_leases(shards)
    # Refined labels hold M_pre as well, of all images; the folder of preliminary ones may hold a sample's only.
    both = ("refined", "preliminary")
    for found in (stage,) if stage else both if labels == "preliminary" else both[:1]:
        receipts = read_receipts(run_url, found)
        if receipts:
            break
    else:
        raise NothingToLearn(f"{storage.redact(run_url)} has no {labels} labels; {FIRST}")
    if not made:
        way_out = "give --input the images that were labelled, or label these in another --run first (jobs/label.py)"
        check_corpus(leases, receipts, run_url, way_out=way_out)
    _check_receipts(receipts, labelled, run_url)
    own = _choose_labelled(leases, receipts)
    if not own:
        raise RunError(f"the labels in {storage.redact(run_url)} are of none of the shards of {storage.redact(where)}")
    gone = _count_gone(own, receipts)
    return ExampleSource(
        name="corpus",
        labels=labels,
        labels_url=storage.join(run_url, STAGE_FOLDERS[found]),
        leases=own,
        digest=_digest(own, receipts),
        counts=tuple(receipts[lease.id].labelled for lease in own),
        # A shard that was made has the limit of the samples that it was to hold.
        in_part=0 if made else sum(_is_cut(receipts[lease.id], lease) for lease in own),
        unlabelled=len(leases) - len(own),
        gone=len(gone),
        gone_labels=sum(gone),
        indexes=index_folder(run_url),
    )


def _is_cut(receipt: Receipt, lease: Lease) -> bool:
    """Whether the limit of a labelled lease has left out images that it holds, or may hold."""
    full = lease.limit is None or receipt.seen < lease.limit
    return not full and (receipt.samples is None or receipt.samples > receipt.seen)


def refuse_segmenter(run_url: str, manifest: RunManifest) -> None:
    """Raises RunError for a directory that has a manifest as runs do, and no labels."""
    if manifest.kind == "a segmenter":
        raise RunError(
            f"{storage.redact(run_url)} holds {manifest.holds}, and no labels; give the run that it was trained on, or "
            "what jobs/predict.py has made with it"
        )


def find_synthetic(run_url: str) -> tuple[ExampleSource, RunManifest]:
    """The synthetic images of a run, and their own manifest; RunError if there are none."""
    url = storage.join(run_url, "synthetic")
    first = "run jobs/synthesize.py with this --run first, or leave out --synthetic"
    manifest = read_manifest(url, first=first)
    if not read_receipts(url, "refined"):
        raise NothingToLearn(f"{storage.redact(url)} holds no finished shard; {first}")
    try:
        source = find_corpus(url, manifest, "refined", storage.join(url, "images"))
    except RunError as error:
        raise NothingToLearn(f"{error}; {first}") from error
    return replace(source, name="synthetic"), manifest


def _choose_labelled(leases: Sequence[Lease], receipts: Mapping[str, Receipt]) -> list[Lease]:
    """The leases that have a receipt, up to the image that its labels end with."""
    return [replace(lease, limit=receipts[lease.id].lease.get("limit")) for lease in leases if lease.id in receipts]


def _count_gone(leases: Sequence[Lease], receipts: Mapping[str, Receipt]) -> list[int]:
    """Labels of each lease that has a receipt and is not there."""
    here = {lease.id for lease in leases}
    return [receipt.labelled for lease_id, receipt in receipts.items() if lease_id not in here]


def _check_receipts(receipts: Mapping[str, Receipt], manifest: RunManifest, url: str) -> None:
    version = manifest.fingerprint.get("lease_version")
    if version != LEASE_VERSION and any(receipt.lease["parts"] > 1 for receipt in receipts.values()):
        raise RunError(
            f"{storage.redact(url)} was labelled by another version, which divided large shards in another way "
            f"(lease_version {version}, not {LEASE_VERSION}); label into a new --run"
        )
    for receipt in receipts.values():
        if receipt.fingerprint != manifest.hash:
            raise RunError(
                f"the receipt of {receipt.lease_id} in {storage.redact(url)} has the fingerprint "
                f"{receipt.fingerprint}, the run has {manifest.hash}; label into a new --run"
            )


def _digest(leases: Sequence[Lease], receipts: Mapping[str, Receipt]) -> str:
    """What images and labels there are, for the fingerprint: more labels are another training."""
    counts = [receipts[lease.id].labelled if receipts else lease.limit for lease in leases]
    facts = [[lease.id, lease.shard.size, count] for lease, count in zip(leases, counts, strict=True)]
    labelled = f"{sum(receipts[lease.id].labelled for lease in leases)} labels in " if receipts else ""
    return f"{labelled}{len(leases)} leases ({hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:8]})"
