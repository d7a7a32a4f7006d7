"""Masks by a segmenter, in a run directory of their own."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from engine.evaluation.evaluate import evaluate_run
from engine.run.directory import RunError, start_run
from engine.run.plan import LabelPlan
from engine.run.predict import plan_prediction, write_masks
from engine.run.shard import label_lease
from engine.segmenter.files import SegmenterConfig, SegmenterError
from engine.segmenter.segmenter import Segmenter
from engine.segmenter.unet import build_unet
from schemas.label import LABEL_SCHEMA
from tests.segmenter.bright import draw_box, label, to_png, write_corpus, write_tar


@pytest.fixture
def model(tmp_path: Path) -> Path:
    Segmenter(build_unet(2, seed=3), SegmenterConfig(concept="box", width=2, short_side=32)).save_pretrained(
        tmp_path / "model"
    )
    return tmp_path / "model"


def predict(plan: LabelPlan) -> None:
    start_run(plan.run.url, plan.manifest)
    labeller = plan.source.build(plan.spec, device="cpu")
    for lease in plan.remaining:
        label_lease(lease, labeller, plan.run)


def test_every_image_gets_a_row_at_its_own_size_and_bad_ones_are_quarantined(model: Path, tmp_path: Path) -> None:
    members = {f"{n:03d}.png": to_png(draw_box(n)[0]) for n in range(4)}
    write_tar(tmp_path / "corpus" / "000000.tar", {**members, "004.jpg": b"nothing"})
    out = tmp_path / "out"
    plan = plan_prediction(model=str(model), input_url=str(tmp_path / "corpus"), output_url=str(out), batch_size=3)
    predict(plan)
    table = pq.read_table(out / "labels" / "000000.parquet")
    assert table.schema.equals(LABEL_SCHEMA)
    rows = table.to_pylist()
    assert [row["key"] for row in rows] == ["000", "001", "002", "003"]
    segmenter = Segmenter.from_pretrained(model)
    for number, row in enumerate(rows):
        image, _ = draw_box(number)
        mask = np.asarray(Image.open(io.BytesIO(row["mask"]["bytes"])))
        assert mask.shape == image.shape[:2] == (row["height"], row["width"])
        assert (mask == segmenter(image)).mean() > 0.99
        assert row["concept"] == "box" and row["presence"] is None and 0 <= row["quality"] <= 1
    (bad,) = pq.read_table(out / "quarantine" / "000000.parquet").to_pylist()
    assert (bad["key"], bad["reason"]) == ("004", "corrupt_image")


def test_the_output_is_evaluated_like_a_run(model: Path, tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "corpus", shards=2)
    predict(plan_prediction(model=str(model), input_url=str(corpus), output_url=str(tmp_path / "out")))
    found = evaluate_run(str(tmp_path / "out"), str(corpus))
    assert found["images"] == 8 and found["refined"]["images"] == 8


def test_resuming_does_what_is_left_and_another_model_is_refused(model: Path, tmp_path: Path) -> None:
    corpus, out = write_corpus(tmp_path / "corpus", shards=2), tmp_path / "out"
    short = plan_prediction(model=str(model), input_url=str(corpus), output_url=str(out), limit=4)
    predict(short)
    again = plan_prediction(model=str(model), input_url=str(corpus), output_url=str(out))
    assert [lease.id for lease in again.remaining] == ["000001"]
    with pytest.raises(RunError, match="window: 0 -> 32"):
        plan_prediction(model=str(model), input_url=str(corpus), output_url=str(out), window=32)
    Segmenter(build_unet(2, seed=4), SegmenterConfig(concept="box", width=2, short_side=32)).save_pretrained(model)
    with pytest.raises(RunError, match="segmenter_weights"):
        plan_prediction(model=str(model), input_url=str(corpus), output_url=str(out))


def test_masks_are_not_written_among_the_labels_of_a_run(model: Path, tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "corpus", shards=1)
    label(corpus, tmp_path / "run")
    with pytest.raises(RunError, match=r"run holds labels of jobs/label\.py, not predictions; give another --output$"):
        plan_prediction(model=str(model), input_url=str(corpus), output_url=str(tmp_path / "run"))


def test_other_images_are_refused_with_the_options_that_the_job_has(model: Path, tmp_path: Path) -> None:
    photos, out = tmp_path / "photos", tmp_path / "out"
    photos.mkdir()
    (photos / "0.png").write_bytes(to_png(draw_box(0)[0]))
    predict(plan_prediction(model=str(model), input_url=str(photos), output_url=str(out)))
    (photos / "1.png").write_bytes(to_png(draw_box(1)[0]))
    with pytest.raises(RunError, match=r"holds labels of another .*; give each corpus its own --output$"):
        plan_prediction(model=str(model), input_url=str(photos), output_url=str(out))


def test_workers_of_other_nodes_must_see_the_segmenter_and_a_short_side_of_zero_is_refused(
    model: Path, tmp_path: Path
) -> None:
    corpus, out = write_corpus(tmp_path / "corpus", shards=1), tmp_path / "out"
    plan = plan_prediction(model=str(model), input_url=str(corpus), output_url=str(out))
    assert plan.places == {str(model), str(out), str(corpus / "000000.tar")}
    with pytest.raises(ValueError, match="short_side is 0"):
        plan_prediction(model=str(model), input_url=str(corpus), output_url=str(out), short_side=0)


def test_nothing_left_to_do_starts_no_cluster(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ray = pytest.importorskip("ray")

    from engine.pipeline.predict import run_prediction

    corpus, out = write_corpus(tmp_path / "corpus", shards=1), tmp_path / "out"
    options = {"model": str(model), "input_url": str(corpus), "output_url": str(out)}
    predict(plan_prediction(**options))

    def never(*arguments: object, **settings: object) -> None:
        raise AssertionError("a cluster was started")

    monkeypatch.setattr(ray, "init", never)
    assert list(run_prediction(plan_prediction(**options)).receipts) == ["000000"]


def test_masks_are_written_one_by_one_and_not_again(model: Path, tmp_path: Path) -> None:
    corpus, out = write_corpus(tmp_path / "corpus", shards=1), tmp_path / "out"
    plan = plan_prediction(model=str(model), input_url=str(corpus), output_url=str(out))
    predict(plan)
    (lease,) = plan.leases
    assert write_masks(plan.run, lease) == 4
    rows = pq.read_table(out / "labels" / "000000.parquet").to_pylist()
    for row in rows:
        assert (out / "masks" / "000000" / f"{row['key']}.png").read_bytes() == row["mask"]["bytes"]
    (out / "masks" / "000000" / "000.png").unlink()
    assert write_masks(plan.run, lease) == 4
    assert not (out / "masks" / "000000" / "000.png").exists(), "the last one says that all are there"


def test_a_missing_segmenter_is_a_clear_error(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "corpus", shards=1)
    with pytest.raises(SegmenterError, match="holds no segmenter"):
        plan_prediction(model=str(tmp_path), input_url=str(corpus), output_url=str(tmp_path / "out"))
