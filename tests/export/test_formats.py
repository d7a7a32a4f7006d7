"""Round trips: rows of a run -> a format -> its consumer's reader -> the masks of the rows."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from engine.corpus import Lease, list_shards, open_lease
from engine.corpus.decode import decode_mask
from engine.corpus.sample import Sample
from engine.diffusion.geometry import bounding_box
from engine.export.export import ExportOptions, export_labels
from tests.export import readers
from tests.export.prescribed import Case

Given = dict[tuple[str, str], Case]

READERS = {
    "coco": readers.read_coco,
    "yolo-seg": readers.read_yolo,
    "cvat": readers.read_cvat,
    "label-studio": readers.read_label_studio,
    "png": readers.read_png,
    "hf": readers.read_hugging_face,
    "webdataset": readers.read_web_dataset,
}
EXACT = [name for name in READERS if name != "yolo-seg"]


def iou(a: np.ndarray, b: np.ndarray) -> float:
    return (a & b).sum() / (a | b).sum() if (a | b).any() else 1.0


@pytest.mark.parametrize("name", EXACT)
def test_masks_come_back_as_they_were(name: str, run: Path, given: Given, tmp_path: Path) -> None:
    exported = export_labels(str(run), str(tmp_path / "out"), ExportOptions(format=name, drop_flags=()))
    masks = READERS[name](tmp_path / "out")
    assert exported.count == len(given) and exported.empty == 1
    assert masks.keys() == given.keys()
    for place, mask in masks.items():
        np.testing.assert_array_equal(mask, given[place].mask, err_msg=str(place))


@pytest.mark.parametrize(("name", "polygons"), [("yolo-seg", False), ("coco", True)])
def test_polygons_enclose_what_the_masks_do(name: str, polygons: bool, run: Path, given: Given, tmp_path: Path) -> None:
    options = ExportOptions(format=name, polygons=polygons, drop_flags=())
    export_labels(str(run), str(tmp_path / "out"), options)
    masks = READERS[name](tmp_path / "out")
    assert masks.keys() == given.keys()
    for place, mask in masks.items():
        assert mask.shape == given[place].mask.shape
        assert iou(mask, given[place].mask) >= 0.98, place


def test_an_image_without_the_object_has_no_annotation(run: Path, tmp_path: Path) -> None:
    for name in ("coco", "yolo-seg", "cvat", "label-studio"):
        export_labels(str(run), str(tmp_path / name), ExportOptions(format=name, drop_flags=()))
    coco = json.loads((tmp_path / "coco" / "annotations.json").read_text())
    (empty,) = (image for image in coco["images"] if image["key"] == "empty")
    assert empty["id"] not in {annotation["image_id"] for annotation in coco["annotations"]}
    assert len(coco["annotations"]) == len(coco["images"]) - 1
    assert next((tmp_path / "yolo-seg" / "labels").rglob("empty.txt")).read_bytes() == b""
    tasks = json.loads((tmp_path / "label-studio" / "tasks.json").read_text())
    assert [task["predictions"][0]["result"] for task in tasks if task["data"]["key"] == "empty"] == [[]]


def test_each_part_of_a_mask_is_an_object_of_its_own_in_yolo(run: Path, tmp_path: Path) -> None:
    export_labels(str(run), str(tmp_path / "out"), ExportOptions(format="yolo-seg"))
    lines = next((tmp_path / "out" / "labels").rglob("parts.txt")).read_text().splitlines()
    assert len(lines) == 2


def test_tars_are_a_corpus_with_ground_truth(run: Path, given: Given, tmp_path: Path) -> None:
    export_labels(str(run), str(tmp_path / "out"), ExportOptions(format="webdataset", drop_flags=()))
    (shard,) = list_shards(str(tmp_path / "out" / "*.tar"))
    with open_lease(Lease(shard=shard), masks=True) as samples:
        found = [sample for sample in samples if isinstance(sample, Sample)]
    assert len(found) == len(given)
    for sample in found:
        truth = sample.truth("box")
        assert truth is not None
        expected = given[sample.metadata["shard"], sample.metadata["key"]].mask
        np.testing.assert_array_equal(decode_mask(truth), expected)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Makes files of a format end after a few samples."""
    return lambda module: monkeypatch.setattr(f"engine.export.{module}.FILE_BYTES", 4_000)


@pytest.mark.parametrize(("name", "module"), [("hf", "hugging_face"), ("webdataset", "web_dataset")])
def test_many_files_are_read_like_one(
    name: str, module: str, small: Callable[[str], None], run: Path, given: Given, tmp_path: Path
) -> None:
    small(module)
    export_labels(str(run), str(tmp_path / "out"), ExportOptions(format=name, drop_flags=()))
    assert len([path for path in (tmp_path / "out").rglob("*") if path.suffix in (".tar", ".parquet")]) > 1
    assert READERS[name](tmp_path / "out").keys() == given.keys()


def test_boxes_and_areas_in_coco_are_those_of_the_masks(run: Path, given: Given, tmp_path: Path) -> None:
    export_labels(str(run), str(tmp_path / "out"), ExportOptions(format="coco", drop_flags=()))
    coco = json.loads((tmp_path / "out" / "annotations.json").read_text())
    places = {image["id"]: (image["shard"], image["key"]) for image in coco["images"]}
    for found in coco["annotations"]:
        mask = given[places[found["image_id"]]].mask
        assert (found["bbox"], found["area"]) == (list(bounding_box(mask)), mask.sum())
