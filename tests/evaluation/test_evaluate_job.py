"""The job: what it prints and writes, of one concept or several, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine import storage
from engine.evaluation.rows import find_labels
from jobs.evaluate import main
from jobs.report import main as report
from schemas.run import RunManifest
from tests.evaluation.compare import evaluate, png, write_truth_as_rows
from tests.jobs.parse import find_commands
from tests.segmenter.bright import label, write_corpus


def test_the_job_prints_a_table_and_writes_json(world: Any, capsys: pytest.CaptureFixture[str]) -> None:
    write_truth_as_rows(world)
    path = world.run / "report" / "evaluation.json"
    assert main(["--run", str(world.run), "--input", str(world.corpus), "--json", str(path)]) == 0
    assert json.loads(path.read_text()) == evaluate(world)
    assert "100.00" in capsys.readouterr().out


def test_the_json_may_go_anywhere_and_where_it_cannot_is_said_at_once(
    world: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_truth_as_rows(world)
    given = ["--run", str(world.run), "--input", str(world.corpus), "--json"]
    monkeypatch.setenv("HOME", str(world.run))
    for url in ("memory://evaluated/out.json", "~/out.json"):
        assert main([*given, url]) == 0
        assert json.loads(storage.read_bytes(storage.absolute(url))) == evaluate(world)
    assert (world.run / "out.json").exists()
    capsys.readouterr()
    assert main([*given, "nonsense://out.json"]) == 2
    said = capsys.readouterr()
    assert "nonsense" in said.err and said.out == ""


def test_the_report_that_follows_is_told_where_the_images_lie_now_if_they_have_moved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_corpus(tmp_path / "corpus", shards=1)
    label(tmp_path / "corpus", tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    for options in ([], ["--input", "corpus/"]):
        assert main(["--run", "run", *options]) == 0
        ((_, arguments),) = find_commands(capsys.readouterr().out)
        assert arguments == ["--run", str(tmp_path / "run")]
    (tmp_path / "corpus").rename(tmp_path / "moved")
    assert main(["--run", "run", "--input", "moved"]) == 0
    ((job, arguments),) = find_commands(capsys.readouterr().out)
    assert job == "report" and report([*arguments, "--rows", "2"]) == 0


@pytest.mark.parametrize("corpus", ["nowhere", "corpus"])
def test_the_job_ends_wrong_usage_with_one_sentence(
    world: Any, corpus: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if corpus == "nowhere":
        write_truth_as_rows(world)
    assert main(["--run", str(world.run), "--input", str(world.corpus.parent / corpus)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1


def test_a_segmenter_is_no_run_to_label_into(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = RunManifest(fingerprint={"concept": "car", "segmenter.version": 6})
    (tmp_path / "run.json").write_text(manifest.to_json())
    assert main(["--run", str(tmp_path)]) == 2
    assert "holds a segmenter of jobs/train.py, and no labels; give the run" in capsys.readouterr().err


def test_a_run_of_several_concepts_is_compared_concept_by_concept(
    world: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    car = np.zeros((16, 16), bool)
    car[4:12, 4:12] = True
    image = {"png": png(np.zeros((16, 16, 3), np.uint8))}
    world.write_shard("street.tar", {"a": {**image, "car.mask.png": png(car), "json": b'{"concept": "car"}'}})
    # The dog that the labels claim is not there: its IoU is 0, though the image has no mask of a dog.
    rows = [world.row("street.tar", "a", car), world.row("street.tar", "a", ~car, concept="dog")]
    world.write_rows("labels/street.parquet", rows)
    path = tmp_path / "out.json"
    looked = []
    monkeypatch.setattr("jobs.evaluate.find_labels", lambda run: looked.append(run) or find_labels(run))
    monkeypatch.setattr("engine.evaluation.evaluate.find_labels", None)
    assert main(["--run", str(world.run), "--input", str(world.corpus), "--json", str(path)]) == 0
    whole = json.loads(path.read_text())
    assert whole["concepts"]["car"]["refined"]["iou"] == 1.0
    assert whole["concepts"]["dog"]["refined"]["iou"] == 0.0
    assert whole["mean_iou"]["refined"] == 0.5
    assert "mean IoU of 2 concepts" in capsys.readouterr().out
    assert len(looked) == 1, "the label files are looked through once"


def test_a_concept_without_ground_truth_is_named_and_hides_no_other(
    world: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    car = np.zeros((16, 16), bool)
    car[4:12, 4:12] = True
    world.write_shard("street.tar", {"a": {"png": png(np.zeros((16, 16, 3), np.uint8)), "car.mask.png": png(car)}})
    rows = [world.row("street.tar", "a", ~car, concept="dog"), world.row("street.tar", "a", car)]
    world.write_rows("labels/street.parquet", rows)
    path = tmp_path / "out.json"
    assert main(["--run", str(world.run), "--input", str(world.corpus), "--json", str(path)]) == 0
    whole = json.loads(path.read_text())
    assert whole["concepts"].keys() == {"car"} and whole["mean_iou"]["refined"] == 1.0
    assert "none of the 1 labels has ground truth for 'dog'" in whole["not_compared"]["dog"]
    assert "none of the 1 labels has ground truth for 'dog'" in capsys.readouterr().out
