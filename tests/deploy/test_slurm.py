"""The Slurm script with stand-ins for Slurm's commands, on one node: Ray and the job are real."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "deploy" / "slurm" / "label.sbatch"
SCONTROL = """#!/bin/sh
case "$1" in
    show) echo localhost ;;
    requeue) echo "$2" >"$REQUEUED" ;;
esac
"""
SRUN = """#!/bin/sh
while :; do
    case "$1" in
        -w) shift 2 ;;
        -*) shift ;;
        *) break ;;
    esac
done
exec "$@"
"""


@pytest.fixture
def slurm(tmp_path: Path) -> dict[str, str]:
    """The environment of a job of one node."""
    for name, text in (("scontrol", SCONTROL), ("srun", SRUN)):
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
    number = os.getpid() % 1000 + 1000 * (time.time_ns() % 1000)
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "SLURM_"))},
        "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "VENV": str(Path(sys.executable).parents[1]),
        "MASKMINE_HOME": str(tmp_path / "home"),
        "REQUEUED": str(tmp_path / "requeued"),
        "SLURM_SUBMIT_DIR": str(ROOT),
        "SLURM_JOB_ID": str(number),
        "SLURM_JOB_NODELIST": "localhost",
        "SLURM_CPUS_PER_TASK": "2",
    }


def leftovers(slurm: dict[str, str]) -> list[int]:
    """Processes that know of the job's home, Ray's or the job itself, and do not go away."""
    deadline = time.monotonic() + 30
    while (found := _find_processes(slurm)) and time.monotonic() < deadline:
        time.sleep(0.2)
    return found


def _find_processes(slurm: dict[str, str]) -> list[int]:
    mark = f"MASKMINE_HOME={slurm['MASKMINE_HOME']}".encode()
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if mark in path.read_bytes().split(b"\0"):
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


def test_a_job_that_is_not_there_is_wrong_usage(slurm: dict[str, str]) -> None:
    done = subprocess.run(["bash", SCRIPT, "lable"], env=slurm, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "jobs/lable.py" in done.stderr


@pytest.mark.slow
def test_a_job_runs_on_a_ray_of_its_own_and_leaves_nothing_running(slurm: dict[str, str], tmp_path: Path) -> None:
    command = ["bash", SCRIPT, "label", "--concept", "car", "--limit", "1", "--stage", "preliminary"]
    command += ["--profile", "fast", "--run", str(tmp_path / "run")]
    done = subprocess.run(command, env=slurm, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stderr
    assert "images       1 in" in done.stdout
    assert len(list((tmp_path / "run" / "preliminary").glob("*.parquet"))) == 1
    folder = Path(slurm["MASKMINE_HOME"]) / "slurm" / slurm["SLURM_JOB_ID"]
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert not (folder / "token").exists()
    assert not Path(f"/tmp/mm-{slurm['SLURM_JOB_ID']}").exists()
    assert leftovers(slurm) == []


@pytest.mark.chaos
def test_a_job_whose_time_is_up_is_queued_again(slurm: dict[str, str], tmp_path: Path) -> None:
    log = tmp_path / "log"
    command = ["bash", SCRIPT, "label", "--concept", "car", "--stage", "preliminary", "--run", str(tmp_path / "run")]
    with log.open("w") as file, subprocess.Popen(command, env=slurm, stdout=file, stderr=file) as script:
        deadline = time.monotonic() + 120
        while "leases to do" not in log.read_text() and time.monotonic() < deadline:
            time.sleep(0.5)
        script.send_signal(signal.SIGUSR1)
        assert script.wait(timeout=90) == 0, log.read_text()
    assert Path(slurm["REQUEUED"]).read_text().strip() == slurm["SLURM_JOB_ID"]
    assert leftovers(slurm) == []
