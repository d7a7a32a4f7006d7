"""The ONNX file: it says what the segmenter says, for sizes it was not traced with."""

from __future__ import annotations

import sys

import pytest

from engine.extras import MissingExtra
from engine.segmenter.export import compare_onnx, segmenter_to_onnx
from engine.segmenter.files import SegmenterConfig
from engine.segmenter.segmenter import Segmenter
from engine.segmenter.unet import build_unet

CONFIG = SegmenterConfig(concept="box", width=2, short_side=48)


@pytest.mark.slow
def test_the_file_says_what_the_segmenter_says_for_several_sizes() -> None:
    onnx = pytest.importorskip("onnx")
    segmenter = Segmenter(build_unet(2, seed=1), CONFIG)
    data = segmenter_to_onnx(segmenter)
    assert compare_onnx(data, segmenter) < 1e-5
    assert compare_onnx(data, Segmenter(build_unet(2, seed=2), CONFIG)) > 1e-3, "another network must differ"
    assert b".py" not in data, "nothing of the machine that wrote the file"
    model = onnx.load_from_string(data)
    assert {note.key: note.value for note in model.metadata_props}["short_side"] == "48"
    assert [value.name for value in (*model.graph.input, *model.graph.output)] == ["image", "probability"]


def test_a_missing_package_is_named_with_the_way_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(MissingExtra, match=r"needs onnx, .*pip install -e '\.\[onnx\]'"):
        segmenter_to_onnx(Segmenter(build_unet(2), CONFIG))
