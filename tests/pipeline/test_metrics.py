"""What Prometheus would see of a labelling."""

from __future__ import annotations

import re
import time
import urllib.request
from collections import Counter, defaultdict
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from engine.pipeline.metrics import METRICS, WorkerMetrics
from engine.run.harvest import LeaseProgress
from schemas.receipt import Receipt
from tests.pipeline.runs import Job

SAMPLE = re.compile(r"^(ray_maskmine_\w+)\{(.*)\} (\S+)$")
LABEL = re.compile(r'(\w+)="([^"]*)"')


def scrape() -> list[tuple[str, dict[str, str], float]]:
    """Our metrics as this machine's node exports them: name, labels, value."""
    import ray

    (node,) = ray.nodes()
    url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(url, timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    return [
        (found[1], dict(LABEL.findall(found[2])), float(found[3])) for line in lines if (found := SAMPLE.match(line))
    ]


@pytest.mark.slow
def test_a_nodes_exporter_serves_every_metric_with_the_numbers_of_the_run(
    job: Job, ray_address: str, hostile: tuple[Path, dict[str, list]], tmp_path: Path
) -> None:
    others = {labels["WorkerId"] for _, labels, _ in scrape()}  # of tests before this one, on the same Ray
    assert job(tmp_path / "run", hostile[0], "--stage", "preliminary") == 0
    files = (tmp_path / "run" / "preliminary").glob("*.parquet")
    bad = [reason for _, _, reason in hostile[1]["bad"]]
    expected = Counter({"labelled": sum(pq.read_metadata(path).num_rows for path in files), **Counter(bad)})
    endings = {"counter": "_total", "gauge": "", "histogram": "_count"}
    names = {f"ray_{name}{endings[metric.kind]}" for name, metric in METRICS.items()}

    deadline = time.monotonic() + 60  # Ray reports every few seconds
    counted: Counter[str] = Counter()
    missing = names
    while (missing or counted != expected) and time.monotonic() < deadline:
        time.sleep(1)
        found = scrape()
        missing = names - {name for name, _, _ in found}
        counted = Counter()
        for name, labels, value in found:
            if name == "ray_maskmine_samples_total" and labels["WorkerId"] not in others:
                counted[labels["outcome"]] += int(value)
    assert not missing
    assert counted == expected


class Recorder:
    """Stands in for all of Ray's metrics."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sums: dict[tuple[str, ...], float] = defaultdict(float)
        monkeypatch.setattr("engine.pipeline.metrics._metric", self.of)

    def of(self, name: str) -> Recorder:
        self.name = name
        return self

    def inc(self, value: float, tags: dict[str, str]) -> None:
        self.sums[(self.name, *tags.values())] += value

    observe = inc

    def set(self, value: float, tags: dict[str, str]) -> None:
        self.sums[(self.name, *tags.values())] = value


def progress(labelled: int, *, lease: str = "a", **values: float) -> LeaseProgress:
    return LeaseProgress(lease_id=lease, planned=9, labelled=labelled, quarantined=0, **values)  # type: ignore[arg-type]


def receipt(labelled: int, *, lease: str = "a") -> Receipt:
    return Receipt(
        lease={},
        lease_id=lease,
        stage="refined",
        fingerprint="f",
        seen=labelled + 1,
        labelled=labelled,
        quarantined={"corrupt_image": 1},
        seconds={"label": 4.0},
        bytes={"images": 100, "labels": 20, "quarantine": 3},
    )


def test_a_lease_is_counted_once_however_often_it_reports(monkeypatch: pytest.MonkeyPatch) -> None:
    recorder, worker = Recorder(monkeypatch), WorkerMetrics("refined")
    for labelled in (0, 2, 2, 5):
        worker.report(progress(labelled, busy=labelled / 10))
    worker.finish(receipt(7))
    assert recorder.sums[("maskmine_samples", "refined", "labelled")] == 7
    assert recorder.sums[("maskmine_samples", "refined", "corrupt_image")] == 1
    assert recorder.sums[("maskmine_bytes", "refined", "in")] == 100
    assert recorder.sums[("maskmine_bytes", "refined", "out")] == 23
    assert recorder.sums[("maskmine_step_seconds", "refined", "label")] == 4.0
    assert recorder.sums[("maskmine_busy_seconds", "refined")] == pytest.approx(0.5)


def test_a_lease_that_was_done_already_is_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    recorder, worker = Recorder(monkeypatch), WorkerMetrics("refined")
    worker.report(LeaseProgress(lease_id="a", planned=8, labelled=7, quarantined=1, finished=True))
    worker.finish(receipt(7))
    assert not recorder.sums


def test_a_lease_that_starts_over_is_counted_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its store was out of reach: the work is done twice, and counted so."""
    recorder, worker = Recorder(monkeypatch), WorkerMetrics("refined")
    for labelled in (0, 3, 0, 3):
        worker.report(progress(labelled, busy=float(labelled)))
    worker.finish(receipt(3))
    assert recorder.sums[("maskmine_samples", "refined", "labelled")] == 6
    assert recorder.sums[("maskmine_leases", "refined")] == 1
