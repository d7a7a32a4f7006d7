"""Nodes of a cluster that come and go at random moments while it labels: the labels must not show it.

Run with `make test-chaos`. All nodes are raylets of this machine; to kill one is to kill its processes.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import ray
from ray.cluster_utils import Cluster

from engine.corpus.catalogue import list_shards
from engine.corpus.lease import plan_leases
from engine.corpus.reader import open_lease
from engine.distillation.spec import DistillationSpec
from engine.labelling.spec import LabelSpec
from engine.miniature import corpus_url
from engine.run.claim import FILE
from engine.run.directory import start_run
from engine.run.fake import FakeSource
from engine.run.options import Method, Refinement, What, label_spec
from engine.run.plan import plan_labelling
from engine.run.shard import label_lease
from engine.run.source import LabellerSource, ModelSource
from tests.corpus.hostile import make_corpus_tar, make_tar

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(1500)]

DRIVE = Path(__file__).parents[1] / "pipeline" / "drive.py"
LEASES, PER_LEASE, KILLS = 220, 4, 20
OPTIONS = ["--batch-size", "2", "--max-failures", "0"]
FAKE = ["--concept", "car", "--stage", "preliminary"]
REAL = ["--concept", "bird", "--method", "none", "--profile", "fast"]


class Nodes:
    """A head for the driver, and worker nodes that can be killed and replaced."""

    def __init__(self, *, workers: int) -> None:
        self._cluster = Cluster(
            initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False}, connect=False
        )
        self.address = self._cluster.address
        self._nodes = [self._start() for _ in range(workers)]
        self.killed = 0

    def _start(self) -> Any:
        return self._cluster.add_node(num_cpus=1)

    def add(self) -> str:
        """One more node; returns its id."""
        self._nodes.append(self._start())
        return self._nodes[-1].node_id

    def kill(self, random_: random.Random) -> None:
        """Kills a node with all that runs on it, at once."""
        node = self._nodes.pop(random_.randrange(len(self._nodes)))
        self._cluster.remove_node(node, allow_graceful=False)
        self.killed += 1

    def end(self) -> None:
        ray.shutdown()
        self._cluster.shutdown()


@pytest.fixture
def nodes(monkeypatch: pytest.MonkeyPatch) -> Iterator[Nodes]:
    # Else minutes go by before the cluster takes note of a node that says nothing any more.
    monkeypatch.setenv("RAY_health_check_period_ms", "500")
    monkeypatch.setenv("RAY_health_check_timeout_ms", "1000")
    monkeypatch.setenv("RAY_health_check_failure_threshold", "3")
    nodes = Nodes(workers=2)
    yield nodes
    nodes.end()


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    for shard in range(LEASES):
        numbers = range(shard * 10, shard * 10 + PER_LEASE)
        (folder / f"{shard:06d}.tar").write_bytes(make_corpus_tar(numbers))
    return folder


@pytest.fixture(scope="module")
def undisturbed(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run directory of the same settings, labelled in this process."""
    run = tmp_path_factory.mktemp("runs") / "undisturbed"
    label_here(LabelSpec(concept="car", prompt="a photo of a car", stage="preliminary"), FakeSource(), corpus, run)
    return run


def label_here(spec: LabelSpec, source: LabellerSource, corpus: Path, run: Path) -> None:
    plan = plan_labelling(
        spec=spec,
        source=source,
        input_url=str(corpus),
        run_url=str(run),
        distillation=DistillationSpec(method="none"),
        batch_size=2,
    )
    start_run(plan.run.url, plan.manifest)
    labeller = source.build(spec, device="cpu", threads=1)
    for lease in plan.leases:
        label_lease(lease, labeller, plan.run)


def rows(run: Path, folder: str = "preliminary") -> list[dict]:
    """All rows, doubles too."""
    tables = [pq.read_table(path) for path in sorted((run / folder).glob("*.parquet"))]
    return [row for table in tables for row in table.to_pylist()]


def done(run: Path, folder: str = "preliminary") -> int:
    return len(list((run / folder).glob("*.json")))


@contextmanager
def driver(nodes: Nodes, run: Path, corpus: Path, *options: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """The job as a process of its own."""
    process = subprocess.Popen(
        [sys.executable, str(DRIVE), "--input", str(corpus), "--run", str(run), *OPTIONS, *options],
        env={**os.environ, "RAY_ADDRESS": nodes.address, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def wait_until(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.1)


def test_twenty_killed_nodes_change_no_row(nodes: Nodes, corpus: Path, undisturbed: Path, tmp_path: Path) -> None:
    run, chance = tmp_path / "run", random.Random(0)
    with driver(nodes, run, corpus, *FAKE, DELAY="0.25") as process:
        wait_until(lambda: done(run) > 0, process)
        for kill in range(KILLS):
            # Spread over the run: each comes at a random moment after so many leases are done.
            wait_until(lambda after=kill * (LEASES - 20) // KILLS: done(run) >= after, process)
            time.sleep(chance.uniform(0, 2))
            assert process.poll() is None, process.communicate()[0]
            nodes.kill(chance)
            nodes.add()
        output, _ = process.communicate(timeout=600)
    assert process.returncode == 0, output
    assert nodes.killed == KILLS
    assert rows(run) == rows(undisturbed)


def test_a_node_that_joins_is_used_and_one_that_goes_is_not_missed(
    nodes: Nodes, corpus: Path, undisturbed: Path, tmp_path: Path
) -> None:
    run, where = tmp_path / "run", tmp_path / "where"
    where.mkdir()
    with driver(nodes, run, corpus, *FAKE, DELAY="0.1", FAULT=f"where:{where}", FAULT_ONCE="unused") as process:
        wait_until(lambda: done(run) > 10, process)
        joined = nodes.add()
        wait_until((where / joined).exists, process)
        nodes.kill(random.Random(1))
        output, _ = process.communicate(timeout=600)
    assert process.returncode == 0, output
    assert rows(run) == rows(undisturbed)


def test_a_killed_driver_is_resumed_on_a_cluster_that_has_changed(
    nodes: Nodes, corpus: Path, undisturbed: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    with driver(nodes, run, corpus, *FAKE, DELAY="0.1") as process:
        wait_until(lambda: done(run) > 30, process)
        with driver(nodes, run, corpus, *FAKE) as second:
            output, _ = second.communicate(timeout=120)
        assert (second.returncode, "another driver" in output) == (2, True), output
        assert process.poll() is None
    assert done(run) < LEASES, "it must have been killed midway"
    nodes.kill(random.Random(2))
    nodes.add()
    with driver(nodes, run, corpus, *FAKE) as process:
        output, _ = process.communicate(timeout=600)
    assert process.returncode == 0, output
    assert rows(run) == rows(undisturbed)
    assert not (run / FILE).exists()


def test_three_killed_nodes_change_no_row_of_the_real_labeller(nodes: Nodes, tmp_path: Path) -> None:
    corpus, run, chance = tmp_path / "corpus", tmp_path / "run", random.Random(3)
    corpus.mkdir()
    (lease, *_) = plan_leases(list_shards(corpus_url("bird")))
    with open_lease(lease) as reader:
        images = [(f"{n:06d}.png", reader.read(n).image) for n in range(24)]  # type: ignore[union-attr]
    for shard in range(8):
        (corpus / f"{shard:06d}.tar").write_bytes(make_tar(images[shard * 3 : shard * 3 + 3]))
    with driver(nodes, run, corpus, *REAL, MODEL="miniature") as process:
        for kill in range(3):
            wait_until(lambda after=2 * kill: done(run, "labels") >= after, process)
            time.sleep(chance.uniform(0, 4))
            nodes.kill(chance)
            nodes.add()
        output, _ = process.communicate(timeout=600)
    assert process.returncode == 0, output
    spec = label_spec(What(concept="bird"), Method(profile="fast"), Refinement(), "refined")
    label_here(spec, ModelSource(model="miniature"), corpus, tmp_path / "undisturbed")
    assert len(rows(run, "labels")) == 24
    assert rows(run, "labels") == rows(tmp_path / "undisturbed", "labels")
