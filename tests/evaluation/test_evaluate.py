"""Rows and ground truth are joined by shard and key, and whatever cannot be compared is counted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.corpus import Sample
from engine.evaluation.evaluate import evaluate_run
from engine.evaluation.metrics import Auroc, BoxIou, Overlap, fit_to_protocol
from engine.evaluation.report import format_report
from engine.evaluation.rows import EvaluationError
from engine.evaluation.truth import find_box, has_truth
from tests.evaluation.compare import evaluate, png, write_truth_as_rows

PERFECT = {"acc": 1.0, "iou": 1.0, "miou": 1.0, "images": 6}


def test_labels_that_equal_the_truth_score_one(world: Any) -> None:
    write_truth_as_rows(world)
    found = evaluate(world)
    assert (found["concept"], found["images"], found["auroc_mean"]) == ("car", 6, 1.0)
    assert found["preliminary"] == PERFECT
    assert found["refined"] is None
    assert not any(found["missing"].values())


def test_measures_are_those_of_the_protocol_over_all_images(world: Any) -> None:
    rng = np.random.default_rng(1)
    areas, masks, finals, rows = Auroc(), Overlap(), Overlap(), []
    for (shard, key), truth in world.truths.items():
        size = truth.shape
        heatmap, coarse = rng.integers(0, 256, (16, 20), np.uint8), rng.random((16, 20)) < 0.3
        rows.append(world.row(shard, key, ~truth, heatmap=heatmap, preliminary_mask=coarse))
        target = fit_to_protocol(truth, *size)
        areas.update(fit_to_protocol(heatmap, *size), target)
        masks.update(fit_to_protocol(coarse, *size), target)
        finals.update(~target, target)
    # parts of shards, as leases of big shards write them
    world.write_rows("preliminary/000000-00000.parquet", rows[:1])  # of a sample, and not looked at
    world.write_rows("labels/000000-00000.parquet", rows[:2])
    world.write_rows("labels/000000-00001.parquet", rows[2:3])
    world.write_rows("labels/000001.parquet", rows[3:])
    found = evaluate(world)
    assert {name: found[name] for name in ("auroc_mean", "auroc_pooled")} == areas.result()
    assert found["preliminary"] == {**masks.result(), "images": 6}
    assert found["refined"] == {**finals.result(), "images": 6}


def test_labels_that_are_not_done_are_not_compared_and_done_ones_must_be_there(world: Any) -> None:
    write_truth_as_rows(world, "labels")
    (world.run / "labels" / "000001.json").unlink()
    assert evaluate(world)["images"] == 3
    (world.run / "labels" / "000000.parquet").unlink()
    with pytest.raises(EvaluationError, match=r"there is no .*000000\.parquet, though a receipt says"):
        evaluate(world)


def test_a_run_with_final_labels_only_is_evaluated_in_both_ways(world: Any) -> None:
    write_truth_as_rows(world, "labels")
    found = evaluate(world)
    assert found["preliminary"] == found["refined"] == PERFECT


def test_a_run_of_the_preliminary_stage_is_compared_by_the_masks_that_it_delivers(world: Any) -> None:
    """Which are empty where the concept is absent, and without the pixels of other concepts."""
    car, image = np.zeros((60, 80), bool), {"png": png(np.zeros((60, 80, 3), np.uint8))}
    car[10:30, 20:60] = True
    box = {"json": b'{"bbox": [20, 10, 40, 20]}'}
    world.write_shard("a.tar", {"car": {**image, "mask.png": png(car)}, "box": {**image, **box}, "none": {**image}})
    world.write_shard("b.tar", {"none": {**image, "json": b'{"concept": null}'}})
    rows = [world.row("a.tar", key, car, preliminary_mask=~car, bbox=[20, 10, 40, 20]) for key in ("car", "box")]
    absent = world.row("b.tar", "none", np.zeros_like(car), preliminary_mask=car, flags=["absent"])

    def compare(folder: str) -> dict[str, Any]:
        world.write_rows(f"{folder}/a.parquet", [*rows, absent])
        return evaluate_run(str(world.run), str(world.corpus), negatives=True)

    coarse = compare("preliminary")
    assert (coarse["images"], coarse["preliminary"]["iou"], coarse["box_iou"]["preliminary"]) == (2, 1.0, 1.0)
    assert "as they were painted over" not in format_report(coarse)
    whole = compare("labels")
    assert (whole["images"], whole["preliminary"]["iou"], whole["refined"]["iou"]) == (2, 0.0, 1.0)
    assert whole["box_iou"]["preliminary"] < 1
    assert "as they were painted over" in format_report(whole)


def test_what_cannot_be_compared_is_counted(world: Any) -> None:
    truths = world.truths
    shard = "000000.tar"
    rows = [world.row(shard, "000", truths[shard, "000"])]
    rows.append(world.row(shard, "gone", truths[shard, "000"]))
    rows.append(world.row(shard, "001", np.ones((5, 5), dtype=bool)))  # another size than its truth
    rows.append(world.row("000009.tar", "000", truths[shard, "000"]))
    world.write_rows("preliminary/000000.parquet", rows)
    found = evaluate(world)
    assert found["images"] == 1
    assert found["missing"] == {
        "rows_without_truth": 3,
        "truth_without_row": 1,
        "no_truth": 0,
        "bad_truth": 1,
        "shards_without_row": 1,
    }
    said = format_report(found)
    assert "not compared: 3 labels without ground truth, 1 images with ground truth and without a label, 1 " in said
    assert "1 images with ground truth that cannot be used, 1 tars without labels" in said
    assert "images of the corpus without ground truth" not in said


def test_a_tar_without_labels_is_not_opened(world: Any) -> None:
    rows = [world.row(name, key, truth) for (name, key), truth in world.truths.items() if name == "000001.tar"]
    world.write_rows("labels/000001.parquet", rows)
    (world.corpus / "000000.tar").unlink()
    (world.corpus / "000000.tar").symlink_to("gone.tar")
    found = evaluate(world)
    assert (found["images"], found["missing"]["shards_without_row"]) == (3, 1)


def test_of_a_folder_images_without_labels_are_counted_by_their_names(world: Any, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    mask = np.zeros((16, 16), bool)
    mask[4:12, 4:12] = True
    for n in range(300):
        (folder / f"{n:03d}.png").write_bytes(b"not looked at" if n > 255 else png(np.zeros((16, 16, 3), np.uint8)))
        (folder / f"{n:03d}.mask.png").write_bytes(png(mask))
    world.write_rows("labels/folder-000000.parquet", [world.row("folder-000000", "000", mask)])
    found = evaluate_run(str(world.run), str(folder))
    missing = {name: count for name, count in found["missing"].items() if count}
    assert (found["images"], missing) == (1, {"truth_without_row": 299})


def test_truth_is_that_of_the_concept(world: Any) -> None:
    shard = "000002.tar"
    car, dog = np.zeros((128, 128), dtype=bool), np.zeros((128, 128), dtype=bool)
    car[:, :64], dog[:, 100:] = True, True
    image = png(np.zeros((128, 128, 3), np.uint8))
    world.write_shard(
        shard,
        {
            "both": {
                "jpg": image,
                "json": b'{"concept": "dog"}',
                "mask.png": png(dog),
                "car.mask.png": png(car),
            },
            "dog": {"jpg": image, "json": b'{"concept": "dog"}', "mask.png": png(dog)},
            "plain": {"jpg": image, "mask.png": png(car)},
            "unlabelled": {"jpg": image},
        },
    )
    rows = [world.row(shard, key, car) for key in ("both", "dog", "plain", "unlabelled")]
    world.write_rows("preliminary/000002.parquet", rows)
    found = evaluate(world)
    assert found["preliminary"]["iou"] == 1.0
    assert (found["images"], found["missing"]["no_truth"], found["missing"]["rows_without_truth"]) == (
        2,
        2,
        2,
    )
    assert evaluate(world, "dog")["images"] == 3


def test_boxes_are_compared_where_there_are_no_masks(world: Any) -> None:
    shard = "000002.tar"
    mask = np.zeros((60, 80), dtype=bool)
    mask[10:30, 20:60] = True
    image = png(np.zeros((60, 80, 3), np.uint8))
    boxes = {
        "same": {"bbox": [20, 10, 40, 20]},
        "half": {"bbox": {"car": [20, 10, 20, 20], "dog": [0, 0, 1, 1]}},
        "other": {"bbox": [20, 10, 40, 20], "concept": "dog"},
        "flat": {"bbox": [20, 10, 0, 20]},
        "words": {"bbox": "here"},
    }
    world.write_shard(shard, {k: {"jpg": image, "json": json.dumps(v).encode()} for k, v in boxes.items()})
    rows = [world.row(shard, key, mask, bbox=[20, 10, 40, 20]) for key in boxes]
    world.write_rows("labels/000002.parquet", rows)
    found = evaluate(world)
    assert found["box_iou"] == {"preliminary": 0.75, "refined": 0.75, "images": 2}
    assert (found["images"], found["preliminary"], found["auroc_mean"]) == (0, None, None)
    assert (found["missing"]["bad_truth"], found["missing"]["no_truth"]) == (2, 1)
    assert "75.00 (preliminary) and 75.00 (refined), mean of 2 images" in format_report(found)


def test_nothing_to_compare_is_an_error_with_the_reason(world: Any) -> None:
    with pytest.raises(EvaluationError, match="holds no finished labels"):
        evaluate(world)
    world.write_rows("preliminary/x.parquet", [world.row("x.tar", "000", np.ones((9, 9), dtype=bool))])
    with pytest.raises(EvaluationError, match="2 shards without row"):
        evaluate(world)


def test_two_rows_of_one_image_are_refused(world: Any) -> None:
    write_truth_as_rows(world)
    world.write_rows("preliminary/again.parquet", [world.row("000000.tar", "001", world.truths["000000.tar", "001"])])
    with pytest.raises(EvaluationError, match=r"two rows of 000000\.tar 001"):
        evaluate(world)


@pytest.mark.parametrize("box", [[20, 10, 40, 0], [20, 10, 40, -5], [20, 10, np.nan, 20], [np.inf, 10, 40, 20]])
def test_a_box_without_area_or_place_is_refused(box: list[float]) -> None:
    with pytest.raises(ValueError, match="its bbox is"):
        find_box(Sample(shard="a.tar", key="a", image=b"", metadata={"bbox": box}), "car")


@pytest.mark.parametrize("box", [[10**400, 0, 1, 1], "box", []])
def test_a_box_that_is_none_is_refused_and_is_no_ground_truth(box: Any, world: Any) -> None:
    with pytest.raises(ValueError, match="its bbox is"):
        find_box(Sample(shard="a.tar", key="a", image=b"", metadata={"bbox": box}), "car")
    sample = {"json": json.dumps({"bbox": box}).encode(), "png": png(np.zeros((16, 16, 3), np.uint8))}
    world.write_shard("000000.tar", {"a": sample})
    assert not has_truth(str(world.corpus / "000000.tar"), "car")
    world.write_shard("000000.tar", {"a": {**sample, "mask.png": b"no picture"}})
    assert not has_truth(str(world.corpus / "000000.tar"), "car")
    world.write_shard("000000.tar", {})
    assert has_truth(str(world.corpus), "car"), "the next shard has some"


def test_of_several_concepts_a_mask_without_a_name_belongs_to_the_one_that_the_image_names(world: Any) -> None:
    mask = np.zeros((16, 16), bool)
    mask[4:12, 4:12] = True
    image = {"png": png(np.zeros((16, 16, 3), np.uint8)), "mask.png": png(mask)}
    of_a_car = {**image, "json": b'{"concept": "car", "bbox": [4, 4, 8, 8]}'}
    world.write_shard("000000.tar", {"a": {**image, "json": b'{"bbox": [4, 4, 8, 8]}'}, "b": of_a_car})
    rows = [world.row("000000.tar", key, mask, concept=name) for key in "ab" for name in ("car", "dog")]
    world.write_rows("labels/000000.parquet", rows)
    found = evaluate_run(str(world.run), str(world.corpus), "car")
    assert (found["images"], found["box_iou"], found["missing"]["no_truth"]) == (1, None, 1)
    with pytest.raises(EvaluationError, match="none of the 2 labels has ground truth for 'dog'"):
        evaluate_run(str(world.run), str(world.corpus), "dog")


def test_shards_whose_names_begin_with_an_underscore_are_compared(world: Any) -> None:
    write_truth_as_rows(world, "labels")
    mask = world.truths["000000.tar", "000"]
    world.write_shard("_x.tar", {"a": {"png": png(np.zeros((*mask.shape, 3), np.uint8)), "mask.png": png(mask)}})
    world.write_rows("labels/_x.parquet", [world.row("_x.tar", "a", mask)])
    assert evaluate(world)["images"] == 7


def test_a_box_of_no_size_to_speak_of_has_no_overlap_with_none() -> None:
    boxes = BoxIou()
    boxes.update((0, 0, 0, 0), (0, 0, 1e-200, 1e-200))
    assert boxes.result() == 0
