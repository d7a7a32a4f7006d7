"""Labelling with an m′ that another run made."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.pipeline.runs import Job, rows, settings_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def test_an_adapter_labels_another_corpus_as_the_run_that_made_it_would(
    job: Job, undisturbed: Path, hostile: tuple[Path, dict[str, list]], clean: Path, tmp_path: Path
) -> None:
    corpus, run = tmp_path / "corpus", tmp_path / "run"
    shutil.copytree(clean, corpus)
    shutil.copy(hostile[0] / "000002.tar", corpus)
    assert job(run, corpus, "--adapter", str(undisturbed / "concept")) == 0
    assert not (run / "concept").exists()
    ours, theirs = rows(run), rows(undisturbed)
    assert len(ours) == 6
    common = [key for key in ours if key[0] == "000002.tar"]
    assert [ours[key] for key in common] == [theirs[key] for key in common] != []
    assert len(str(settings_of(run)["distillation.adapter"])) == 64


@pytest.mark.usefixtures("no_ray")
@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"concept": "fire truck"}, "was made for concept 'car', not 'fire truck'"),
        ({"model": "sd2"}, "was made for model_weights"),
        ({"adapter": "missing"}, "cannot be read"),
        ({"adapter": "run.json"}, "cannot be read"),
    ],
)
def test_an_adapter_that_does_not_fit_is_refused_in_one_sentence(
    job: Job,
    undisturbed: Path,
    clean: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    options: dict[str, str],
    said: str,
) -> None:
    adapter = undisturbed / options.pop("adapter", "concept")
    assert job(tmp_path / "run", clean, "--adapter", str(adapter), **options) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.startswith("error: ") and error.count("\n") == 1
    assert not (tmp_path / "run").exists()
