"""The job with --study: from flags to files, and wrong usage in one sentence."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from engine.evaluation.studies import guidance
from engine.labelling.spec import SeveralSpec
from engine.run.source import ModelSource
from jobs.evaluate import main
from schemas.run import RunManifest
from tests.evaluation.studies.conftest import SPEC


def test_a_study_is_written_beside_the_run(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(guidance, "STEPS", 2)
    figures = tmp_path / "figures.json"
    flags = ["--run", str(run), "--study", "guidance", "--weights", "-2.5", "1", "--seeds", "1", "--json", str(figures)]
    assert main(flags) == 0
    found = json.loads((run / "studies" / "guidance.json").read_text())
    assert [row["w"] for row in found["rows"]] == [-2.5, 1]
    assert json.loads(figures.read_text()) == found
    printed = capsys.readouterr().out
    assert (run / "studies" / "guidance.md").read_text() in printed and str(run / "studies" / "guidance.png") in printed


def test_one_concept_of_a_run_of_several_is_studied_in_a_folder_of_its_own(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = ModelSource(model="miniature")
    both = SeveralSpec(specs=(replace(SPEC, concept="car", prompt="a photo of a car"), SPEC))
    fields = {**both.fingerprint_fields(), **source.check(both), "distillation.method": "none"}
    config = {"model": {"model": "miniature"}, "input_url": str(corpus)}
    (tmp_path / "run.json").write_text(RunManifest(fingerprint=fields, config=config).to_json())
    assert main(["--run", str(tmp_path), "--study", "tokens"]) == 2
    assert "several concepts (car, human); name one of them with --concept" in capsys.readouterr().err
    assert main(["--run", str(tmp_path), "--study", "tokens", "--concept", "human"]) == 0
    assert (tmp_path / "studies-human" / "tokens.json").exists()


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        (["--study", "ablation"], "give --test CORPUS"),
        (["--study", "tokens", "--concept", "dog"], "--concept dog is not the run's, which is human"),
        (["--study", "draws", "--draws", "0"], "draws is 0"),
        (["--draws", "3"], "name it with --study"),
        (["--model", "miniature"], "name it with --study"),
        (["--study", "tokens", "--model", "nowhere"], "nowhere"),
        (["--study", "tokens", "--adapter", "other"], "was labelled without --adapter"),
        (["--study", "parts", "--parts", "zebra"], "does not know 'zebra'"),
    ],
)
def test_wrong_usage_ends_in_one_sentence(
    run: Path, flags: list[str], problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--run", str(run), *flags]) == 2
    assert problem in capsys.readouterr().err


@pytest.mark.parametrize("study", ["ablation", "guidance"])
def test_what_is_about_m_prime_waits_for_it(
    run: Path, tmp_path: Path, study: str, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = RunManifest.from_json((run / "run.json").read_text())
    fields = {**manifest.fingerprint, "distillation.method": "lora"}
    (tmp_path / "run.json").write_text(RunManifest(fingerprint=fields, config=manifest.config).to_json())
    assert main(["--run", str(tmp_path), "--study", study, "--test", str(tmp_path)]) == 2
    assert "has no finished fine-tuning" in capsys.readouterr().err
    assert main(["--run", str(tmp_path), "--study", "tokens", "--limit", "1"]) == 0, "this one is about m"
