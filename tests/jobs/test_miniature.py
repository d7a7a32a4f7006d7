"""The whole way on the bundled default: draw, label with the real model, resume, evaluate."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pandas
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("job", "options", "option"),
    [
        ("miniature", [], "--output"),
        ("pretrain", ["--input", "scenes"], "--output"),
        ("pretrain", ["--input", "scenes", "--output", "model"], "--vae"),
        ("pretrain", ["--input", "scenes", "--output", "model"], "--initial"),
    ],
)
def test_a_url_is_not_taken_for_a_local_folder(
    job: str,
    options: list[str],
    option: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert import_module(f"jobs.{job}").main([*options, option, "s3://bucket/x"]) == 2
    assert capsys.readouterr().err == (
        f"error: {option} must be a local folder, not s3://bucket/x; give one, and copy it from there\n"
    )
    assert list(tmp_path.iterdir()) == []


def test_scenes_are_written_to_the_home_that_is_meant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert import_module("jobs.miniature").main(["--output", "~/scenes", "--count", "1"]) == 0
    assert (tmp_path / "scenes" / "000000.tar").exists() and list(Path.cwd().iterdir()) == []


def run_job(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    name, *rest = arguments
    command = [sys.executable, str(ROOT / "jobs" / f"{name}.py"), *rest]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True)


@pytest.mark.slow
def test_drawn_scenes_are_labelled_resumed_and_evaluated(tmp_path):
    drawn = run_job(
        "miniature", "--output", "scenes", "--count", "6", "--seed", "9", "--concept", "dog", "--shard-size", "3",
        cwd=tmp_path,
    )  # fmt: skip
    assert drawn.returncode == 0, drawn.stderr
    command = ["label", "--concept", "dog", "--stage", "preliminary", "--input", "scenes", "--run", "run"]
    first = run_job(*command, cwd=tmp_path)
    assert first.returncode == 0, first.stderr + first.stdout
    assert str(tmp_path / "run" / "preliminary") in first.stdout
    again = run_job(*command, cwd=tmp_path)
    assert again.returncode == 0 and "done already" in again.stdout

    labels = pandas.concat(map(pandas.read_parquet, sorted((tmp_path / "run" / "preliminary").glob("*.parquet"))))
    assert sorted(labels["key"]) == [f"{n:08d}" for n in range(6)]
    mask = np.asarray(Image.open(io.BytesIO(labels["mask"].iloc[0]["bytes"])))
    assert mask.shape == (128, 128) and mask.dtype == bool
    with Image.open(tmp_path / "run" / "contact_sheet.png") as sheet:
        assert sheet.width > 3 * 128

    judged = run_job("evaluate", "--run", "run", "--input", "scenes", "--json", "result.json", cwd=tmp_path)
    assert judged.returncode == 0, judged.stderr
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["images"] == 6 and result["auroc_mean"] > 0.9 and result["refined"] is None
    assert 0 < result["preliminary"]["iou"] < result["preliminary"]["acc"]


def test_a_concept_that_the_miniature_does_not_know_ends_with_the_known_words(tmp_path):
    done = run_job("label", "--concept", "zebra", "--run", "run", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and "zebra" in done.stderr and "bird" in done.stderr
    assert not (tmp_path / "run").exists()


def test_a_wrong_world_setting_is_refused(tmp_path):
    done = run_job("miniature", "--output", "scenes", "--concept", "zebra", cwd=tmp_path)
    assert done.returncode == 2 and "zebra" in done.stderr and "bird" in done.stderr
