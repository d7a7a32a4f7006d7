"""What a training is made of, what it keeps, and what is refused before anything is computed."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from engine.corpus.lease import Lease
from engine.run.directory import RunError, start_run
from engine.run.labelled import open_labelled
from engine.run.names import index_folder
from engine.run.segmenter import SegmenterTask, make_segmenter, plan_training, read_task
from engine.segmenter.segmenter import Segmenter
from engine.segmenter.spec import SegmenterSpec
from schemas.run import RunManifest
from tests.segmenter.bright import draw_box, label, to_png, write_corpus, write_tar

SMALL = {"steps": 30, "batch_size": 4, "crop": 32, "short_side": 40, "width": 4, "warmup": 2}
SPEC = SegmenterSpec(**SMALL, learning_rate=0.02, ema_decay=0.8)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("boxes"))


@pytest.fixture
def run(corpus: Path, tmp_path: Path) -> Path:
    label(corpus, tmp_path / "run")
    return tmp_path / "run"


def plan(run: Path, spec: SegmenterSpec = SPEC, **options: Any) -> SegmenterTask:
    return plan_training(run_url=str(run), spec=spec, **options)


def make(task: SegmenterTask) -> Any:
    start_run(task.url, task.manifest)
    tally: Counter[str] = Counter()
    examples = list(read_task(task, tally))
    return make_segmenter(task, examples, tally, device="cpu")


def add_synthetic(run: Path, folder: Path) -> None:
    """Synthetic images with labels, as they lie in a run: here boxes of another corpus, keys and shards named alike."""
    write_corpus(folder, shards=1, each=5)
    label(folder, run / "synthetic")
    shutil.copytree(folder, run / "synthetic" / "images")


def test_a_training_keeps_weights_settings_counts_and_pictures(run: Path) -> None:
    receipt = make(plan(run))
    folder = run / "segmenter"
    assert receipt.images == {"corpus.used": 12} and receipt.steps == 30
    assert receipt.last_loss < 0.5 * receipt.first_loss
    names = ["checkpoints", "config.json", "loss.png", "metrics.jsonl", "model.safetensors"]
    assert sorted(path.name for path in folder.iterdir()) == [*names, "progress.png", "receipt.json", "run.json"]
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, 31))
    assert lines[0].keys() == {"step", "epoch", "loss", "iou", "learning_rate"}
    config = json.loads((folder / "config.json").read_text())
    assert (config["concept"], config["short_side"], config["features"]) == ("box", 40, [4, 4, 8, 16, 32, 4])
    assert config["notes"]["images"] == {"corpus.used": 12} and config["notes"]["metrics"]["steps"] == 30
    image, mask = draw_box(40)
    found = Segmenter.from_pretrained(folder)(image)
    assert (found & mask).sum() / (found | mask).sum() > 0.5


def test_a_finished_training_is_not_repeated(run: Path) -> None:
    receipt = make(plan(run))
    before = {path: path.stat().st_mtime_ns for path in (run / "segmenter").rglob("*") if path.is_file()}
    task = plan(run)
    assert task.resumed and task.find_receipt() == receipt
    assert make_segmenter(task, [], {}, device="cpu") == receipt
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_other_settings_are_refused_and_each_difference_is_named(run: Path) -> None:
    task = plan(run)
    start_run(task.url, task.manifest)
    other = SegmenterSpec(**{**vars(SPEC), "steps": 7, "labels": "preliminary"})
    with pytest.raises(RunError, match=r"labels: refined -> preliminary; segmenter\.steps: 30 -> 7.* another --output"):
        plan(run, other)
    assert plan(run, other, output_url=str(run / "other")).url == str(run / "other")


def test_what_another_version_began_is_not_to_be_resumed_with_other_settings(run: Path) -> None:
    task = plan(run)
    fields = {**task.manifest.fingerprint, "segmenter.version": 1, "segmenter.steps": 7}
    start_run(task.url, replace(task.manifest, fingerprint=fields))
    with pytest.raises(RunError, match=r"segmenter\.version: 1 -> \d+\): no settings .*; use another --output$"):
        plan(run)


def test_more_labels_are_another_training(corpus: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    label(corpus, run, limit=6)
    task = plan(run)
    assert "1 other has no labels yet" in task.describe()
    start_run(task.url, task.manifest)
    label(corpus, run)
    with pytest.raises(RunError, match=r"corpus\.images: 6 labels in 2 leases .* -> 12 labels in 3 leases"):
        plan(run)


def test_labels_whose_shard_is_gone_are_told_of_and_counted(corpus: Path, tmp_path: Path) -> None:
    run, moved = tmp_path / "run", tmp_path / "moved"
    label(corpus, run)
    shutil.copytree(corpus, moved)
    assert plan(run).unread == {}
    for name in ("000000.tar", "000002.tar"):
        (moved / name).unlink()
    task = plan(run, input_url=str(moved))
    assert "1 lease, labels: M; 2 others with 8 labels are not in this corpus" in task.describe()
    assert task.unread == {"corpus.label_without_image": 8}


def test_images_beyond_the_limit_that_was_labelled_are_not_read(corpus: Path, tmp_path: Path) -> None:
    label(corpus, tmp_path / "run", limit=6)
    tally: Counter[str] = Counter()
    assert len(list(read_task(plan(tmp_path / "run"), tally))) == 6
    assert tally == {"corpus.used": 6}


def test_synthetic_images_are_learned_from_as_well(run: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"there is no .*synthetic/run\.json; run jobs/synthesize\.py"):
        plan(run, SegmenterSpec(**{**vars(SPEC), "synthetic": True}))
    add_synthetic(run, tmp_path / "made")
    task = plan(run, SegmenterSpec(**{**vars(SPEC), "synthetic": True}))
    tally: Counter[str] = Counter()
    examples = list(read_task(task, tally))
    assert tally == {"corpus.used": 12, "synthetic.used": 5}
    assert len({(e.shard, e.key) for e in examples}) == 13, "keys and shards are named alike, and still not mixed"
    boxes = [*range(12), *range(5)]
    for example, box in zip(examples, boxes, strict=True):
        assert abs(example.mask.mean() - draw_box(box)[1].mean()) < 0.01


def test_a_review_overrules_and_is_part_of_the_fingerprint(run: Path, tmp_path: Path) -> None:
    review = tmp_path / "review.csv"
    review.write_text("shard,key,decision\n000001.tar,002,reject\n000002.tar,000,unsure\n")
    task = plan(run, review_url=str(review))
    tally: Counter[str] = Counter()
    list(read_task(task, tally))
    assert tally == {"corpus.used": 11, "corpus.rejected": 1}
    assert task.manifest.hash != plan(run).manifest.hash
    review.write_text("shard,key,decision\n000001.tar,002,yes\n")
    with pytest.raises(ValueError, match=r"--review .*line 2 decides 'yes'"):
        plan(run, review_url=str(review))
    review.write_text("shard,key,decision\nelsewhere.tar,002,reject\n")
    with pytest.raises(ValueError, match="none of the 1 decisions of --review is about a shard of the corpus"):
        plan(run, review_url=str(review))


def test_a_flag_that_no_label_has_is_refused() -> None:
    with pytest.raises(ValueError, match="'touchs_border' is no flag of a label; these are: absent, "):
        SegmenterSpec(drop_flags=("touchs_border",))


def test_truth_needs_no_labels_but_a_corpus_with_masks(run: Path) -> None:
    task = plan(run, SegmenterSpec(**{**vars(SPEC), "labels": "truth"}))
    tally: Counter[str] = Counter()
    examples = list(read_task(task, tally))
    assert tally == {"corpus.used": 12}
    assert "labels" not in task.manifest.fingerprint
    assert np.array_equal(examples[0].mask, draw_box(0)[1])


def test_truth_is_learned_from_on_the_images_that_the_run_has_labelled(corpus: Path, tmp_path: Path) -> None:
    run, truth = tmp_path / "run", SegmenterSpec(**{**vars(SPEC), "labels": "truth"})
    label(corpus, run, limit=6)
    mined, supervised = ([(e.shard, e.key) for e in read_task(plan(run, s), Counter())] for s in (SPEC, truth))
    assert supervised == mined and len(mined) == 6
    shutil.rmtree(run / "labels")
    assert len(list(read_task(plan(run, truth), Counter()))) == 12, "a run without labels leaves the corpus whole"


def test_every_node_must_see_images_and_labels_of_all_sources(run: Path, corpus: Path, tmp_path: Path) -> None:
    add_synthetic(run, tmp_path / "made")
    task = plan(run, SegmenterSpec(**{**vars(SPEC), "synthetic": True}))
    seen = [corpus / "000000.tar", run / "labels", run / "synthetic/images/000000.tar", run / "synthetic/labels"]
    assert task.places == {task.url, *map(str, seen)}


def test_masks_of_a_corpus_are_learned_from_without_any_run(corpus: Path, run: Path, tmp_path: Path) -> None:
    truth = SegmenterSpec(**{**vars(SPEC), "labels": "truth"})
    where = {"input_url": str(corpus), "output_url": str(tmp_path / "supervised")}
    task = plan_training(run_url=None, spec=truth, concept="box", **where)
    with_run, without = (list(read_task(planned, Counter())) for planned in (plan(run, truth), task))
    assert [(e.shard, e.key) for e in without] == [(e.shard, e.key) for e in with_run]
    assert all(np.array_equal(a.mask, b.mask) for a, b in zip(without, with_run, strict=True))
    assert task.url == str(tmp_path / "supervised") and task.concept == "box"
    with pytest.raises(RunError, match="needs --concept, --input and --output"):
        plan_training(run_url=None, spec=truth, **where)
    with pytest.raises(RunError, match="give --run"):
        plan_training(run_url=None, spec=SPEC, concept="box", **where)
    with pytest.raises(RunError, match="--concept dog is not the run's"):
        plan(run, truth, concept="dog")


def test_a_short_training_reads_no_more_than_it_can_look_at(corpus: Path, run: Path) -> None:
    task = plan(run, SegmenterSpec(**{**vars(SPEC), "steps": 1}))
    tally: Counter[str] = Counter()
    assert len(list(read_task(task, tally))) == 4
    assert tally["corpus.used"] == 4


def test_indexes_that_the_labelling_has_kept_are_read(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from engine.segmenter import examples

    real, given = examples.open_lease, []

    def opened(lease: Lease, **options: Any) -> Any:
        given.append(options["indexes"])
        return real(lease, **options)

    monkeypatch.setattr(examples, "open_lease", opened)
    assert list(read_task(plan(run), Counter()))
    assert set(given) == {index_folder(str(run))}


def test_a_training_that_can_look_at_all_labels_accounts_for_all_images(tmp_path: Path) -> None:
    members = {f"{n:03d}.png": to_png(draw_box(n)[0]) for n in range(6)}
    write_tar(tmp_path / "corpus" / "000000.tar", {**members, "001.png": b"no image", "900.txt": b"alone"})
    label(tmp_path / "corpus", tmp_path / "run")
    tally: Counter[str] = Counter()
    examples = list(read_task(plan(tmp_path / "run"), tally))
    assert [example.key for example in examples] == ["000", "002", "003", "004", "005"]
    assert tally == {"corpus.used": 5, "corpus.image_without_label": 1, "corpus.defect:no_image": 1}


def test_a_corpus_that_has_moved_must_be_named(run: Path, corpus: Path, tmp_path: Path) -> None:
    moved = shutil.copytree(corpus, tmp_path / "moved")
    manifest = RunManifest.from_json((run / "run.json").read_text())
    manifest.config["input_url"] = str(tmp_path / "gone")
    (run / "run.json").write_text(manifest.to_json())
    with pytest.raises(RunError, match=r"gone.*name it with --input if it has moved"):
        plan(run)
    assert plan(run, input_url=str(moved)).sources[0].leases[0].shard.url == str(moved / "000000.tar")


def test_labels_of_another_corpus_are_not_taken_for_these(run: Path, tmp_path: Path) -> None:
    other = write_corpus(tmp_path / "other", each=5)
    with pytest.raises(RunError, match=r"holds labels of another 000000\.tar: .*; give --input [^-]*, or [^-]* --run "):
        plan(run, input_url=str(other))


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"there is no .*run\.json; run jobs/label\.py"):
        plan(tmp_path)


def test_nothing_usable_ends_with_the_counts(run: Path) -> None:
    task = plan(run, SegmenterSpec(**{**vars(SPEC), "min_quality": 1.0}))
    with pytest.raises(ValueError, match=r"nothing to learn 'box' from \(corpus\.low_quality 12\)"):
        make(task)


def test_the_weights_do_not_depend_on_the_state_of_the_process(run: Path) -> None:
    spec = SegmenterSpec(**{**vars(SPEC), "steps": 2})
    weights = []
    for name in ("a", "b"):
        torch.manual_seed(hash(name) % 1000)
        make(plan(run, spec, output_url=str(run / name)))
        weights.append((run / name / "model.safetensors").read_bytes())
    assert weights[0] == weights[1]


def test_a_corpus_whose_address_is_not_shown_must_be_named(run: Path, corpus: Path) -> None:
    manifest = RunManifest.from_json((run / "run.json").read_text())
    manifest.config["input_url"] = "s3://***@bucket/corpus"
    (run / "run.json").write_text(manifest.to_json())
    with pytest.raises(RunError, match=r"does not say where its corpus is; give --input"):
        plan(run)
    assert plan(run, input_url=str(corpus)).sources[0].unlabelled == 0


def test_synthetic_shards_that_are_still_being_made_are_left_out(run: Path, tmp_path: Path) -> None:
    add_synthetic(run, tmp_path / "made")
    shutil.copy(run / "synthetic" / "images" / "000000.tar", run / "synthetic" / "images" / "000001.tar")
    task = plan(run, SegmenterSpec(**{**vars(SPEC), "synthetic": True}))
    assert [lease.id for place, lease, _ in task.leases if place == 1] == ["000000"]
    assert task.sources[1].unlabelled == 1


def test_labels_of_other_settings_are_not_learned_from(run: Path) -> None:
    receipt = run / "labels" / "000001.json"
    receipt.write_text(json.dumps({**json.loads(receipt.read_text()), "fingerprint": "other"}))
    with pytest.raises(RunError, match=r"the receipt of 000001 .* has the fingerprint other"):
        plan(run)


def test_what_another_job_has_made_is_neither_learned_from_nor_written_over(run: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"run holds labels of jobs/label\.py, not a segmenter; give another --output$"):
        plan(run, output_url=str(run))
    task = plan(run)
    start_run(task.url, task.manifest)
    with pytest.raises(RunError, match=r"segmenter holds a segmenter of jobs/train\.py, and no labels; give the run"):
        plan(run / "segmenter", output_url=str(tmp_path / "other"))
    with pytest.raises(RunError, match=r"segmenter holds a segmenter of jobs/train\.py, and no labels; give the run"):
        open_labelled(task.url)
