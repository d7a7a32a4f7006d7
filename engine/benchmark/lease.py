"""A lease from tar to Parquet without Ray: how much of its time the labeller, and so the device, has nothing to do."""

from __future__ import annotations

import statistics
import tempfile
from dataclasses import replace
from pathlib import Path

from engine.benchmark.labelling import another, spec_of
from engine.benchmark.rows import Report
from engine.benchmark.subject import CONCEPT, Subject
from engine.corpus.catalogue import list_shards
from engine.corpus.lease import Lease
from engine.labelling.labeller import Labeller
from engine.miniature.corpus import write_corpus
from engine.run.directory import LabelRun, new_session
from engine.run.shard import label_lease


def measure_lease(report: Report, subject: Subject, *, repeats: int, shorten: int = 1) -> None:
    """The share of a lease's time that passes outside the labeller, by the fast profile: the worse case.

    In three batches, as the last batch's PNGs are encoded when nothing is left to be labelled.
    """
    spec, side = spec_of("fast", shorten=shorten), subject.model.resolution
    labeller = Labeller(another(subject), spec, weights=subject.weights)
    shares = []
    with tempfile.TemporaryDirectory() as folder:
        count = 3 * len(subject.images)
        size = {"width": side, "height": side, "shard_size": count}
        list(write_corpus(Path(folder, "corpus"), count=count, seed=5, concept=CONCEPT, **size))
        (shard,) = list_shards(f"{folder}/corpus")
        lease = Lease(shard=shard)  # whatever its size
        run = LabelRun(
            url=f"{folder}/run",
            stage=spec.stage,
            concept=spec.concept,
            prompt=spec.prompt,
            fingerprint="benchmark",
            model=subject.shape,
            revision=None,
            seed=spec.seed,
            session=new_session(),
            batch_size=len(subject.images),
        )
        for number in range(repeats):
            receipt = label_lease(lease, labeller, replace(run, url=f"{folder}/run-{number}"))
            shares.append(1 - receipt.seconds["label"] / receipt.seconds["total"])
    report.add("lease, share without the labeller", statistics.median(shares), note=f"{count} images")
