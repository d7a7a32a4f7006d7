"""From a run of several concepts to a segmenter with a class for each, and to its predictions."""

from __future__ import annotations

import io
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from engine.pipeline import train as pipeline
from engine.run.directory import RunError, start_run
from engine.run.plan import LabelPlan
from engine.run.predict import plan_prediction, write_masks
from engine.run.segmenter import SegmenterTask, make_segmenter, plan_training, read_task
from engine.run.shard import label_lease
from engine.segmenter.segmenter import Segmenter
from engine.segmenter.spec import SegmenterSpec
from schemas.run import RunManifest
from tests.segmenter.bright import to_png, write_corpus, write_tar
from tests.segmenter.coloured import CONCEPTS, draw_scene, label_scenes, write_scenes

SMALL = {"steps": 60, "batch_size": 6, "crop": 48, "short_side": 48, "width": 4, "warmup": 2, "flip": False}
SPEC = SegmenterSpec(**SMALL, learning_rate=0.02, ema_decay=0.8)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scenes(tmp_path_factory.mktemp("scenes"))


@pytest.fixture(scope="module")
def run(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return label_scenes(corpus, tmp_path_factory.mktemp("runs") / "street")


def plan(run: Path, **options: Any) -> SegmenterTask:
    changes = {name: options.pop(name) for name in list(options) if name in vars(SPEC)}
    return plan_training(run_url=str(run), spec=SegmenterSpec(**{**vars(SPEC), **changes}), **options)


@pytest.fixture(scope="module")
def model(run: Path) -> Path:
    task = plan(run)
    start_run(task.url, task.manifest)
    tally: Counter[str] = Counter()
    make_segmenter(task, list(read_task(task, tally)), tally, device="cpu")
    assert tally == {"corpus.used": 12}, "images that show only one of the concepts are learned from"
    return run / "segmenter"


def predict(model: Path, corpus: Path, folder: Path) -> LabelPlan:
    """The images of the corpus, labelled by the model."""
    prediction = plan_prediction(model=str(model), input_url=str(corpus), output_url=str(folder))
    start_run(prediction.run.url, prediction.manifest)
    labeller = prediction.source.build(prediction.spec, device="cpu")
    for lease in prediction.leases:
        label_lease(lease, labeller, prediction.run)
    return prediction


def test_a_training_on_two_concepts_tells_them_apart(model: Path) -> None:
    segmenter = Segmenter.from_pretrained(model)
    assert segmenter.concepts == CONCEPTS
    assert json.loads((model / "run.json").read_text())["fingerprint"]["concepts"] == list(CONCEPTS)
    for number in (100, 101, 102):  # not among those learned from
        image, classes = draw_scene(number)
        found = segmenter(image)
        for index in np.unique(classes)[1:]:
            ours, theirs = found == index, classes == index
            assert (ours & theirs).sum() / (ours | theirs).sum() > 0.7
            assert (found[theirs] == 3 - index).mean() < 0.05


def test_predictions_are_a_row_for_each_image_and_concept_and_class_maps(
    model: Path, corpus: Path, tmp_path: Path
) -> None:
    prediction = predict(model, corpus, tmp_path)
    first = prediction.leases[0]
    rows = pq.read_table(tmp_path / "labels" / f"{first.id}.parquet").to_pylist()
    assert [(row["key"], row["concept"]) for row in rows] == [(f"{n:03d}", c) for n in range(6) for c in CONCEPTS]
    assert prediction.manifest.fingerprint["concepts"] == list(CONCEPTS)
    assert write_masks(prediction.run, first) == 6
    for number in range(6):
        with Image.open(tmp_path / "masks" / "000000" / f"{number:03d}.png") as picture:
            assert picture.mode == "L"
            classes = np.asarray(picture)
        car, dog = (np.asarray(Image.open(io.BytesIO(row["mask"]["bytes"]))) for row in rows[2 * number :][:2])
        assert np.array_equal(classes, car + 2 * dog)
        assert (classes == draw_scene(number)[1]).mean() > 0.9


def test_images_that_show_one_of_the_concepts_are_learned_from_where_predictions_are_the_labels(
    model: Path, corpus: Path, tmp_path: Path
) -> None:
    predict(model, corpus, tmp_path)
    tally: Counter[str] = Counter()
    examples = list(read_task(plan(tmp_path), tally))
    assert tally == {"corpus.used": 12}
    assert {tuple(np.unique(example.mask)) for example in examples} == {(0, 1), (0, 2), (0, 1, 2)}


def test_some_of_a_run_s_concepts_can_be_learned_by_themselves(run: Path) -> None:
    task = plan(run, concept="dog")
    assert (task.concept, task.concepts, task.url) == ("dog", (), str(run / "segmenter-dog"))
    tally: Counter[str] = Counter()
    examples = list(read_task(task, tally))
    assert tally == {"corpus.used": 8, "corpus.flag:absent": 4}
    assert all(np.array_equal(e.mask, e.image[..., 2] > 100) and e.mask.dtype == np.bool_ for e in examples)
    assert plan(run, concept=["dog", "car"]).concepts == CONCEPTS, "classes keep the run's order"


def test_true_masks_of_several_concepts_need_no_run(run: Path, corpus: Path, tmp_path: Path) -> None:
    spec = SegmenterSpec(**{**vars(SPEC), "labels": "truth"})
    where = {"input_url": str(corpus), "output_url": str(tmp_path)}
    task = plan_training(run_url=None, spec=spec, concept=CONCEPTS, **where)
    ours, theirs = (list(read_task(each, Counter())) for each in (task, plan(run)))
    assert [e.key for e in ours] == [e.key for e in theirs]
    assert all(np.array_equal(a.mask, b.mask) for a, b in zip(ours, theirs, strict=True))


def test_of_several_concepts_a_true_mask_without_a_name_is_no_one_s_unless_the_json_says_whose(tmp_path: Path) -> None:
    image, classes = draw_scene(2)
    members = {f"{key}.png": to_png(image) for key in "abc"} | {f"{key}.mask.png": to_png(classes == 2) for key in "ab"}
    members |= {"b.json": b'{"concept": "dog"}', "c.dog.mask.png": to_png(classes == 2)}
    write_tar(tmp_path / "corpus" / "000000.tar", dict(sorted(members.items())))
    run = label_scenes(tmp_path / "corpus", tmp_path / "street")
    tally: Counter[str] = Counter()
    examples = list(read_task(plan(run, labels="truth", concept="dog"), tally))
    assert [example.key for example in examples] == ["b", "c"]
    assert tally == {"corpus.used": 2, "corpus.image_without_label": 1}
    spec = SegmenterSpec(**{**vars(SPEC), "labels": "truth"})
    where = {"input_url": str(tmp_path / "corpus"), "output_url": str(tmp_path / "out")}
    without_run = plan_training(run_url=None, spec=spec, concept="dog", **where)
    assert [example.key for example in read_task(without_run, Counter())] == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"synthetic": True}, r"several \(car, dog\): .*--concept car --distractor dog --run .*leave out --synthetic$"),
        ({"labels": "preliminary"}, r"car, dog\) overlap; learn from --labels refined, or name one with --concept"),
        ({"concept": "bird"}, r"--concept bird is not the run's, which is car, dog"),
        ({"concept": ["car", "car"]}, r"--concept car is given twice"),
    ],
)
def test_what_there_is_for_one_concept_only_is_refused(run: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(RunError, match=message):
        plan(run, **options)
    assert plan(run, labels="preliminary", concept="car").concepts == ()


def test_examples_reach_the_workers_as_they_are(run: Path) -> None:
    pytest.importorskip("ray")
    for task in (plan(run), plan(run, concept="car")):
        examples = list(read_task(task, Counter()))
        table = pipeline.pa.Table.from_pylist([pipeline._to_row(e) for e in examples], schema=pipeline.SCHEMA)
        for place, example in enumerate(examples):
            again = pipeline._to_example(table, place)
            assert again.mask.dtype == example.mask.dtype and np.array_equal(again.mask, example.mask)
            assert np.array_equal(again.image, example.image)


def test_the_fingerprint_of_a_training_on_one_concept_changes_with_its_version_only(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "corpus")
    changes = {"steps": 8, "batch_size": 4, "crop": 32, "short_side": 40, "flip": True, "labels": "truth"}
    spec = SegmenterSpec(**{**vars(SPEC), **changes})
    where = {"input_url": str(corpus), "output_url": str(tmp_path / "out")}
    task = plan_training(run_url=None, spec=spec, concept="box", **where)
    # The corpus's sizes in bytes are those of the PNG encoder at hand.
    fields = {name: value for name, value in task.manifest.fingerprint.items() if name != "corpus.images"}
    assert RunManifest(fingerprint=fields).hash == "be03e22636b89c7d"
