"""Synthesis on Ray, with fakes and with a small model: the same bytes whatever happens to workers and driver."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pyarrow.parquet as pq
import pytest

from jobs.synthesize import main
from tests.run.origins import start_origin

DRIVE = Path(__file__).with_name("drive.py")
COUNT, SIZE = 20, 4
OPTIONS = ["--count", str(COUNT), "--shard-size", str(SIZE)]

Job = Callable[..., int]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="session")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was labelled with fakes."""
    folder = tmp_path_factory.mktemp("origin")
    start_origin(folder, labelled=True, shards=((0, 1, 2), (3, 4), (5, 6, 7, 8)))
    return folder / "run"


@pytest.fixture
def synthesize(drive: ModuleType, ray_address: str, origin: Path, tmp_path: Path) -> Job:
    """Runs the job in this process, with a fault if one is given."""

    def run(output: Path, *options: str, fault: str = "") -> int:
        source = drive.FaultySource(fault=fault, once=str(tmp_path / "once"))
        return main(["--run", str(origin), "--output", str(output), *OPTIONS, *options], source=source)

    return run


@pytest.fixture(scope="session")
def whole(drive: ModuleType, ray_address: str, origin: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set to which nothing happened, made by two workers."""
    output = tmp_path_factory.mktemp("sets") / "whole"
    arguments = ["--run", str(origin), "--output", str(output), *OPTIONS, "--workers", "2"]
    assert main(arguments, source=drive.FaultySource()) == 0
    return output


def products(folder: Path) -> dict[str, bytes]:
    found = [*folder.rglob("*.tar"), *folder.rglob("*.parquet")]
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


def leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob("*") if path.name.startswith(".") or path.suffix == ".tmp"]


def test_every_sample_is_made_once_and_a_sheet_shows_them(whole: Path) -> None:
    tables = [pq.read_table(path, columns=["key"]) for path in sorted((whole / "labels").glob("*.parquet"))]
    assert [row["key"] for table in tables for row in table.to_pylist()] == [f"{i:08d}" for i in range(COUNT)]
    assert sorted(path.name for path in (whole / "images").iterdir()) == [f"{i:06d}.tar" for i in range(COUNT // SIZE)]
    assert (whole / "contact_sheet.png").read_bytes().startswith(b"\x89PNG")
    assert leftovers(whole) == []


def test_one_worker_makes_the_same_files_as_two(synthesize: Job, whole: Path, tmp_path: Path) -> None:
    assert synthesize(tmp_path / "set", "--workers", "1") == 0
    assert products(tmp_path / "set") == products(whole)


@pytest.mark.parametrize("fault", ["worker:00000009", "put:images/000001.tar", "put:000002.parquet"])
def test_a_killed_worker_changes_nothing(synthesize: Job, whole: Path, tmp_path: Path, fault: str) -> None:
    assert synthesize(tmp_path / "set", "--workers", "1", fault=fault) == 0
    assert (tmp_path / "once").exists(), "the fault must have struck"
    assert products(tmp_path / "set") == products(whole)
    assert leftovers(tmp_path / "set") == []


def test_samples_that_kill_every_worker_stop_the_job_in_one_sentence(
    synthesize: Job, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert synthesize(tmp_path / "set", "--workers", "1", fault="poison:00000000") == 1
    said = capfd.readouterr().err
    assert "stopped: 3 worker processes died while they made 000000.tar" in said
    assert "Traceback" not in said


def test_a_killed_driver_resumes_to_the_same_files(
    synthesize: Job, ray_address: str, origin: Path, whole: Path, tmp_path: Path
) -> None:
    output = tmp_path / "set"
    driver = subprocess.Popen(
        [sys.executable, str(DRIVE), "--run", str(origin), "--output", str(output), *OPTIONS, "--workers", "1"],
        env={**os.environ, "RAY_ADDRESS": ray_address, "DELAY": "0.2", "JOB": "synthesize"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    while not list((output / "labels").glob("*.json")):
        assert driver.poll() is None, driver.communicate()[0]
        time.sleep(0.05)
    driver.send_signal(signal.SIGKILL)
    driver.communicate(timeout=120)
    assert len(list((output / "labels").glob("*.json"))) < COUNT // SIZE, "it must have been killed midway"
    assert synthesize(output) == 0
    assert products(output) == products(whole)
    assert leftovers(output) == []


def test_a_fine_tuned_model_makes_the_same_set_with_one_worker_and_two_and_more_later(
    ray_address: str, drive: ModuleType, models: Path, undisturbed: Path, tmp_path: Path
) -> None:
    source = drive.FaultyModelSource(model=str(models / "sd1"))

    def run(output: Path, count: int, workers: int) -> int:
        arguments = ["--run", str(undisturbed), "--output", str(output), "--count", str(count), "--steps", "2"]
        return main([*arguments, "--shard-size", "6", "--workers", str(workers)], source=source)

    assert run(tmp_path / "two", 9, 2) == 0
    shutil.copytree(tmp_path / "two", tmp_path / "grown")
    assert run(tmp_path / "one", 12, 1) == 0
    assert run(tmp_path / "grown", 12, 1) == 0
    assert products(tmp_path / "one") == products(tmp_path / "grown")
    assert len(products(tmp_path / "one")) == 4
