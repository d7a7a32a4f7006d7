"""The rows of the ablation: exact labels score one, what is finished is kept, what cannot be had is named."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from engine.evaluation.evaluate import evaluate_run
from engine.evaluation.rows import EvaluationError
from engine.evaluation.studies import ablation, room
from engine.evaluation.studies.ablation import study_ablation
from engine.evaluation.studies.study import StudyOptions, StudyTask
from engine.labelling.spec import LabelSpec
from engine.run.fake import FakeSource
from engine.run.origin import Origin
from tests.segmenter.bright import draw_box, label, to_png, write_corpus, write_tar

SMALL = {"steps": 3, "batch_size": 2, "width": 4, "scale": 1.25, "limit": 5}


@pytest.fixture
def task(tmp_path: Path) -> StudyTask:
    """A run with exact labels of boxes, and a corpus of more of them."""
    corpus = write_corpus(tmp_path / "corpus", shards=2, each=3)
    plan = label(corpus, tmp_path / "run")
    origin = Origin(
        url=plan.run.url,
        spec=LabelSpec(concept="box", prompt="a photo of a box"),
        source=FakeSource(),
        weights=None,
        input=str(corpus),
        fingerprint=plan.run.fingerprint,
        fields={"model_weights": "fake", "concept_weights": None},
    )
    test = write_corpus(tmp_path / "test", shards=2, each=4)
    options = StudyOptions(test=str(test), **SMALL)  # type: ignore[arg-type]
    output = str(tmp_path / "run" / "studies")
    return StudyTask(origin=origin, corpus=str(corpus), output=output, options=options, tell=lambda line: None)


def test_all_rows_are_measured_on_the_same_images_and_kept(task: StudyTask, monkeypatch: pytest.MonkeyPatch) -> None:
    study = study_ablation(task)
    rows = {row["row"]: row for row in study.figures["rows"]}
    assert list(rows) == ["M_pre", "U-Net on M_pre", "M", "U-Net on D_s", "U-Net, supervised"]
    assert all(row["images"] == 5 for row in rows.values())
    (labelled,) = Path(task.output, "ablation").glob("test-*")
    measured = evaluate_run(str(labelled), str(task.options.test))
    for name, row in (("preliminary", rows["M_pre"]), ("refined", rows["M"])):
        assert {key: row[key] for key in ("acc", "iou", "miou")} == pytest.approx(
            {key: measured[name][key] for key in ("acc", "iou", "miou")}, abs=1e-4
        )
    assert [rows[name]["trained_on"] for name in rows if name.startswith("U-Net")] == [6, 6, 6]
    assert study.figures["left_out"] == {
        "U-Net on D_s ∪ D′_s": "the run has no synthetic images; run jobs/synthesize.py with this --run first"
    }
    assert sorted(study.pictures) == ["ablation-masks.png", "ablation.png"]
    made_with = {
        name: json.loads(Path(task.output, "ablation", folder, "run.json").read_text())["fingerprint"]
        for name, folder in study.figures["folders"].items()
    }
    learned_from = {name: settings["segmenter.labels"] for name, settings in made_with.items()}
    assert learned_from == {"U-Net on M_pre": "preliminary", "U-Net on D_s": "refined", "U-Net, supervised": "truth"}
    given = [(settings["segmenter.steps"], settings["segmenter.scale"]) for settings in made_with.values()]
    assert given == [(3, 1.25)] * 3

    def never(*arguments: object, **options: object) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(ablation, "make_segmenter", never)
    assert study_ablation(task).figures == study.figures


def test_the_table_says_what_its_rows_are_of(task: StudyTask, monkeypatch: pytest.MonkeyPatch) -> None:
    only = {name: ablation.ROWS[name] for name in ("preliminary", "refined")}
    monkeypatch.setattr(ablation, "ROWS", only)
    monkeypatch.setattr(StudyTask, "owner", "box")
    of_the_quality, of_sharing = "the flags and the quality of the final labels leave in", "have shared their pixels"
    for several in (False, True):
        origin = replace(task.origin, several=several)
        table = study_ablation(replace(task, origin=origin)).table
        assert of_the_quality in table and (of_sharing in table) == several


def test_more_labels_make_rows_of_their_own_and_an_empty_shard_is_no_end(task: StudyTask, tmp_path: Path) -> None:
    bright = Path(task.corpus)
    part = label(bright, tmp_path / "part", limit=3)
    origin = Origin(**{**vars(task.origin), "url": part.run.url, "fingerprint": part.run.fingerprint})
    task = StudyTask(**{**vars(task), "origin": origin})
    write_tar(Path(str(task.options.test)) / "000000-empty.tar", {})
    trained = []
    for _ in range(2):
        study = study_ablation(task)
        trained.append({row["trained_on"] for row in study.figures["rows"] if "trained_on" in row})
        label(bright, tmp_path / "part")
    assert trained == [{3}, {6}]
    assert not list(Path(task.output, "ablation").glob("*/checkpoints"))


def test_a_training_corpus_without_masks_has_no_supervised_row(task: StudyTask, tmp_path: Path) -> None:
    bare = tmp_path / "unmasked"
    for number in range(4):
        write_tar(bare / f"{number:06d}.tar", {f"{number:03d}.png": to_png(draw_box(number)[0])})
    plan = label(bare, tmp_path / "bare")
    origin = Origin(**{**vars(task.origin), "url": plan.run.url, "fingerprint": plan.run.fingerprint})
    study = study_ablation(StudyTask(**{**vars(task), "origin": origin, "corpus": str(bare)}))
    assert "there is nothing to learn from" in study.figures["left_out"]["U-Net, supervised"]


def test_examples_that_have_no_room_are_refused_before_they_are_read(
    task: StudyTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ablation, "read_task", None)
    monkeypatch.setattr(room, "available_memory", lambda: 200_000)
    # There are 6 images, of 128 x 128 pixels at least.
    with pytest.raises(ValueError, match=r"take 393 kB at least, and this machine has 200 kB .* --train-batch-size"):
        study_ablation(task)
    monkeypatch.setattr(room, "available_memory", lambda: None)
    with pytest.raises(TypeError):
        study_ablation(task)


def test_images_to_measure_on_are_asked_for(task: StudyTask, tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="give --test CORPUS"):
        study_ablation(StudyTask(**{**vars(task), "options": StudyOptions(limit=5)}))


def test_more_images_to_measure_on_are_another_test_for_every_row(task: StudyTask) -> None:
    task = StudyTask(**{**vars(task), "options": StudyOptions(**{**vars(task.options), "limit": 50})})
    counts = []
    for _ in range(2):
        counts.append({row["images"] for row in study_ablation(task).figures["rows"]})
        image, mask = draw_box(8)
        more = {"008.png": to_png(image), "008.mask.png": to_png(mask.astype("uint8") * 255)}
        write_tar(Path(str(task.options.test)) / "more.tar", more)
    assert counts == [{8}, {9}]


def test_what_cannot_be_trained_or_measured_is_refused_before_anything_is_labelled(task: StudyTask) -> None:
    with pytest.raises(ValueError, match="crop is 100"):
        StudyOptions(crop=100)
    bare = Path(task.output).parent / "bare"
    write_tar(bare / "000000.tar", {"0.png": to_png(draw_box(0)[0])})
    options = StudyOptions(**{**vars(task.options), "test": str(bare)})
    with pytest.raises(EvaluationError, match="no ground truth for 'box'"):
        study_ablation(StudyTask(**{**vars(task), "options": options}))
    assert not Path(task.output, "ablation").exists()
