from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pyarrow.parquet as pq
import pytest

from engine.corpus.catalogue import Shard
from engine.corpus.lease import Lease
from engine.pipeline.label import count_in_flight
from engine.run.plan import LabelPlan
from engine.run.synthesis import SynthesisPlan
from tests.corpus.hostile import make_corpus_tar, write_hostile_corpus

DRIVE = Path(__file__).with_name("drive.py")
SHARDS, PER_SHARD = 4, 6

Job = Callable[..., int]


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    for shard in range(SHARDS):
        numbers = [shard * 100 + number for number in range(PER_SHARD)]
        (folder / f"{shard:06d}.tar").write_bytes(make_corpus_tar(numbers))
    return folder


@pytest.fixture
def job(drive: ModuleType, ray_address: str, tmp_path: Path) -> Job:
    """Runs the labelling job in this process, with a fault if one is given."""

    def run(run: Path, corpus: Path, *options: str, fault: str = "") -> int:
        source = drive.FaultySource(fault=fault, once=str(tmp_path / "once"))
        arguments = ["--concept", "car", "--input", str(corpus), "--run", str(run), "--batch-size", "2"]
        arguments += ["--stage", "preliminary"]
        return drive.main([*arguments, *options], source=source)

    return run


@pytest.fixture(scope="session")
def undisturbed(drive: ModuleType, ray_address: str, corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run directory of a run to which nothing happened."""
    run = tmp_path_factory.mktemp("runs") / "undisturbed"
    arguments = ["--concept", "car", "--input", str(corpus), "--run", str(run), "--batch-size", "2"]
    arguments += ["--stage", "preliminary"]
    assert drive.main([*arguments, "--workers", "2"], source=drive.FaultySource()) == 0
    return run


def parquets(run: Path) -> dict[str, bytes]:
    return {str(path.relative_to(run)): path.read_bytes() for path in sorted(run.rglob("*.parquet"))}


def leftovers(run: Path) -> list[str]:
    return [path.name for path in run.rglob("*") if path.name.startswith(".") or path.suffix == ".tmp"]


def keys(run: Path) -> list[tuple[str, str]]:
    """(shard, key) of all rows, doubles too."""
    tables = [pq.read_table(path, columns=["shard", "key"]) for path in (run / "preliminary").glob("*.parquet")]
    return sorted((row["shard"], row["key"]) for table in tables for row in table.to_pylist())


@pytest.mark.slow
def test_every_image_of_the_corpus_gets_one_row(undisturbed: Path) -> None:
    expected = [(f"{s:06d}.tar", f"{s * 100 + n:06d}") for s in range(SHARDS) for n in range(PER_SHARD)]
    assert keys(undisturbed) == expected
    assert leftovers(undisturbed) == []


@pytest.mark.slow
def test_one_worker_writes_the_same_files_as_two(job: Job, corpus: Path, undisturbed: Path, tmp_path: Path) -> None:
    assert job(tmp_path / "run", corpus, "--workers", "1") == 0
    assert parquets(tmp_path / "run") == parquets(undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["worker:000203", "put:000001.parquet", "put:000002.json"])
def test_a_killed_worker_changes_nothing(job: Job, corpus: Path, undisturbed: Path, tmp_path: Path, fault: str) -> None:
    assert job(tmp_path / "run", corpus, fault=fault) == 0
    assert (tmp_path / "once").exists(), "the fault must have struck"
    assert parquets(tmp_path / "run") == parquets(undisturbed)
    assert leftovers(tmp_path / "run") == []


@pytest.mark.slow
def test_an_image_that_kills_every_worker_is_quarantined_and_all_others_are_labelled(
    job: Job, corpus: Path, undisturbed: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert job(run, corpus, fault="poison:000101") == 1
    told = capfd.readouterr().out
    assert "worker_died 1" in told and f"see {run / 'preliminary' / 'quarantine'}" in told
    assert [key for key in keys(undisturbed) if key != ("000001.tar", "000101")] == keys(run)
    (bad,) = pq.read_table(run / "preliminary" / "quarantine" / "000001.parquet").to_pylist()
    assert (bad["key"], bad["reason"]) == ("000101", "worker_died")
    assert leftovers(run) == []
    assert job(run, corpus, fault="poison:000101") == 1, "it is not tried again, and still not forgotten"
    assert job(run, corpus, "--retry-quarantined") == 0
    assert parquets(run) == parquets(undisturbed), "once it is mended, the run is as any other"


@pytest.mark.slow
def test_workers_that_die_while_loading_end_the_run(
    job: Job, corpus: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert job(tmp_path / "run", corpus, "--workers", "1", fault="start") == 1
    assert "while they loaded the model" in capfd.readouterr().err


@pytest.mark.slow
def test_a_labeller_that_always_fails_ends_the_run_and_quarantines_nothing(
    job: Job, corpus: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert job(tmp_path / "run", corpus, fault="broken") == 1
    assert "fails on a plain picture too: RuntimeError: device lost" in capfd.readouterr().err
    assert parquets(tmp_path / "run") == {}


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["sick:000203", "load"])
def test_one_worker_that_fails_at_everything_starts_anew_and_changes_nothing(
    job: Job, corpus: Path, undisturbed: Path, tmp_path: Path, fault: str
) -> None:
    assert job(tmp_path / "run", corpus, "--workers", "2", fault=fault) == 0
    assert (tmp_path / "once").exists(), "the fault must have struck"
    assert parquets(tmp_path / "run") == parquets(undisturbed)
    assert leftovers(tmp_path / "run") == []


@pytest.mark.slow
def test_all_good_samples_of_a_hostile_corpus_are_labelled_and_each_bad_one_is_quarantined(
    job: Job, tmp_path: Path
) -> None:
    truth = write_hostile_corpus(tmp_path / "corpus")
    run = tmp_path / "run"
    assert job(run, tmp_path / "corpus") == 1
    assert keys(run) == truth["good"]
    tables = [pq.read_table(path) for path in (run / "preliminary" / "quarantine").glob("*.parquet")]
    rows = [row for table in tables for row in table.to_pylist()]
    assert sorted((row["shard"], row["key"], row["reason"]) for row in rows) == truth["bad"]
    assert all(row["error"] for row in rows)
    assert job(run, tmp_path / "corpus", "--max-failures", "1") == 0


def start_driver(run: Path, corpus: Path, address: str, *options: str, **environment: str) -> subprocess.Popen[str]:
    arguments = ["--concept", "car", "--input", str(corpus), "--run", str(run), "--batch-size", "2"]
    arguments += options or ("--stage", "preliminary")
    return subprocess.Popen(
        [sys.executable, str(DRIVE), *arguments],
        env={**os.environ, "RAY_ADDRESS": address, "DELAY": "0.3", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def wait_for_receipt(folder: Path, driver: subprocess.Popen[str]) -> None:
    while not list(folder.glob("*.json")):
        assert driver.poll() is None, driver.communicate()[0]
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_driver_resumes_to_the_same_files(
    job: Job, ray_address: str, corpus: Path, undisturbed: Path, tmp_path: Path, sent: signal.Signals
) -> None:
    run = tmp_path / "run"
    driver = start_driver(run, corpus, ray_address)
    wait_for_receipt(run / "preliminary", driver)
    driver.send_signal(sent)
    output, _ = driver.communicate(timeout=120)
    assert len(list((run / "preliminary").glob("*.json"))) < SHARDS, "it must have been killed midway"
    if sent is signal.SIGTERM:
        assert driver.returncode == 143
        assert "run the same command to resume" in output
        assert "Traceback" not in output
    assert job(run, corpus) == 0
    assert parquets(run) == parquets(undisturbed)
    assert leftovers(run) == []


@pytest.mark.slow
def test_a_driver_that_is_terminated_amid_ray_data_ends_in_one_sentence(
    ray_address: str, corpus: Path, tmp_path: Path
) -> None:
    driver = start_driver(tmp_path / "run", corpus, ray_address, TERMINATE="1")
    output, _ = driver.communicate(timeout=120)
    assert driver.returncode == 143
    assert "run the same command to resume" in output
    assert "Traceback" not in output


SEVERAL = ["--concept", "dog", "--stage", "refined", "--method", "none"]


@pytest.fixture(scope="session")
def street(drive: ModuleType, ray_address: str, corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As `undisturbed`, for two concepts and with final labels."""
    run = tmp_path_factory.mktemp("runs") / "street"
    arguments = ["--concept", "car", *SEVERAL, "--input", str(corpus), "--run", str(run), "--batch-size", "2"]
    assert drive.main([*arguments, "--workers", "2"], source=drive.FaultySource()) == 0
    return run


@pytest.mark.slow
def test_several_concepts_are_labelled_but_once(job: Job, corpus: Path, street: Path) -> None:
    tables = [pq.read_table(path, columns=["key", "concept"]) for path in (street / "labels").glob("*.parquet")]
    rows = [(row["key"], row["concept"]) for table in tables for row in table.to_pylist()]
    assert len(set(rows)) == len(rows) == 2 * SHARDS * PER_SHARD
    before = parquets(street)
    assert job(street, corpus, *SEVERAL) == 0
    assert parquets(street) == before


@pytest.mark.slow
def test_an_image_that_kills_every_worker_costs_a_run_of_several_concepts_its_own_labels_only(
    job: Job, corpus: Path, street: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert job(run, corpus, *SEVERAL, fault="poison:000101") == 1
    told = capfd.readouterr().out
    assert "worker_died 1" in told and f"see {run / 'quarantine'}" in told
    assert job(run, corpus, *SEVERAL, "--retry-quarantined") == 0
    assert parquets(run) == parquets(street), "once it is mended, the run is as any other"


@pytest.mark.slow
def test_a_killed_driver_of_several_concepts_resumes_to_the_same_files(
    job: Job, ray_address: str, corpus: Path, street: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    driver = start_driver(run, corpus, ray_address, *SEVERAL)
    wait_for_receipt(run / "labels", driver)
    driver.kill()
    driver.communicate(timeout=120)
    assert len(list((run / "labels").glob("*.json"))) < SHARDS, "it must have been killed midway"
    assert job(run, corpus, *SEVERAL) == 0
    assert parquets(run) == parquets(street)
    assert leftovers(run) == []


@pytest.mark.parametrize(
    ("size", "leases", "held"),
    [(1 << 20, 16, 2), (1 << 20, 15, 1), (64 << 20, 16, 1), (0, 16, 1)],
    ids=["many and short", "too few", "long", "of unknown size"],
)
def test_a_worker_holds_a_second_lease_only_where_leases_are_many_and_short(size: int, leases: int, held: int) -> None:
    shard = Shard(url="/corpus/a.tar", name="a.tar", size=size, kind="tar")
    plan: Any = SimpleNamespace(remaining=[Lease(shard=shard)] * leases, sized=LabelPlan.sized)
    assert count_in_flight(plan, ready=2) == held
    plan.sized = SynthesisPlan.sized
    assert count_in_flight(plan, ready=2) == 1, "a shard of samples takes minutes, whatever its size"
