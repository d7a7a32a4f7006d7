"""One shard of synthetic samples: begin, make, label, encode behind, write, receipt. No Ray."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, nullcontext
from dataclasses import replace
from typing import Any

from engine.corpus.lease import Lease
from engine.run.attempts import Attempt
from engine.run.directory import LabelRun
from engine.run.harvest import Harvest, Hopeless, LabellerBroken, LeaseProgress, Report, complete_lease
from engine.run.prefetch import Picture
from engine.run.rows import make_row
from engine.run.starts import NoStart, Starts
from engine.synthesis.sample import Samples, Start, SyntheticSample, members_to_tar, sample_to_members
from engine.synthesis.spec import SynthesisSpec, plan_batches
from schemas.receipt import Receipt


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
        Hopeless: by nobody.
        OSError: the output, or what samples begin from, cannot be reached.
    """

    def work(harvest: Harvest, attempt: Attempt) -> None:
        if attempt.careful:
            # Unlike an image of a corpus, no sample is to blame, so none is left out.
            raise Hopeless(f"{attempt.deaths.total()} worker processes died while they made {lease.shard.name}")
        began = time.perf_counter()
        try:
            with starts.open(int(lease.shard.stem)) if starts else nullcontext(_begin_from_noise) as begin:
                harvest.seconds["open"] += time.perf_counter() - began
                _make(lease, samples, begin, settings, run, report, harvest)
        except NoStart as error:
            raise Hopeless(f"samples of {lease.shard.name} have nothing to begin from: {error}") from error

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
