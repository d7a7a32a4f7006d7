"""What scheduling costs: workers that sleep instead of label, so that a small machine stands for many GPUs.

    python -m tests.benchmarks.scheduling --json docs/results/scheduling.json

efficiency: the share of time in which workers label while all of them have leases. Leases take `--seconds`.
large: the same for leases of so many bytes that workers get them one by one.
overhead: the driver's CPU time per lease, and the time from one lease's end to the next one's begin in a worker.
planning: listing `--shards` tars, reading the receipts of nine tenths of them, subtracting these; a local folder.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from engine.distillation.spec import DistillationSpec
from engine.labelling.label import Label
from engine.labelling.spec import LabelSpec
from engine.run.directory import start_run
from engine.run.fake import FakeLabeller, FakeSource
from engine.run.plan import LabelPlan, plan_labelling
from schemas.receipt import Receipt
from tests.corpus.hostile import make_corpus_tar

SPEC = LabelSpec(concept="car", prompt="a photo of a car", stage="preliminary")
IMAGES = 4
"""Per lease."""
LARGE = 50_000_000
"""Bytes of a large tar."""


@dataclass(frozen=True, kw_only=True)
class TracingSource(FakeSource):
    """Labellers that write down when they worked: a line of seconds for each call, in a file for each worker."""

    folder: str

    def build(self, spec: LabelSpec, **options: Any) -> FakeLabeller:
        trace = Path(self.folder, str(os.getpid()))

        class Tracing(FakeLabeller):
            def __call__(self, images: list[np.ndarray], keys: list[str]) -> list[Label]:
                began = time.time()
                labels = super().__call__(images, keys)
                with trace.open("a") as file:
                    file.write(f"{began} {time.time()}\n")
                return labels

        return Tracing(self.model, spec, delay=self.delay)


def make_plan(corpus: Path, run: Path, source: FakeSource) -> LabelPlan:
    return plan_labelling(
        spec=SPEC,
        source=source,
        input_url=str(corpus),
        run_url=str(run),
        distillation=DistillationSpec(),
        batch_size=IMAGES,
    )


def write_corpus(folder: Path, leases: int, *, large: bool) -> Path:
    folder.mkdir(parents=True)
    tar = make_corpus_tar(range(IMAGES))
    for number in range(leases):
        with (folder / f"{number:06d}.tar").open("wb") as file:
            file.write(tar)
            if large:
                file.truncate(LARGE)  # nothing follows the end of a tar; it takes no room
    return folder


def run_workers(folder: Path, *, workers: int, leases: int, seconds: float, large: bool = False) -> dict[str, Any]:
    """Labels so many leases of so many seconds with so many workers, and reads their traces."""
    from engine.pipeline.driver import drive

    traces = folder / "traces"
    corpus = write_corpus(folder / "corpus", leases, large=large)
    traces.mkdir()
    source = TracingSource(folder=str(traces), delay=seconds / IMAGES)
    plan = make_plan(corpus, folder / "run", source)
    began, cpu = time.monotonic(), time.process_time()
    outcome = drive(plan, workers=workers)
    wall, cpu = time.monotonic() - began, time.process_time() - cpu
    assert len(outcome.receipts) == leases and not outcome.failed_leases
    spans = [
        [tuple(map(float, line.split())) for line in path.read_text().splitlines()] for path in sorted(traces.iterdir())
    ]
    gaps = [after[0] - before[1] for own in spans for before, after in pairwise(own)]
    found = {
        "workers": len(spans),
        "leases": leases,
        "seconds_per_lease": seconds,
        "wall_seconds": round(wall, 2),
        "driver_cpu_ms_per_lease": round(cpu / leases * 1000, 2),
        "gap_ms_median": round(statistics.median(gaps) * 1000, 1),
        "gap_ms_p95": round(float(np.quantile(gaps, 0.95)) * 1000, 1),
    }
    if seconds:
        found["efficiency"] = round(share_busy(spans), 4)
    return found


def share_busy(spans: list[list[tuple[float, float]]]) -> float:
    """Of the time from when the last worker began until the first had nothing more to do."""
    begin, end = max(own[0][0] for own in spans), min(own[-1][1] for own in spans)
    busy = sum(max(0.0, min(stop, end) - max(start, begin)) for own in spans for start, stop in own)
    return busy / (len(spans) * (end - begin))


def prepare_planning(folder: Path, shards: int) -> None:
    """So many large tars that take no room, nine tenths of them labelled."""
    (folder / "corpus").mkdir()
    for number in range(shards):
        with open(folder / "corpus" / f"{number:06d}.tar", "wb") as file:
            file.truncate(LARGE)
    plan = make_plan(folder / "corpus", folder / "run", FakeSource())
    start_run(plan.run.url, plan.manifest)
    labels = Path(plan.run.labels_url("x")).parent
    labels.mkdir()
    for lease in plan.leases[: shards * 9 // 10]:
        receipt = Receipt(
            lease=lease.to_json(),
            lease_id=lease.id,
            stage=plan.run.stage,
            fingerprint=plan.run.fingerprint,
            seen=500,
            labelled=500,
            seconds=dict.fromkeys(("decode", "encode", "label", "open", "read", "total", "wait", "write"), 1.234),
            bytes={"images": LARGE, "labels": 400_000, "quarantine": 0},
        )
        (labels / f"{lease.id}.json").write_text(receipt.to_json())


def plan_once(folder: Path) -> dict[str, Any]:
    """Plans what `prepare_planning` has made; to be run in a process of its own, for its memory."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    began = time.perf_counter()
    plan = make_plan(folder / "corpus", folder / "run", FakeSource())
    seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {
        "shards": len(plan.leases),
        "remaining": len(plan.remaining),
        "seconds": round(seconds, 2),
        "peak_rss_mb": round(peak),
        "of_which_before_mb": round(before),
    }


def measure_planning(shards: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        prepare_planning(Path(name), shards)
        command = [sys.executable, "-m", "tests.benchmarks.scheduling", "--plan", name]
        return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def measure_workers(counts: list[int], *, seconds: float, per_worker: int, many: int) -> dict[str, Any]:
    """Efficiency by number of workers; and what leases cost that take no time, a few and many of them."""
    import ray

    ray.init(num_cpus=max(counts) + 1, include_dashboard=False, log_to_driver=False)
    found: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    try:
        with tempfile.TemporaryDirectory() as name:
            for count in counts:
                folder = Path(name, f"{count}")
                found["efficiency"].append(
                    run_workers(folder, workers=count, leases=per_worker * count, seconds=seconds)
                )
                print(found["efficiency"][-1], file=sys.stderr)
            found["large"].append(
                run_workers(Path(name, "large"), workers=count, leases=per_worker * count, seconds=seconds, large=True)
            )
            print(found["large"][-1], file=sys.stderr)
            for leases in (many // 10, many):
                folder = Path(name, f"many-{leases}")
                found["overhead"].append(run_workers(folder, workers=1, leases=leases, seconds=0))
                print(found["overhead"][-1], file=sys.stderr)
    finally:
        ray.shutdown()
    return dict(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", help="write the figures there, too")
    parser.add_argument("--workers", default="1,2,4,8", help="numbers of workers")
    parser.add_argument("--seconds", type=float, default=2.0, help="per lease")
    parser.add_argument("--per-worker", type=int, default=12, help="leases")
    parser.add_argument("--many", type=int, default=2000, help="leases that take no time")
    parser.add_argument("--shards", type=int, default=100_000, help="to plan; 0 leaves that out")
    parser.add_argument("--plan", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.plan:
        print(json.dumps(plan_once(Path(options.plan))))
        return
    counts = [int(count) for count in options.workers.split(",")]
    found: dict[str, Any] = {
        "command": "python -m tests.benchmarks.scheduling " + " ".join(sys.argv[1:]),
        "date": time.strftime("%Y-%m-%d"),
        "cpus": os.cpu_count(),
        "load": os.getloadavg()[0],
    }
    found.update(measure_workers(counts, seconds=options.seconds, per_worker=options.per_worker, many=options.many))
    if options.shards:
        found["planning"] = measure_planning(options.shards)
    text = json.dumps(found, indent=1, ensure_ascii=False)
    print(text)
    if options.json:
        Path(options.json).write_text(text + "\n")


if __name__ == "__main__":
    main()
