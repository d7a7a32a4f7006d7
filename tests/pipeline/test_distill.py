from __future__ import annotations

import contextlib
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from engine.run.plan import LabelPlan
from engine.run.source import ModelSource
from engine.run.summary import Outcome
from engine.synthesis.spec import SynthesisSpec
from jobs import distill
from jobs.distill import main
from tests.run.origins import start_origin

BRIEF = "--concept car --limit 6 --method none --profile fast --timesteps 4 --attention-steps 2 --propagation-steps 1"
BRIEF += " --presence-steps 1 --solver dpm++ --inpaint-steps 2 --workers 1 --synthesis.count 3 --synthesis.steps 2"
BRIEF += " --training.steps 4 --training.batch-size 2 --training.crop 32 --training.short-side 32 --training.width 2"


def products(run: Path) -> dict[str, bytes]:
    """What must not change when everything is there already."""
    names = ("*.parquet", "*.tar", "model.safetensors", "receipt.json", "evaluation.json")
    return {str(path.relative_to(run)): path.read_bytes() for name in names for path in run.rglob(name)}


@pytest.mark.slow
def test_one_command_labels_synthesises_trains_and_evaluates_and_resumes(
    ray_address: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    # Three workers cannot share a batch of two: as many as can train.
    assert main([*BRIEF.split(), "--workers", "3", "--run", str(run)]) == 0
    assert "workers: 1 on CPUs" in capsys.readouterr().out, "there is one lease"
    first = products(run)
    assert {Path(name).parts[0] for name in first} == {
        "labels",
        "synthetic",
        "segmenter",
        "predictions",
        "evaluation.json",
    }
    found = json.loads((run / "evaluation.json").read_text())
    assert found["labels"]["images"] == found["segmenter"]["images"] == 6
    with Image.open(run / "story.png") as story:
        assert story.width > story.height and np.asarray(story.convert("L")).std() > 10

    assert main([*BRIEF.split(), "--run", str(run)]) == 0
    assert products(run) == first
    told = capsys.readouterr().out
    assert "samples: skipped" in told and "training: skipped" in told

    for more in (["--limit", "7"], ["--synthesis.count", "4"]):
        assert main([*BRIEF.split(), "--run", str(run), *more]) == 2
        assert "began with fewer " in capsys.readouterr().err
        assert products(run) == first
    (run / "segmenter").rename(tmp_path / "segmenter")
    assert main([*BRIEF.split(), "--run", str(run), "--limit", "7"]) == 2
    assert f"{run}/synthetic began with fewer labels" in capsys.readouterr().err


@pytest.mark.slow
def test_images_without_ground_truth_are_not_evaluated(
    ray_address: str, hostile: tuple[Path, dict[str, list]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus = tmp_path / "photos"
    corpus.mkdir()
    (corpus / "000000.tar").write_bytes((hostile[0] / "000001.tar").read_bytes())
    options = [*BRIEF.split(), "--input", str(corpus), "--run", str(tmp_path / "run"), "--max-failures", "1"]
    main([*options, "--training.drop-flags", "--training.no-synthetic", "--presence-threshold", "-9"])
    assert not (tmp_path / "run" / "evaluation.json").exists()
    assert "evaluation: skipped" in capsys.readouterr().out


def test_where_images_could_not_be_labelled_nothing_begins_with_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(plan: LabelPlan, **options: object) -> Outcome:
        return Outcome(plan=plan, receipts={}, failed_leases={"000000": "OSError: no route to host"})

    monkeypatch.setattr("engine.pipeline.driver.on_cluster", contextlib.nullcontext)
    monkeypatch.setattr("engine.pipeline.driver.run_plan", fail)
    assert main([*BRIEF.split(), "--run", str(tmp_path / "run")]) == 1
    told = capsys.readouterr()
    assert "1 leases could not be done (000000); the same command tries them again" in told.err
    assert "== synthesis" not in told.out and not (tmp_path / "run" / "synthetic").exists()


def test_stages_after_the_labels_find_the_model_where_the_command_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, object]] = []
    monkeypatch.setattr(distill, "find_origin", lambda url, **where: asked.append({"url": url, **where}))
    monkeypatch.setattr(distill, "plan_synthesis", lambda origin, settings, **options: origin)
    plan = replace(start_origin(tmp_path), source=ModelSource(model="/moved", revision="main"))
    monkeypatch.setattr("engine.pipeline.story.write_story_on_ray", lambda *arguments: None)
    distill._plan_samples(plan, SynthesisSpec())
    distill._draw(plan, SimpleNamespace(url="/segmenter"), print)  # type: ignore[arg-type]
    assert asked == 2 * [{"url": plan.run.url, "model": "/moved", "revision": "main"}]


@pytest.mark.parametrize(
    ("options", "named"),
    [("--training.crop 33", "33"), ("--synthesis.solver ddim --synthesis.steps 5", "5 steps of ddim begin at")],
)
def test_a_setting_of_a_late_stage_that_makes_no_sense_is_refused_before_anything_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: str, named: str
) -> None:
    assert main([*BRIEF.split(), "--run", str(tmp_path / "run"), *options.split()]) == 2
    assert named in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_test_corpus_without_ground_truth_is_refused_before_anything_starts(
    hostile: tuple[Path, dict[str, list]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    masks_of_others = str(hostile[0] / "000001.tar")
    assert main([*BRIEF.split(), "--run", str(tmp_path / "run"), "--test", masks_of_others]) == 2
    assert "has no ground truth for 'car'" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
