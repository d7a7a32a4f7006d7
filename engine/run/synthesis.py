"""The synthetic set of one run: its plan, and making one shard after another. No Ray.

RUN/synthetic/ is laid out as a run directory of its own, with images that it has made itself:

run.json                    settings and their fingerprint
images/000000.tar           WebDataset: image, mask, cut-out, background, facts, caption
labels/000000.parquet       rows as of any labelled image, and the receipt
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from engine import storage
from engine.corpus.catalogue import Shard
from engine.corpus.lease import Lease
from engine.labelling.spec import LabelSpec
from engine.run.attempts import Attempt
from engine.run.directory import LabelRun, check_manifest, make_manifest, new_session
from engine.run.fitting import Fitting
from engine.run.harvest import Complete, Harvest, LabellerBroken, LeaseProgress, Report, complete_lease
from engine.run.origin import Origin
from engine.run.plan import split_done
from engine.run.prefetch import Picture
from engine.run.rows import make_row
from engine.run.source import SynthesizerSource
from engine.run.starts import NoStart, Starts
from engine.synthesis.sample import Samples, Start, SyntheticSample, members_to_tar, sample_to_members
from engine.synthesis.spec import SynthesisSpec, plan_batches
from schemas.label import LABEL_SCHEMA_VERSION
from schemas.receipt import Receipt
from schemas.run import RunManifest

FOLDER = "synthetic"


@dataclass(frozen=True, kw_only=True)
class SynthesisPlan:
    """A checked synthesis; an `engine.run.plan.LeasePlan`.

    Attributes:
        settings: of the samples.
        origin: the run that they come from.
        starts: the images that they begin from; None where it is noise.
        leases: one for each shard, limited to the samples it is to hold.
        resumed: whether there is a manifest already.
    """

    sized: ClassVar[bool] = False

    settings: SynthesisSpec
    origin: Origin
    starts: Starts | None
    run: LabelRun
    manifest: RunManifest
    leases: list[Lease]
    remaining: list[Lease]
    receipts: dict[str, Receipt]
    resumed: bool

    @property
    def task(self) -> SynthesisTask:
        return SynthesisTask(
            source=self.origin.source,
            spec=self.origin.spec,
            settings=self.settings,
            starts=self.starts,
            run=self.run,
            weights=self.origin.weights,
        )

    @property
    def places(self) -> set[str]:
        source = self.starts.source if self.starts else None
        begun = [source.leases[0].shard.url, source.labels_url] if source else []
        return {url for url in (self.run.url, self.origin.weights, *begun) if url}

    def describe(self) -> str:
        """The plan for a person, one fact per line."""
        settings, spec = self.settings, self.origin.spec
        pure = sum(map(settings.is_background, range(settings.count)))
        done = sum(receipt.seen for receipt in self.receipts.values())
        begun = (
            f"from images of {self.starts.source.digest}, strength {settings.strength:g}"
            f"{self.starts.source.describe_missing()}"
            if self.starts
            else "from noise"
        )
        facts = [
            ("objects", f"{settings.count - pure} of {spec.prompt!r}, guidance {settings.guidance:g}"),
            ("begun", begun),
            ("backgrounds", f"{pure} of {spec.background_prompt!r}, guidance {settings.background_guidance:g}"),
            ("model", self.run.model + (f" at {self.run.revision}" if self.run.revision else "")),
            ("fine-tuned", storage.redact(self.origin.weights) if self.origin.weights else "no"),
            ("fingerprint", self.run.fingerprint),
            ("output", storage.redact(self.run.url) + (" (to be resumed)" if self.resumed else " (new)")),
            ("done", f"{len(self.leases) - len(self.remaining)} shards with {done} samples"),
            ("to do", f"{len(self.remaining)} shards"),
        ]
        return "\n".join(f"{name:<12}{fact}" for name, fact in facts)


@dataclass(frozen=True, kw_only=True)
class SynthesisTask:
    """The synthesis as it travels to a worker.

    Attributes:
        starts: the images that samples begin from; None where it is noise.
        weights: URL of m′, None where m does all.
    """

    source: SynthesizerSource
    spec: LabelSpec
    settings: SynthesisSpec
    starts: Starts | None
    run: LabelRun
    weights: str | None

    @property
    def model(self) -> str:
        return self.run.model

    def load(self, *, device: str, threads: int | None) -> Complete:
        """What makes one shard after another."""
        concept = storage.read_bytes(self.weights) if self.weights else None
        samples = self.source.build_synthesizer(
            self.spec, self.settings, device=device, threads=threads, weights=concept
        )
        fitting = Fitting(samples)
        return lambda lease, report: synthesize_shard(lease, fitting, self.settings, self.run, self.starts, report)


def plan_synthesis(
    origin: Origin,
    settings: SynthesisSpec,
    *,
    output: str | None = None,
    input_url: str | None = None,
    config: dict[str, Any] | None = None,
) -> SynthesisPlan:
    """Checks the place that samples shall go to; reads it and writes nothing.

    Args:
        origin: the run to take model, m′ and settings of the labels from (see `engine.run.origin.find_origin`).
        output: folder or URL; default RUN/synthetic.
        input_url: where the run's corpus is, if it is no longer where it was labelled.

    Raises:
        RunError: it holds samples of other settings, or there are no labels of images to begin from.
        ValueError: the corpus is missing, or the model cannot make such samples.
    """
    url = storage.absolute(output) if output else storage.join(origin.url, FOLDER)
    spec, source = origin.spec, origin.source
    source.check_synthesis(settings)
    starts = Starts.find(origin.url, spec.concept, settings, input_url)
    fields = {
        "label_schema": LABEL_SCHEMA_VERSION,
        **spec.fingerprint_fields(),
        **origin.fields,
        **settings.fingerprint_fields(),
        **({"synthesis.starts": starts.source.digest} if starts else {}),
    }
    manifest = make_manifest(fields, config)
    run = LabelRun(
        url=url,
        stage=spec.stage,
        concept=spec.concept,
        prompt=spec.prompt,
        fingerprint=manifest.hash,
        model=source.model,
        revision=source.revision,
        seed=spec.seed,
        session=new_session(),
        option="--output",
    )
    resumed = check_manifest(url, manifest, option=run.option)
    leases = plan_shards(run, settings)
    remaining, receipts = split_done(leases, run) if resumed else (leases, {})
    return SynthesisPlan(
        settings=settings,
        origin=origin,
        starts=starts,
        run=run,
        manifest=manifest,
        leases=leases,
        remaining=remaining,
        receipts=receipts,
        resumed=resumed,
    )


def plan_shards(run: LabelRun, settings: SynthesisSpec) -> list[Lease]:
    """A lease for each shard, whose limit says how many samples it shall hold."""
    leases = []
    for number, start in enumerate(range(0, settings.count, settings.shard_size)):
        name = f"{number:06d}"
        # In place of a size that is not known yet: the same whatever the count, as what identifies a shard must be.
        shard = Shard(url=run.images_url(name), name=f"{name}.tar", size=settings.shard_size, kind="tar")
        leases.append(Lease(shard=shard, limit=min(settings.shard_size, settings.count - start)))
    return leases


def synthesize_shard(
    lease: Lease,
    samples: Samples,
    settings: SynthesisSpec,
    run: LabelRun,
    starts: Starts | None,
    report: Report = lambda progress: None,
) -> Receipt:
    """Makes one shard, and its labels, and returns its receipt; a shard that has one is returned at once.

    May be killed at any instant, and run again or twice at the same time, as `engine.run.shard.label_lease`.

    Raises:
        LabellerBroken: samples cannot be made.
        OSError: the output, or what samples begin from, cannot be reached.
    """

    def work(harvest: Harvest, attempt: Attempt) -> None:
        if attempt.careful:
            # Unlike an image of a corpus, no sample is to blame, so none is left out.
            raise LabellerBroken(f"{attempt.deaths.total()} worker processes died while they made {lease.shard.name}")
        began = time.perf_counter()
        try:
            with starts.open(int(lease.shard.stem)) if starts else nullcontext(_begin_from_noise) as begin:
                harvest.seconds["open"] += time.perf_counter() - began
                _make(lease, samples, begin, settings, run, report, harvest)
        except NoStart as error:
            raise LabellerBroken(f"samples of {lease.shard.name} have nothing to begin from: {error}") from error

    return complete_lease(lease, run, report, work=work)


Packed = list[tuple[str, dict[str, bytes], dict[str, Any]]]
"""Key, members and label row of samples."""


Begin = Callable[[Sequence[int]], list[Start | None]]
"""What samples begin from, by their indices."""


def _begin_from_noise(indices: Sequence[int]) -> list[Start | None]:
    return [None] * len(indices)


def _make(
    lease: Lease,
    samples: Samples,
    begin: Begin,
    settings: SynthesisSpec,
    run: LabelRun,
    report: Report,
    harvest: Harvest,
) -> None:
    assert lease.limit is not None
    progress = LeaseProgress(lease_id=lease.id, planned=lease.limit, labelled=0, quarantined=0)
    report(progress)
    packed: Packed = []
    batches = plan_batches(int(lease.shard.stem), settings)
    with ExitStack() as stack:
        reader, encoder = (stack.enter_context(ThreadPoolExecutor(1, thread_name_prefix=n)) for n in ("read", "encode"))
        packing: list[Future[Packed]] = []
        coming = reader.submit(begin, batches[0])
        for batch, following in zip(batches, [*batches[1:], None], strict=True):
            began = time.perf_counter()
            starts = coming.result()
            harvest.seconds["read"] += time.perf_counter() - began
            if following:
                coming = reader.submit(begin, following)
            began = time.perf_counter()
            try:
                made = samples(batch, starts)
            except Exception as error:
                raise LabellerBroken(f"samples {batch} cannot be made: {type(error).__name__}: {error}") from error
            harvest.seconds["make"] += time.perf_counter() - began
            harvest.add_steps("make", samples)
            packed += [one for done in packing for one in done.result()]
            # While a batch is made, the one before it is encoded, and what the next one begins from is read.
            kept = [sample for sample in made if sample.index < settings.count]
            packing = [encoder.submit(_pack, kept, lease.shard.name, settings, run, harvest)]
            del starts, made  # several large images
            progress = replace(progress, labelled=progress.labelled + len(kept), busy=harvest.seconds["make"])
            report(progress)
        packed += [one for done in packing for one in done.result()]
    harvest.rows = [(place, row) for place, (_, _, row) in enumerate(packed)]
    harvest.archive = members_to_tar((key, members) for key, members, _ in packed)
    harvest.bytes["images"] = len(harvest.archive)


def _pack(
    samples: list[SyntheticSample], shard: str, settings: SynthesisSpec, run: LabelRun, harvest: Harvest
) -> Packed:
    began = time.perf_counter()
    packed = []
    for sample in samples:
        members = sample_to_members(sample, concept=run.concept, seed=settings.seed, fingerprint=run.fingerprint)
        picture = Picture(index=sample.index, shard=shard, key=sample.key, image=sample.image)
        packed.append((sample.key, members, make_row(picture, sample.label, run.concept)))
    harvest.seconds["encode"] += time.perf_counter() - began
    return packed
