"""The jobs about segmenters, as far as they get without a cluster."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.segmenter.files import SegmenterConfig
from engine.segmenter.segmenter import Segmenter
from engine.segmenter.unet import build_unet
from jobs.export import main as export
from jobs.predict import main as predict
from jobs.train import main as train
from tests.segmenter.bright import label, write_corpus


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("boxes")
    label(write_corpus(folder / "corpus", shards=1), folder / "run")
    return folder / "run"


def test_a_dry_run_prints_the_plan_and_writes_nothing(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train(["--run", str(run), "--steps", "7", "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "7 steps of 32 crops of 128 x 128, width 32" in out
    assert f"{run}/segmenter (new)" in out
    assert not (run / "segmenter").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--crop", "100"], "crop is 100; it must be a multiple of 16"),
        (["--synthetic"], "synthetic/run.json; run jobs/synthesize.py"),
        (["--input", "/nowhere"], "'/nowhere' does not exist"),
        (["--review", "/nowhere.csv"], "--review /nowhere.csv cannot be used"),
        (["--labels", "truth", "--min-quality", "0.5"], "--min-quality is 0.5, but the corpus's own masks"),
        (["--labels", "truth", "--drop-flags", "full"], "--drop-flags is ('full',), but the corpus's own masks"),
    ],
)
def test_wrong_usage_is_one_sentence_and_exit_code_2(
    run: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    assert train(["--run", str(run), *options]) == 2
    assert message in capsys.readouterr().err


def test_predicting_with_what_is_no_segmenter_says_so(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert predict(["--model", str(run), "--input", "miniature", "--output", str(run / "masks")]) == 2
    assert "holds no segmenter" in capsys.readouterr().err


def test_a_prediction_is_planned_for_the_segmenters_concept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = SegmenterConfig(concept="dog", width=2, short_side=128)
    Segmenter(build_unet(2), config).save_pretrained(tmp_path / "model")
    options = ["--model", str(tmp_path / "model"), "--input", "miniature", "--output", str(tmp_path / "out")]
    assert predict([*options, "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "concept     'dog'" in out and "corpus/dog" in out
    assert not (tmp_path / "out").exists()


def test_an_export_that_differs_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Segmenter(build_unet(2), SegmenterConfig(concept="dog", width=2, short_side=128)).save_pretrained(tmp_path)
    monkeypatch.setattr("engine.segmenter.export.segmenter_to_onnx", lambda segmenter: b"file")
    options = ["--model", str(tmp_path), "--output", str(tmp_path / "out.onnx")]
    for error, code in ((2e-4, 1), (float("nan"), 1), (5e-5, 0)):
        monkeypatch.setattr("engine.segmenter.export.compare_onnx", lambda data, segmenter, error=error: error)
        assert export(options) == code
        assert (tmp_path / "out.onnx").exists() == (code == 0)
    said = capsys.readouterr().err
    assert "differs by 2.00e-04" in said and "resume" not in said
