"""A run of several concepts, exported as a whole: read back concept by concept, and what is left out of an image."""

from __future__ import annotations

import csv
import json
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from engine.corpus import Lease, list_shards, open_lease
from engine.corpus.decode import decode_mask
from engine.corpus.sample import Sample
from engine.export.export import ExportOptions, export_labels
from engine.export.folder import Folder
from engine.export.formats import open_writer
from engine.labelling.png import masks_to_classes
from engine.run import labelled
from engine.segmenter.examples import read_examples
from engine.segmenter.spec import SegmenterSpec
from jobs.export import main
from tests.export.prescribed import SEVERAL, Case, change_rows
from tests.export.readers import Masks, read_coco, read_png
from tests.export.test_formats import EXACT, READERS, iou

Seen = dict[tuple[str, str, str], Case]
TRUCK, CAR = SEVERAL


@pytest.fixture
def copied(street: Path, tmp_path: Path) -> Path:
    """A run that a test may damage."""
    shutil.copytree(street, tmp_path / "street")
    return tmp_path / "street"


def read(name: str, out: Path) -> dict[str, Masks]:
    """What a format's reader finds, by concept."""
    return {concept: READERS[name](out, concept, SEVERAL) for concept in SEVERAL}


def place_of(seen: Seen, key: str) -> tuple[str, str]:
    """Shard and key."""
    return next((shard, name) for shard, name, _ in seen if name == key)


@pytest.mark.parametrize("name", EXACT)
def test_masks_of_every_concept_come_back_as_they_were(name: str, street: Path, seen: Seen, tmp_path: Path) -> None:
    exported = export_labels(str(street), str(tmp_path / "out"), ExportOptions(format=name, drop_flags=()))
    assert (exported.count, exported.empty) == (7, 1)
    assert exported.shown == {TRUCK: 5, CAR: 5}
    found = read(name, tmp_path / "out")
    assert {(*place, concept) for concept, masks in found.items() for place in masks} == seen.keys()
    for (shard, key, concept), case in seen.items():
        np.testing.assert_array_equal(found[concept][shard, key], case.mask, err_msg=f"{key} {concept}")


@pytest.mark.parametrize(("name", "polygons"), [("yolo-seg", False), ("coco", True)])
def test_polygons_of_every_concept_enclose_what_its_masks_do(
    name: str, polygons: bool, street: Path, seen: Seen, tmp_path: Path
) -> None:
    options = ExportOptions(format=name, polygons=polygons, drop_flags=())
    export_labels(str(street), str(tmp_path / "out"), options)
    found = read(name, tmp_path / "out")
    for (shard, key, concept), case in seen.items():
        assert iou(found[concept][shard, key], case.mask) >= 0.98, (key, concept)


def test_ids_are_distinct_and_every_label_says_how_good_it_is(street: Path, tmp_path: Path) -> None:
    for name in ("coco", "label-studio"):
        export_labels(str(street), str(tmp_path / name), ExportOptions(format=name))
    coco = json.loads((tmp_path / "coco" / "annotations.json").read_text())
    assert [category["id"] for category in coco["categories"]] == [1, 2]
    assert [annotation["id"] for annotation in coco["annotations"]] == list(range(1, 11))
    assert sorted(annotation["quality"] for annotation in coco["annotations"]) == [0.2, *[0.9] * 9]
    (poor,) = (image for image in coco["images"] if image["key"] == "poor")
    assert [(label["concept"], label["quality"]) for label in poor["labels"]] == [(TRUCK, 0.9), (CAR, 0.2)]
    tasks = json.loads((tmp_path / "label-studio" / "tasks.json").read_text())
    ids = [result["id"] for task in tasks for result in task["predictions"][0]["result"]]
    assert len(ids) == len(set(ids)) == 10
    assert {task["data"]["key"]: task["predictions"][0]["score"] for task in tasks}["poor"] == 0.2


def test_each_label_is_judged_alone_and_an_image_comes_along_for_one_of_them(
    street: Path, seen: Seen, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    options = ["--run", str(street), "--format", "png", "--output", str(out), "--min-quality", "0.5"]
    assert main(options) == 0
    said = capsys.readouterr().out
    assert "6 images with masks, 0 of them" in said and f"5 show {TRUCK}, 4 show {CAR}" in said
    assert "4: flag:absent" in said and "1: low quality" in said
    kept = {place for place, case in seen.items() if not case.flags and case.quality > 0.5}
    with (out / "labels.csv").open(newline="") as file:
        rows = [(row["shard"], row["key"], row["concept"]) for row in csv.DictReader(file)]
    assert len(rows) == len(set(rows)) and set(rows) == kept
    facts = json.loads((out / "export.json").read_text())
    assert facts["concepts"] == list(SEVERAL) and facts["images"] == 6
    assert facts["left_out"] == {"flag:absent": 4, "low_quality": 1}


def test_a_review_rejects_an_image_or_accepts_all_its_labels(street: Path, seen: Seen, tmp_path: Path) -> None:
    review = {place_of(seen, "poor"): "accept", place_of(seen, "truck"): "accept", place_of(seen, "both"): "reject"}
    options = ExportOptions(format="coco", min_quality=0.5, review=review)
    exported = export_labels(str(street), str(tmp_path / "out"), options)
    assert exported.left_out == {"rejected": 2, "flag:absent": 3}
    found = read_coco(tmp_path / "out", CAR, SEVERAL)
    assert place_of(seen, "both") not in found and found[place_of(seen, "poor")].any()


@pytest.mark.parametrize("name", ["png", "hf"])
def test_in_class_maps_what_was_left_out_is_neither_background_nor_object(
    name: str, copied: Path, seen: Seen, tmp_path: Path
) -> None:
    change_rows(copied, lambda row: None if (row["key"], row["concept"]) == ("both", CAR) else row)
    export_labels(str(copied), str(tmp_path / "out"), ExportOptions(format=name, min_quality=0.5))
    maps = read_maps(name, tmp_path / "out")
    for (shard, key, concept), case in seen.items():
        if concept == CAR and key != "neither":
            truck = seen[shard, key, TRUCK].mask
            expected = masks_to_classes([truck, case.mask])
            if key == "poor":
                expected[case.mask] = 255
            if key == "both":  # nobody has said where the car is
                expected[~truck] = 255
            np.testing.assert_array_equal(maps[shard, key], expected, err_msg=key)


def test_a_mask_that_came_out_empty_does_not_say_that_the_concept_is_absent(
    copied: Path, seen: Seen, tmp_path: Path
) -> None:
    missed = ("truck", CAR)
    change_rows(copied, lambda row: {**row, "flags": ["empty"]} if (row["key"], row["concept"]) == missed else row)
    export_labels(str(copied), str(tmp_path / "png"), ExportOptions(format="png"))
    place = place_of(seen, "truck")
    expected = np.where(seen[(*place, TRUCK)].mask, 1, 255)
    np.testing.assert_array_equal(read_maps("png", tmp_path / "png")[place], expected)
    export_labels(str(copied), str(tmp_path / "tars"), ExportOptions(format="webdataset"))
    with open_lease(Lease(shard=list_shards(str(tmp_path / "tars" / "*.tar"))[0]), masks=True) as samples:
        (found,) = (s for s in samples if isinstance(s, Sample) and s.metadata["key"] == "truck")
    assert found.masks.keys() == {TRUCK}


def read_maps(name: str, out: Path) -> dict[tuple[str, str], np.ndarray]:
    if name == "png":
        with (out / "labels.csv").open(newline="") as file:
            return {
                (row["shard"], row["key"]): np.asarray(Image.open(out / row["mask"])) for row in csv.DictReader(file)
            }
    import datasets

    loaded = datasets.load_dataset(str(out), split="train", cache_dir=str(out.parent / "cache"))
    return {(row["shard"], row["key"]): np.asarray(row["mask"]) for row in loaded}


def test_the_card_of_a_data_set_names_its_classes(street: Path, tmp_path: Path) -> None:
    export_labels(str(street), str(tmp_path / "out"), ExportOptions(format="hf"))
    assert f'0 background, 1 "{TRUCK}", 2 "{CAR}"; 255' in (tmp_path / "out" / "README.md").read_text()


def test_tars_are_a_corpus_with_ground_truth_of_every_concept(street: Path, seen: Seen, tmp_path: Path) -> None:
    export_labels(str(street), str(tmp_path / "out"), ExportOptions(format="webdataset", min_quality=0.5))
    lease = Lease(shard=list_shards(str(tmp_path / "out" / "*.tar"))[0])
    with open_lease(lease, masks=True) as samples:
        found = [sample for sample in samples if isinstance(sample, Sample)]
    assert len(found) == 6
    for sample in found:
        for concept in SEVERAL:
            case = seen[sample.metadata["shard"], sample.metadata["key"], concept]
            truth = sample.truth(concept)
            assert not sample.lacks(concept)
            if case.quality == 0.2:  # left out: neither a mask, nor said not to be there
                assert truth is None
            else:
                assert truth is not None
                np.testing.assert_array_equal(decode_mask(truth), case.mask)
    tally: Counter[str] = Counter()
    spec = SegmenterSpec(crop=32, short_side=40, labels="truth")
    examples = list(read_examples(None, [lease], spec, tally, concept=SEVERAL))
    assert tally == {"used": 5, "image_without_label": 1}
    assert {value for example in examples for value in np.unique(example.mask)} == {0, 1, 2}


def test_one_of_several_is_exported_like_a_run_of_one(street: Path, seen: Seen, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert main(["--run", str(street), "--concept", CAR, "--format", "png", "--output", str(out)]) == 0
    masks = read_png(out)
    own = {(shard, key): case.mask for (shard, key, concept), case in seen.items() if concept == CAR and not case.flags}
    assert masks.keys() == own.keys() and not (out / "classes.txt").exists()
    for place, mask in masks.items():
        np.testing.assert_array_equal(mask, own[place], err_msg=str(place))


def test_an_unknown_concept_is_told_which_there_are(
    street: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--run", str(street), "--concept", "bus", "--format", "coco", "--output", str(tmp_path / "out")]
    assert main(options) == 2
    assert f"holds labels of {TRUCK}, {CAR}; name one of them with --concept" in capsys.readouterr().err


def test_an_image_with_one_damaged_mask_is_counted_with_all_its_labels(
    copied: Path, seen: Seen, tmp_path: Path
) -> None:
    def damage(row: dict) -> dict:
        broken = (row["key"], row["concept"]) == ("all", CAR)
        return {**row, "mask": {"bytes": b"\x89PNG", "path": ""}} if broken else row

    change_rows(copied, damage)
    exported = export_labels(str(copied), str(tmp_path / "out"), ExportOptions(format="coco"))
    assert exported.left_out == {"flag:absent": 4, "bad_mask": 2}
    assert place_of(seen, "all") not in read_coco(tmp_path / "out", TRUCK, SEVERAL)


def test_a_shard_is_opened_once_for_all_concepts(street: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: Counter[str] = Counter()

    def count(name: str) -> None:
        genuine = getattr(labelled, name)

        def counted(*arguments: object, **options: object) -> object:
            opened[name] += 1
            return genuine(*arguments, **options)

        monkeypatch.setattr(labelled, name, counted)

    count("open_lease")
    count("read_rows")
    export_labels(str(street), str(tmp_path / "out"), ExportOptions(format="coco"))
    assert opened == {"open_lease": 2, "read_rows": 2}


@pytest.mark.parametrize(
    ("name", "concepts", "said"),
    [
        ("png", [f"thing {number}" for number in range(255)], "for 254 concepts, and the run has 255; export one with"),
        ("hf", [f"thing {number}" for number in range(255)], "or take another --format: coco"),
        ("webdataset", ["car", "a/b"], "'a/b' is no good for; export one concept with --concept"),
    ],
)
def test_concepts_that_a_format_cannot_hold_are_refused_with_the_way_out(
    name: str, concepts: Sequence[str], said: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=said):
        open_writer(name, Folder(str(tmp_path / "out")), concepts)
