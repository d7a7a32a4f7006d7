"""Segmenters trained on Ray: as many workers as there are, killed or not, learn what one process learns."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from engine.run.directory import start_run
from engine.run.segmenter import make_segmenter, plan_training, read_task
from engine.segmenter.segmenter import Segmenter
from tests.segmenter.bright import draw_box, label, write_corpus

DRIVE = Path(__file__).with_name("drive.py")
ROOT = Path(__file__).resolve().parents[2]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("boxes")
    label(write_corpus(folder / "corpus"), folder / "run")
    return folder / "run"


@pytest.fixture(scope="module")
def alone(run: Path, drive: ModuleType) -> Path:
    """The folder of a segmenter that was trained in one process, without Ray."""
    task = plan_training(run_url=str(run), spec=drive.TRAINING, output_url=str(run / "alone"))
    start_run(task.url, task.manifest)
    tally: Counter[str] = Counter()
    examples = list(read_task(task, tally))
    make_segmenter(task, examples, tally, device="cpu")
    return run / "alone"


def metrics(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def check_same(found: Path, expected: Path) -> None:
    ours, theirs = metrics(found), metrics(expected)
    assert [record["step"] for record in ours] == [record["step"] for record in theirs] == list(range(1, 9))
    for name in ("loss", "iou"):
        np.testing.assert_allclose([r[name] for r in ours], [r[name] for r in theirs], rtol=1e-3, err_msg=name)
    image, _ = draw_box(50)
    (ours_p,), (theirs_p,) = (Segmenter.from_pretrained(path).predict_batch([image]) for path in (found, expected))
    np.testing.assert_allclose(ours_p, theirs_p, atol=1e-2)
    assert json.loads((found / "receipt.json").read_text())["images"] == {"corpus.used": 12}
    assert not (found / "checkpoints").exists()


@pytest.mark.usefixtures("ray_address")
def test_two_workers_of_whom_one_is_killed_learn_what_one_process_learns(
    drive: ModuleType, run: Path, alone: Path, tmp_path: Path
) -> None:
    once = tmp_path / "once"
    drive.train(str(run), str(tmp_path / "two"), workers=2, fault=f"again:{drive.STATE}", once=str(once))
    assert once.exists(), "the fault must have struck"
    check_same(tmp_path / "two", alone)


def test_a_killed_driver_goes_on_where_it_was(
    drive: ModuleType, ray_address: str, run: Path, alone: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    once, output = tmp_path / "once", tmp_path / "one"
    faults = {"FAULT": f"stall:{drive.STATE}", "FAULT_ONCE": str(once), "RAY_ADDRESS": ray_address}
    driver = subprocess.Popen(
        [sys.executable, str(DRIVE), "train", str(run), str(output)],
        env={**os.environ, **faults},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    while not once.exists():
        assert driver.poll() is None, driver.communicate()[0]
        time.sleep(0.05)
    driver.kill()
    driver.communicate(timeout=120)
    assert (output / "checkpoints" / drive.STATE).exists() and not (output / "receipt.json").exists()
    drive.train(str(run), str(output), workers=1)
    check_same(output, alone)
    capsys.readouterr()
    drive.train(str(run), str(output), workers=1)
    assert "training: skipped, the segmenter is there" in capsys.readouterr().out


@pytest.mark.skipif(torch.cuda.is_available(), reason="here torch can use the GPU")
def test_a_gpu_that_torch_cannot_use_is_told_of_with_the_way_out(run: Path, tmp_path: Path) -> None:
    lines = (
        "import sys, ray",
        "from jobs import train",
        "ray.init(address='local', num_cpus=2, num_gpus=1, include_dashboard=False)",
        "sys.exit(train.main())",
    )
    command = [sys.executable, "-c", "\n".join(lines), "--run", str(run), "--output", str(tmp_path), "--steps", "2"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=ROOT)
    assert ended.returncode == 1, ended.stderr
    assert "cannot use the GPU" in ended.stderr and "CUDA_VISIBLE_DEVICES=" in ended.stderr
    assert "the training failed" not in ended.stderr
