from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

import engine
from engine.benchmark.rows import GOALS
from jobs.bench import main

TINY = ["--images", "1", "--repeats", "1", "--shorten", "25", "--batches", "1", "--matmul", "64"]
TINY += ["--compile", "none", "--threads", "1", "--clock", "cpu"]  # which other tests at work do not disturb


def test_every_ratio_of_the_miniature_is_in_the_table_and_the_json_where_ray_cannot_be_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in [name for name in sys.modules if name == "engine.pipeline" or name.startswith("engine.pipeline.")]:
        monkeypatch.delitem(sys.modules, name)
    # The package is imported anew: afterwards its parent must have the old one again, as `sys.modules` has.
    monkeypatch.delattr(engine, "pipeline", raising=False)
    monkeypatch.setitem(sys.modules, "ray", None)
    assert main([*TINY, "--json", f"file://{tmp_path}/bench.json"]) == 0
    found = json.loads((tmp_path / "bench.json").read_text())
    rows = {row["name"]: row for row in found["rows"]}
    expected = {name for name, goal in GOALS.items() if "cpu" in goal.devices and "miniature" in goal.shapes}
    assert expected <= set(rows) and {"shape", "device", "versions", "command", "P"} <= set(found)
    missing = {name for name, row in rows.items() if row["value"] is None}
    assert missing == {"Ray ÷ bare loop, images/s", "compiled ÷ eager, batch 1"}
    assert "Ray cannot be imported" in rows["Ray ÷ bare loop, images/s"]["note"]
    assert rows["paper against float32 eager, mask IoU"]["value"] >= 0.99
    shares = [row["value"] for name, row in rows.items() if name.endswith("÷ P")]
    assert all(value > 0 for value in shares)
    out = capsys.readouterr().out
    assert "SKIPPED · Ray cannot be imported here" in out and "paper ÷ naive, images/s" in out


def run_out(*arguments: object, **options: object) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory")


def test_what_the_memory_does_not_suffice_for_is_marked_and_the_rest_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.benchmark.bench.measure_capture", run_out)
    monkeypatch.setattr("engine.benchmark.labelling.NaiveLabeller.__call__", run_out)
    monkeypatch.setattr("engine.benchmark.labelling.add_stages", run_out)
    assert main([*TINY, "--no-ray", "--json", str(tmp_path / "bench.json")]) == 0
    rows = {row["name"]: row for row in json.loads((tmp_path / "bench.json").read_text())["rows"]}
    unfit = {name for name, row in rows.items() if row.get("note") == "does not fit into the device's memory"}
    assert unfit == {
        "capture ÷ plain forward, time",
        "naive, whole",
        "paper ÷ naive, images/s",
        "paper, mixtures' share",
        "fast, mixtures' share",
    }
    measured = {
        "paper, whole",
        "fast, whole",
        "paper against float32 eager, mask IoU",
        "lease, share without the labeller",
    }
    assert all(rows[name]["value"] is not None for name in measured)


@pytest.mark.parametrize("error", [RuntimeError("CUDA error: device lost\nand more"), KeyboardInterrupt()])
def test_what_was_measured_before_a_stage_failed_is_told_and_written(
    error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise error

    monkeypatch.setattr("engine.benchmark.bench.measure_labelling", fail)
    assert main([*TINY, "--json", str(tmp_path / "bench.json")]) == (1 if isinstance(error, RuntimeError) else 130)
    found = json.loads((tmp_path / "bench.json").read_text())
    assert found["stopped"] in ("CUDA error: device lost", "KeyboardInterrupt")
    assert "forward, batch 1" in {row["name"] for row in found["rows"]}
    assert "forward, batch 1" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--device", "tpu9"], ["--device", "tpu9"]),
        (["--images", "0"], ["--images", "at least 1"]),
        (["--batches", "0"], ["--batches"]),
        (["--json", "nonsense://out.json"], ["nonsense"]),
        (["--json", ""], ["is empty"]),
        (["--json", "/proc/nothing/bench.json"], ["--json /proc/nothing/bench.json cannot be written (No such file"]),
        (["--json", "/proc"], ["--json /proc cannot be written (it is a folder)"]),
    ],
)
def test_wrong_usage_ends_in_one_sentence_and_code_2(
    options: list[str], words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*TINY, *options]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ") and all(word in error for word in words)
