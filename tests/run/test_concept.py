"""The sample of the corpus that a concept is learned from, and when it is learned anew."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from engine import storage
from engine.corpus import Lease, list_shards, open_lease, plan_leases
from engine.distillation import pictures
from engine.distillation.examples import encode_examples
from engine.distillation.spec import DistillationSpec
from engine.labelling.spec import LabelSpec
from engine.run.concept import ConceptTask, check_adapter, make_concept
from engine.run.directory import RunError, start_run
from engine.run.fake import FakeLabeller, FakeSource
from engine.run.plan import LabelPlan, plan_labelling
from engine.run.shard import label_lease
from engine.run.source import LabellerSource, ModelSource
from engine.run.training import make_receipt, plan_sample
from schemas.training import TrainingReceipt
from tests.corpus.hostile import make_corpus_tar
from tests.diffusion.models import make_model

IMAGES, SHARDS = 40, 8
SPEC = LabelSpec(concept="car", prompt="a photo of a car", timesteps=4, attention_steps=1, presence_threshold=-9)
SAMPLE = 64


def write_leases(folder: Path, sizes: Sequence[int]) -> list[Lease]:
    """The leases of a corpus of shards with so many images each."""
    for shard, (size, end) in enumerate(zip(sizes, accumulate(sizes), strict=True)):
        (folder / f"{shard:06d}.tar").write_bytes(make_corpus_tar(list(range(end - size, end))))
    return plan_leases(list_shards(str(folder)))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    folder: Path = tmp_path_factory.mktemp("corpus")
    write_leases(folder, [IMAGES] * SHARDS)
    return folder


@pytest.fixture(scope="module")
def leases(corpus: Path):
    return plan_leases(list_shards(str(corpus)))


def count(leases) -> int:
    return sum(len(list(open_lease(lease))) for lease in leases)


def make_plan(corpus: Path, run: Path, limit: int | None, source: LabellerSource | None = None) -> LabelPlan:
    plan = plan_labelling(
        spec=SPEC,
        source=source or FakeSource(),
        input_url=str(corpus),
        run_url=str(run),
        distillation=DistillationSpec(steps=2, batch_size=2, rank=2, sample=SAMPLE),
        limit=limit,
    )
    start_run(plan.run.url, plan.manifest)
    return plan


def finish_concept(plan: LabelPlan, limit: int | None) -> None:
    receipt = make_receipt(plan.run.fingerprint, {"used": 9}, [1.0], name="w", data=b"", seconds={}, limit=limit)
    storage.atomic_put(receipt.to_json().encode(), storage.join(plan.run.url, "concept", "receipt.json"))


def test_a_sample_is_spread_over_the_corpus_and_has_the_images_asked_for(leases):
    sample = plan_sample(leases, 64)
    assert [lease.id for lease in sample] == ["000000", "000002", "000004", "000006"]
    assert count(sample) == 64


def test_few_images_come_from_one_lease(leases):
    assert len(plan_sample(leases, 5)) == 1 and count(plan_sample(leases, 5)) == 5


def test_a_sample_larger_than_the_corpus_is_the_corpus(leases):
    sample = plan_sample(leases, 10_000)
    assert [lease.id for lease in sample] == [lease.id for lease in leases] and count(sample) == IMAGES * SHARDS


@pytest.mark.parametrize("sizes", [[5] * 60, [5, 40] * 12, [2] * 20 + [200]])
def test_small_shards_do_not_make_the_sample_smaller(tmp_path: Path, sizes: list[int]) -> None:
    leases = write_leases(tmp_path, sizes)
    (tmp_path / "000000.tar").write_bytes(b"damaged" * 999)
    sample = plan_sample(leases, 160)
    assert 135 <= count(lease for lease in sample if lease.id != "000000") <= 165
    assert plan_sample(leases, 160) == sample


@pytest.mark.parametrize(
    ("learned", "asked", "anew"),
    [(9, None, True), (9, 19, True), (9, 18, False), (9, 9, False), (32, None, False), (None, 9, False)],
)
def test_a_concept_learned_under_a_small_limit_is_learned_anew_for_a_much_larger_sample(
    corpus: Path, tmp_path: Path, learned: int | None, asked: int | None, anew: bool
) -> None:
    finish_concept(make_plan(corpus, tmp_path / "run", learned), learned)
    concepts = make_plan(corpus, tmp_path / "run", asked).concepts
    assert bool(concepts) == anew
    for task in concepts:
        task.clear_outgrown()
        assert task.find_receipt() is None


def label_few(corpus: Path, run: Path) -> tuple[LabelPlan, Lease]:
    """A run under a limit that is one shard of two, to its end; its plan and the lease of that shard."""
    corpus.mkdir()
    write_leases(corpus, [10, 100])
    plan = make_plan(corpus, run, 10)
    finish_concept(plan, 10)
    (lease,) = plan.remaining
    label_lease(lease, FakeLabeller("fake", SPEC), plan.run)
    return plan, lease


def test_a_concept_that_is_learned_anew_labels_anew_what_was_labelled_before_it(tmp_path: Path) -> None:
    corpus, run = tmp_path / "corpus", tmp_path / "run"
    _, whole_shard = label_few(corpus, run)
    assert make_plan(corpus, run, 10).done
    raised = make_plan(corpus, run, 20)
    assert raised.concepts == () and whole_shard not in raised.remaining
    whole = make_plan(corpus, run, None)
    assert whole.remaining == whole.leases and whole.receipts == {}
    (task,) = whole.concepts
    task.clear_outgrown()
    assert whole.run.find_receipt(whole_shard) is None
    finish_concept(whole, None)
    assert make_plan(corpus, run, None).concepts == ()


def test_retrying_keeps_no_row_of_an_outgrown_concept_even_if_its_removal_was_cut_short(tmp_path: Path) -> None:
    corpus, run = tmp_path / "corpus", tmp_path / "run"
    plan, lease = label_few(corpus, run)
    storage.remove(plan.run.receipt_url(lease.id))
    storage.touch(plan.run.quarantine_url(lease.id))
    whole = make_plan(corpus, run, None)
    (task,) = whole.concepts
    task.clear_outgrown()
    assert not storage.exists(plan.run.quarantine_url(lease.id))
    retried = label_lease(lease, FakeLabeller("fake", SPEC), replace(whole.run, retry=True))
    assert (retried.kept, retried.labelled) == (0, 10)


def test_of_a_corpus_that_is_smaller_than_the_sample_a_limit_of_half_of_it_is_enough(tmp_path: Path) -> None:
    write_leases(tmp_path, [30])
    for limit, anew in ((14, True), (15, False), (29, False), (30, False)):
        run = tmp_path / f"run-{limit}"
        plan = make_plan(tmp_path, run, limit)
        finish_concept(plan, limit)
        assert bool(make_plan(tmp_path, run, None).concepts) == anew


def test_where_the_concept_is_there_no_shard_is_opened(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish_concept(make_plan(corpus, tmp_path / "run", None), None)
    monkeypatch.setattr("engine.run.training.open_lease", None)
    assert make_plan(corpus, tmp_path / "run", None).concepts == ()


def test_a_corpus_that_is_labelled_whole_under_a_limit_has_nothing_left_to_do(corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "small").mkdir()
    (tmp_path / "small" / "000000.tar").write_bytes((corpus / "000000.tar").read_bytes())
    plan = make_plan(tmp_path / "small", tmp_path / "run", IMAGES)
    finish_concept(plan, 9)
    for lease in plan.remaining:
        label_lease(lease, FakeLabeller("fake", SPEC), plan.run)
    assert make_plan(tmp_path / "small", tmp_path / "run", None).done


def test_a_training_that_was_killed_on_a_much_smaller_sample_is_not_gone_on_with(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_model().save(tmp_path / "model")
    run, source = tmp_path / "run", ModelSource(model=str(tmp_path / "model"))
    monkeypatch.setattr("engine.distillation.pictures.draw_progress", lambda *a, **k: Image.new("RGB", (1, 1)))

    def learn(limit: int | None) -> TrainingReceipt | None:
        plan = make_plan(corpus, run, limit, source)
        assert plan.sample
        for lease in plan.sample.remaining:
            label_lease(lease, FakeLabeller("fake", plan.sample.spec), plan.sample.run)
        (task,) = plan.concepts
        task.clear_outgrown()
        return make_concept(task, device="cpu")

    def killed(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("engine.run.concept.make_receipt", killed)
        learn(4)
    checkpoint = run / "concept" / "training" / "checkpoint.safetensors"
    before = checkpoint.read_bytes()
    receipt = learn(None)
    assert receipt and (sum(receipt.images.values()), receipt.limit) == (SAMPLE, None)
    assert checkpoint.read_bytes() != before


@pytest.mark.parametrize(
    ("given", "file"),
    [
        ("https://host/w.safetensors?X-Amz-Signature=a/b", "https://host/w.safetensors?X-Amz-Signature=a/b"),
        ("runs/car/concept", "runs/car/concept/weights.safetensors"),
        ("runs/car/w.safetensors", "runs/car/w.safetensors"),
    ],
)
def test_an_adapter_is_a_file_also_behind_a_signed_web_address_or_the_folder_of_one(
    given: str, file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def read_bytes(url: str) -> bytes:
        asked.append(url)
        raise FileNotFoundError(url)

    monkeypatch.setattr(storage, "read_bytes", read_bytes)
    with pytest.raises(RunError, match="cannot be read"):
        check_adapter(given, SPEC, {})
    assert asked == [file]


def images(count: int):
    rng = np.random.default_rng(0)
    return [(rng.integers(0, 256, (128, 96, 3), np.uint8), rng.random((16, 12)) < 0.3) for _ in range(count)]


def test_images_that_do_not_fit_the_memory_together_are_encoded_in_halves(monkeypatch):
    model, sizes = make_model(), []
    whole, real = encode_examples(model, images(3), flip=True), model.vae.encode

    def has_room_for_two(canvases):
        sizes.append(len(canvases))
        if len(canvases) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(canvases)

    monkeypatch.setattr(model.vae, "encode", has_room_for_two)
    found = encode_examples(model, images(3), flip=True)
    torch.testing.assert_close(found.latents, whole.latents, rtol=1e-4, atol=1e-4)
    assert sizes == [6, 3, 2, 1, 3, 2, 1]


def test_a_picture_that_does_not_fit_the_memory_costs_no_training(tmp_path, monkeypatch, caplog):
    model = make_model()
    source = SimpleNamespace(load=lambda device: model, check=lambda spec: {"model_weights": "0"})
    task = ConceptTask(
        run=SimpleNamespace(fingerprint="0"),
        spec=LabelSpec(concept="car", prompt="a photo of a car"),
        folder=str(tmp_path),
        distillation=DistillationSpec(steps=1, batch_size=1, rank=1),
        source=source,
        leases=[],
    )
    storage.atomic_put(
        encode_examples(model, images(1), flip=False).to_bytes(), task.url("training/examples.safetensors")
    )
    storage.atomic_put(b'{"limit": null, "images": {"used": 1}}', task.url("training/sample.json"))

    def draw(*arguments, **options):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(pictures, "draw_progress", draw)
    assert make_concept(task, device="cpu") is not None
    assert "no picture of step 1: the memory does not suffice" in caplog.text
    assert [path.name for path in (tmp_path / "progress").iterdir()] == ["loss.png"]
