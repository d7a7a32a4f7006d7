"""What the whole way tells and refuses before anything starts, without a cluster."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.distill import main
from tests.segmenter.bright import draw_box, to_png

COMMAND = ["--concept", "car", "--synthesis.count", "30", "--synthesis.strength", "0.5", "--training.steps", "70"]


def plan(run: str, *options: str) -> int:
    return main([*COMMAND, "--run", run, "--dry-run", *options])


def test_a_dry_run_tells_of_every_stage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert plan(str(tmp_path / "run")) == 0
    out = capsys.readouterr().out
    assert "to do       4 leases\nsynthesis   30 samples, strength 0.5, guidance 4\n" in out
    assert f"training    70 steps of 32 crops of 128 x 128, width 32, into {tmp_path}/run/segmenter\n" in out
    assert "evaluation  on " in out and out.endswith("/miniature/corpus/car\n")
    assert not (tmp_path / "run").exists()


def test_a_dry_run_tells_of_stages_that_are_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "photo.png").write_bytes(to_png(draw_box(0)[0]))
    assert plan(str(tmp_path / "run"), "--input", str(tmp_path / "corpus"), "--training.no-synthetic") == 0
    out = capsys.readouterr().out
    assert "synthesis   none, the segmenter learns from the corpus alone\n" in out
    assert "evaluation  skipped, the images have no ground truth (name some that do with --test)\n" in out


def test_a_run_without_a_name_is_not_the_default_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert plan("") == 2
    assert "is empty" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--steps", "0", "--steps is 0; it must be at least 1"),
        ("--synthesis.steps", "0", "--synthesis.steps is 0; it must be at least 1"),
        ("--synthesis.shard-size", "0", "--synthesis.shard-size is 0; it must be at least 1"),
        ("--training.steps", "0", "--training.steps is 0; it must be at least 1"),
        ("--training.learning-rate", "0", "--training.learning-rate is 0.0; it must be positive"),
    ],
)
def test_settings_that_make_no_sense_are_named_as_they_are_typed(
    option: str, value: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--concept", "car", "--run", str(tmp_path / "run"), "--dry-run", option, value]) == 2
    assert capsys.readouterr().err == f"error: {said}\n"


def test_settings_of_a_synthesis_that_is_left_out_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    given = ["--concept", "car", "--run", str(tmp_path / "run"), "--dry-run", "--synthesis.count", "3"]
    assert main(given) == 0
    assert not caplog.messages
    assert main([*given, "--training.no-synthetic"]) == 0
    assert caplog.messages == ["--synthesis.count does nothing with --training.no-synthetic"]
