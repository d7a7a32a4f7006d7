"""What needs a package that not everybody has says which, and how to get it."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from engine.evaluation.features import FeatureNetwork
from engine.segmenter.files import SegmenterConfig
from engine.segmenter.segmenter import Segmenter
from engine.segmenter.unet import build_unet
from jobs.export import main as export
from jobs.features import main as features
from jobs.label import main as label
from tests.segmenter.bright import label as make_run
from tests.segmenter.bright import write_corpus

Hide = Callable[[str], None]
Capture = pytest.CaptureFixture[str]


@pytest.fixture
def hide(monkeypatch: pytest.MonkeyPatch) -> Hide:
    """Makes a package as if it were not installed."""

    def hide(package: str) -> None:
        for name in [*sys.modules]:
            if name.partition(".")[0] == package:
                monkeypatch.setitem(sys.modules, name, None)
        monkeypatch.setitem(sys.modules, package, None)

    return hide


def check(said: str, extra: str, missing: str) -> None:
    assert said.startswith("error: ") and said.count("\n") == 1
    assert missing in said and f"pip install -e '.[{extra}]' where the project lies" in said


def test_a_bucket_asks_for_s3(hide: Hide, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.delitem(importlib.import_module("fsspec.registry")._registry, "s3", raising=False)
    hide("s3fs")
    assert label(["--concept", "car", "--input", "s3://bucket/images", "--run", "/tmp/unused"]) == 2
    check(capsys.readouterr().err, "s3", "s3fs")


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_an_onnx_file_of_a_segmenter_asks_for_onnx(
    hide: Hide, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Capture, package: str
) -> None:
    Segmenter(build_unet(2), SegmenterConfig(concept="car", width=2, short_side=32)).save_pretrained(tmp_path)
    if package == "onnxruntime":  # which is needed last
        monkeypatch.setattr("engine.segmenter.export.segmenter_to_onnx", lambda segmenter: b"file")
    hide(package)
    assert export(["--model", str(tmp_path), "--output", str(tmp_path / "out.onnx")]) == 2
    check(capsys.readouterr().err, "onnx", package)


def test_a_feature_network_asks_for_onnx(hide: Hide) -> None:
    hide("onnxruntime")
    with pytest.raises(ValueError, match=r"needs onnxruntime, .*: pip install -e '\.\[onnx\]'"):
        FeatureNetwork(b"", name="inception.onnx")


@pytest.mark.parametrize("package", ["onnx", "onnxscript"])
def test_features_ask_for_onnx_before_they_are_trained(hide: Hide, capsys: Capture, package: str) -> None:
    hide(package)
    assert features(["--output", "out.onnx"]) == 2
    check(capsys.readouterr().err, "onnx", package)


def test_coco_asks_for_export(hide: Hide, tmp_path: Path, capsys: Capture) -> None:
    make_run(write_corpus(tmp_path / "corpus", shards=1), tmp_path / "run")
    hide("pycocotools")
    assert export(["--run", str(tmp_path / "run"), "--format", "coco", "--output", str(tmp_path / "out")]) == 2
    check(capsys.readouterr().err, "export", "pycocotools")
    assert not (tmp_path / "out").exists()
