"""Several concepts in one run, without Ray: their plan, their joined labels."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from engine import storage
from engine.diffusion.geometry import resize_mask
from engine.labelling.heatmap import advantage_to_bytes
from engine.run.command import parse_options
from engine.run.directory import start_run
from engine.run.fake import FakeLabeller, FakeSource
from engine.run.harvest import LabellerBroken
from engine.run.join import join_lease, make_disjoint
from engine.run.labelled import open_labelled
from engine.run.labelling import Label, make_plan
from engine.run.origin import find_origin
from engine.run.rows import heatmap_to_png, mask_to_png, png_to_array
from engine.run.segmenter import plan_training, read_task
from engine.run.several import SeveralPlan, read_concepts
from engine.run.shard import label_lease
from engine.run.status import read_status
from engine.run.status_text import describe_status
from engine.segmenter.spec import SegmenterSpec
from schemas.receipt import Receipt
from tests.corpus.hostile import draw_noise, encode, make_tar


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    folder = tmp_path / "corpus"
    folder.mkdir()
    members = [(f"{n:06d}.png", b"broken" if n == 2 else encode(draw_noise(n))) for n in range(6)]
    (folder / "000000.tar").write_bytes(make_tar(members))
    return folder


def plan_run(corpus: Path, run: Path, *more: str, concepts: tuple[str, ...] = ("car", "dog")) -> SeveralPlan:
    named = [word for concept in concepts for word in ("--concept", concept)]
    given = [*named, "--input", str(corpus), "--run", str(run), "--method", "none", *more]
    plan = make_plan(parse_options(Label, job="label", description="", arguments=given), FakeSource())
    assert isinstance(plan, SeveralPlan)
    return plan


def label(plan: SeveralPlan, concept: str) -> None:
    """What workers do for one concept."""
    (part,) = (part for part in plan.concepts if part.run.concept == concept)
    start_run(part.run.url, part.manifest)
    for lease in part.remaining:
        label_lease(lease, FakeLabeller("fake", part.spec), part.run)


def join(plan: SeveralPlan) -> list[Receipt]:
    start_run(plan.run.url, plan.manifest)
    plan = plan.after_concepts()
    return [join_lease(lease, plan.task.runs, plan.run) for lease in plan.remaining]


def rows_of(run: Path) -> list[dict]:
    return [row for path in sorted((run / "labels").glob("*.parquet")) for row in pq.read_table(path).to_pylist()]


def test_every_image_has_a_row_for_each_concept_and_no_pixel_is_in_two_masks(corpus: Path, tmp_path: Path) -> None:
    plan = plan_run(corpus, tmp_path / "run")
    for concept in ("car", "dog"):
        label(plan, concept)
    (receipt,) = join(plan)
    rows = rows_of(tmp_path / "run")
    good = [f"{n:06d}" for n in range(6) if n != 2]
    assert [(row["key"], row["concept"]) for row in rows] == [(key, c) for key in good for c in ("car", "dog")]
    for car, dog in zip(rows[::2], rows[1::2], strict=True):
        first, second = png_to_array(car["mask"]), png_to_array(dog["mask"])
        assert not (first & second).any()
        assert car["area"] == pytest.approx(first.mean())
    # The image that nobody could decode is in both concepts' quarantines, and counts once.
    assert (receipt.labelled, receipt.quarantined) == (10, {"corrupt_image": 1})


def test_each_concept_has_the_others_for_distractors(corpus: Path, tmp_path: Path) -> None:
    plan = plan_run(corpus, tmp_path / "run", "--distractor", "bird", "--distractor", "dog", concepts=("car", "human"))
    car, human = (part.spec.distractors for part in plan.concepts)
    assert car == tuple(f"a photo of a {word}" for word in ("bird", "dog", "human"))
    assert human == tuple(f"a photo of a {word}" for word in ("bird", "dog", "car"))


def test_without_presence_no_concept_has_distractors(corpus: Path, tmp_path: Path) -> None:
    plan = plan_run(corpus, tmp_path / "run", "--presence-steps", "0")
    assert [part.spec.distractors for part in plan.concepts] == [(), ()]


def test_a_run_that_is_joined_has_nothing_left_to_do(corpus: Path, tmp_path: Path) -> None:
    plan = plan_run(corpus, tmp_path / "run")
    assert not plan.done
    for concept in ("car", "dog"):
        label(plan, concept)
    join(plan)
    again = plan_run(corpus, tmp_path / "run")
    assert again.done
    assert again.after_concepts().remaining == []


def test_labels_that_were_made_anew_are_joined_anew(corpus: Path, tmp_path: Path) -> None:
    plan = plan_run(corpus, tmp_path / "run")
    for concept in ("car", "dog"):
        label(plan, concept)
    join(plan)
    retried = plan_run(corpus, tmp_path / "run", "--retry-quarantined")
    label(retried, "dog")
    assert len(retried.after_concepts().remaining) == 1


def test_a_driver_killed_before_it_joined_what_was_made_anew_leaves_that_to_be_done(
    corpus: Path, tmp_path: Path
) -> None:
    plan = plan_run(corpus, tmp_path / "run")
    for concept in ("car", "dog"):
        label(plan, concept)
    join(plan)
    label(plan_run(corpus, tmp_path / "run", "--retry-quarantined"), "dog")
    # The same command again, without the flag: every concept has all of its labels.
    again = plan_run(corpus, tmp_path / "run")
    assert not any(part.remaining for part in again.concepts)
    assert not again.done and len(again.remaining) == 1


def test_the_status_tells_of_every_concept(corpus: Path, tmp_path: Path) -> None:
    plan = plan_run(corpus, tmp_path / "run")
    start_run(plan.run.url, plan.manifest)
    label(plan, "car")
    status = read_status(str(tmp_path / "run"))
    assert [(stage.name, stage.images) for stage in status.stages] == [("car/refined", 6)]
    assert "car labels" in describe_status(status)
    label(plan, "dog")
    join(plan)
    names = [stage.name for stage in read_status(str(tmp_path / "run")).stages]
    assert names == ["refined", "car/refined", "dog/refined"]


def test_damaged_labels_of_a_concept_are_named_with_the_way_out(corpus: Path, tmp_path: Path) -> None:
    plan = plan_run(corpus, tmp_path / "run")
    for concept in ("car", "dog"):
        label(plan, concept)
    storage.atomic_put(b"nonsense", plan.concepts[1].run.labels_url(plan.leases[0].id))
    with pytest.raises(LabellerBroken, match=r"the labels of 'dog' in .* are damaged.* delete"):
        join(plan)


def test_a_concept_whose_pixels_are_all_those_of_others_is_absent() -> None:
    mask = np.zeros((16, 16), bool)
    mask[4:12, 4:12] = True
    row = {
        "mask": {"bytes": mask_to_png(mask), "path": "x"},
        "heatmap": {"bytes": mask_to_png(mask), "path": "x"},
        "advantage": None,
        "bbox": [4, 4, 8, 8],
        "area": 0.25,
        "quality": 0.9,
        "flags": ["low_contrast"],
    }
    first, second = make_disjoint([row, dict(row)])
    assert first == row
    assert (second["flags"], second["quality"], second["area"]) == (["low_contrast", "absent"], 0.0, 0.0)
    assert second["bbox"] == [0, 0, 0, 0]


def test_a_pixel_goes_to_the_prompt_that_explains_it_not_to_the_hotter_map() -> None:
    mask = np.zeros((16, 16), bool)
    mask[4:12, 4:12] = True
    hot, cold = (heatmap_to_png(np.full((4, 4), value, np.uint8)) for value in (250, 20))
    car = make_row_of(mask, heatmap=hot, advantage=advantage_png(-0.05), presence=0.0)
    dog = make_row_of(mask, heatmap=cold, advantage=advantage_png(0.05), presence=0.0)
    first, second = make_disjoint([car, dog])
    assert first["flags"] == ["absent"] and second == dog
    # The presence counts three times: 0.12 make up for 0.1, 0.09 do not.
    first, second = make_disjoint([{**car, "presence": 0.03}, dog])
    assert first["flags"] == ["absent"] and second["flags"] == []
    first, second = make_disjoint([{**car, "presence": 0.04}, dog])
    assert first["flags"] == [] and second["flags"] == ["absent"]
    # Labels that say nothing of either are shared by their heat.
    first, second = make_disjoint([{**car, "advantage": None}, dog])
    assert first["flags"] == [] and second["flags"] == ["absent"]


def make_row_of(mask: np.ndarray, *, heatmap: bytes, advantage: bytes, presence: float) -> dict:
    return {
        "mask": {"bytes": mask_to_png(mask), "path": "x"},
        "heatmap": {"bytes": heatmap, "path": "x"},
        "advantage": {"bytes": advantage, "path": "x"},
        "presence": presence,
        "bbox": [4, 4, 8, 8],
        "area": float(mask.mean()),
        "quality": 0.9,
        "flags": [],
    }


def advantage_png(value: float) -> bytes:
    return heatmap_to_png(advantage_to_bytes(torch.full((4, 4), value)).numpy())


def test_concepts_come_from_options_and_a_file(tmp_path: Path) -> None:
    file = tmp_path / "concepts.txt"
    file.write_text("dog\n# birds come later\nfire truck  # both words\n\n")
    assert read_concepts(("car",), str(file)) == ("car", "dog", "fire truck")


@pytest.mark.parametrize(
    ("concepts", "said"), [((), "no concept is named"), (("car", "Car "), "'Car ' is there already")]
)
def test_concepts_that_make_no_sense_are_refused(concepts: tuple[str, ...], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        read_concepts(concepts, None)


def test_other_concepts_need_another_run(corpus: Path, tmp_path: Path) -> None:
    plan = plan_run(corpus, tmp_path / "run")
    start_run(plan.run.url, plan.manifest)
    with pytest.raises(ValueError, match=r"started with other settings .*concepts"):
        plan_run(corpus, tmp_path / "run", concepts=("car", "bird"))


def test_what_belongs_to_one_concept_is_refused_for_several(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--adapter is for one concept"):
        plan_run(corpus, tmp_path / "run", "--adapter", "somewhere")
    with pytest.raises(ValueError, match="--input miniature is one corpus for each concept"):
        plan_run(Path("miniature"), tmp_path / "run")


def test_what_builds_on_labels_of_several_concepts_asks_which_one(corpus: Path, tmp_path: Path) -> None:
    plan = plan_run(corpus, tmp_path / "run")
    for concept in ("car", "dog"):
        label(plan, concept)
    join(plan)
    run = str(tmp_path / "run")
    with pytest.raises(ValueError, match=r"synthetic images are of one; .*--run .*/run/concepts/car"):
        plan_training(run_url=run, spec=SegmenterSpec(synthetic=True))
    with pytest.raises(ValueError, match="holds labels of car, dog; name one of them with --concept"):
        open_labelled(run).of(None)
    with pytest.raises(ValueError, match=r"name that of one: .*/run/concepts/car"):
        find_origin(run)


def test_one_of_several_concepts_is_learned_from_its_own_labels(corpus: Path, tmp_path: Path) -> None:
    plan = plan_run(corpus, tmp_path / "run")
    for concept in ("car", "dog"):
        label(plan, concept)
    join(plan)
    spec = SegmenterSpec(crop=32, short_side=32, drop_flags=())
    task = plan_training(run_url=str(tmp_path / "run"), spec=spec, concept="dog")
    assert task.url.endswith("/run/segmenter-dog")
    rows = {row["key"]: png_to_array(row["mask"]) for row in rows_of(tmp_path / "run") if row["concept"] == "dog"}
    examples = {example.key: example.mask for example in read_task(task, Counter())}
    assert examples.keys() == rows.keys()
    for key, mask in examples.items():
        height, width = mask.shape
        assert np.array_equal(mask, resize_mask(rows[key], width, height))


def test_labels_of_one_of_several_concepts_are_read_alone(corpus: Path, tmp_path: Path) -> None:
    plan = plan_run(corpus, tmp_path / "run")
    for concept in ("car", "dog"):
        label(plan, concept)
    join(plan)
    labels = open_labelled(str(tmp_path / "run")).of("dog")
    assert [row["concept"] for row in labels.rows(["concept"])] == ["dog"] * 5
