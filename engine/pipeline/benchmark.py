"""What Ray costs: tar to Parquet on a cluster beside a bare loop over decoded images, with the miniature."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import numpy as np

from engine.benchmark.labelling import spec_of
from engine.benchmark.rows import Report
from engine.benchmark.subject import CONCEPT
from engine.corpus.catalogue import list_shards
from engine.corpus.decode import decode_image
from engine.corpus.lease import plan_leases
from engine.corpus.reader import open_lease
from engine.corpus.sample import Sample
from engine.distillation.spec import DistillationSpec
from engine.miniature.corpus import write_corpus
from engine.pipeline.cluster import divide
from engine.pipeline.driver import drive, on_cluster
from engine.run.plan import plan_labelling
from engine.run.source import ModelSource

BATCH = 8


def measure_ray(report: Report, *, images: int, repeats: int, shorten: int = 1) -> None:
    """The row: images per second of one worker on Ray from its first lease on, over those of the loop; both by the
    wall's clock, by turns, the fast profile without fine-tuning. The loop neither reads, decodes, encodes nor writes.
    """
    spec, source = spec_of("fast", shorten=shorten), ModelSource(model="miniature")
    ratios = []
    with tempfile.TemporaryDirectory() as folder, on_cluster():
        list(write_corpus(Path(folder, "corpus"), count=images, seed=5, concept=CONCEPT, shard_size=-(-images // 2)))
        pictures, keys = _read(f"{folder}/corpus")
        workers = divide(leases=1, wanted=1)
        threads = 1 if workers.device == "cpu" else None
        labeller = source.build(spec, device=workers.device, threads=threads)
        for number in range(repeats):
            plan = plan_labelling(
                spec=spec,
                source=source,
                input_url=f"{folder}/corpus",
                run_url=f"{folder}/run-{number}",
                distillation=DistillationSpec(method="none"),
                batch_size=BATCH,
            )
            outcome = drive(plan, workers=1, tell=lambda _: None)
            began = time.perf_counter()
            for start in range(0, len(pictures), BATCH):
                labeller(pictures[start : start + BATCH], keys[start : start + BATCH])
            bare = len(pictures) / (time.perf_counter() - began)
            ratios.append(outcome.new / outcome.seconds / bare)
    note = f"{images} miniature images on {workers.device}, wall clock, {min(ratios):.3f} to {max(ratios):.3f}"
    report.add("Ray ÷ bare loop, images/s", float(np.median(ratios)), note=note)


def _read(url: str) -> tuple[list[np.ndarray], list[str]]:
    samples = [item for lease in plan_leases(list_shards(url)) for item in open_lease(lease)]
    good = [item for item in samples if isinstance(item, Sample)]
    return [decode_image(item.image) for item in good], [item.key for item in good]
