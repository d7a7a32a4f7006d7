from __future__ import annotations

import io
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from engine import storage
from engine.corpus.catalogue import list_shards
from engine.corpus.lease import Lease, plan_leases
from engine.labelling.label import Label
from engine.labelling.spec import LabelSpec
from engine.run.attempts import ATTEMPTS
from engine.run.directory import LabelRun, RunError, read_receipts, subtract_receipts
from engine.run.fake import FakeLabeller
from engine.run.shard import LabellerBroken, LeaseProgress, label_lease
from schemas.label import LABEL_SCHEMA
from tests.corpus.hostile import make_corpus_tar

SPEC = LabelSpec(concept="car", prompt="a photo of a car", stage="preliminary")


def png(seed: int, width: int = 40, height: int = 24) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """A folder of 20 images of several sizes, one of them corrupt."""
    folder = tmp_path / "corpus"
    folder.mkdir()
    for number in range(20):
        data = b"not an image" if number == 7 else png(number, 40 + number, 24)
        (folder / f"{number:03d}.png").write_bytes(data)
    return folder


@pytest.fixture
def lease(corpus: Path) -> Lease:
    (lease,) = plan_leases(list_shards(str(corpus)))
    return lease


def make_run(url: Path | str, *, session: str = "s1", batch_size: int = 4) -> LabelRun:
    return LabelRun(
        url=str(url),
        stage="preliminary",
        concept="car",
        prompt=SPEC.prompt,
        fingerprint="f",
        model="fake",
        revision=None,
        seed=0,
        session=session,
        batch_size=batch_size,
    )


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_lease_yields_rows_quarantine_and_a_receipt(lease: Lease, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    receipt = label_lease(lease, FakeLabeller("fake", SPEC), run)
    assert (receipt.seen, receipt.labelled, receipt.quarantined) == (20, 19, {"corrupt_image": 1})
    assert run.find_receipt(lease) == receipt
    table = pq.read_table(run.labels_url(lease.id))
    assert table.schema.equals(LABEL_SCHEMA)
    rows = table.to_pylist()
    assert [row["key"] for row in rows] == [f"{n:03d}" for n in range(20) if n != 7]
    mask = Image.open(io.BytesIO(rows[3]["mask"]["bytes"]))
    assert (mask.mode, mask.size) == ("1", (rows[3]["width"], rows[3]["height"])) == ("1", (43, 24))
    assert rows[0]["refined_separation"] is None
    (bad,) = pq.read_table(run.quarantine_url(lease.id)).to_pylist()
    assert (bad["key"], bad["stage"], bad["reason"]) == ("007", "decode", "corrupt_image")
    assert storage.list_names(storage.join(run.url, ATTEMPTS)) == []


def test_two_writers_write_identical_bytes(lease: Lease, tmp_path: Path) -> None:
    for name, batch_size in (("a", 4), ("b", 3)):
        label_lease(lease, FakeLabeller("fake", SPEC), make_run(tmp_path / name, batch_size=batch_size))
    one, two = files(tmp_path / "a"), files(tmp_path / "b")
    assert one.keys() == two.keys()
    parquet = [name for name in one if name.endswith(".parquet")]
    assert parquet and all(one[name] == two[name] for name in parquet)


def test_a_lease_with_a_receipt_is_not_touched(lease: Lease, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    receipt = label_lease(lease, FakeLabeller("fake", SPEC), run)

    def never(images: list[np.ndarray], keys: list[str]) -> list[Label]:
        raise AssertionError

    events: list[LeaseProgress] = []
    assert label_lease(lease, never, run, events.append) == receipt
    assert [event.finished for event in events] == [True]


def test_a_larger_limit_labels_the_lease_again(corpus: Path, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    shards = list_shards(str(corpus))
    (short,), (longer,) = plan_leases(shards, limit=5), plan_leases(shards, limit=12)
    labeller = FakeLabeller("fake", SPEC)
    assert label_lease(short, labeller, run).labelled == 5
    receipts = read_receipts(run.url, run.stage)
    assert subtract_receipts([short], receipts, run) == []
    assert subtract_receipts([longer], receipts, run) == [longer]
    assert label_lease(longer, labeller, run).labelled == 11  # and one is corrupt
    assert label_lease(short, labeller, run).labelled == 11


def test_labels_of_another_corpus_are_not_taken_for_these(corpus: Path, lease: Lease, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    label_lease(lease, FakeLabeller("fake", SPEC), run)
    (corpus / "new.png").write_bytes(png(99))
    leases = plan_leases(list_shards(str(corpus)))
    with pytest.raises(RunError, match="another folder-000000"):
        subtract_receipts(leases, read_receipts(run.url, run.stage), run)


def test_progress_counts_up_to_the_receipt(lease: Lease, tmp_path: Path) -> None:
    events: list[LeaseProgress] = []
    label_lease(lease, FakeLabeller("fake", SPEC), make_run(tmp_path), events.append)
    labelled = [event.labelled for event in events]
    assert labelled == sorted(labelled)
    assert {event.planned for event in events} == {20}
    assert (events[-1].labelled, events[-1].quarantined, events[-1].finished) == (19, 1, True)


class FailsOn(FakeLabeller):
    """Raises for batches that contain one of the keys."""

    bad: tuple[str, ...] = ("004", "012")

    def __call__(self, images: list[np.ndarray], keys: list[str]) -> list[Label]:
        if set(keys) & set(self.bad):
            raise RuntimeError(f"cannot bear {keys}")
        return super().__call__(images, keys)


def test_an_image_the_labeller_fails_on_is_quarantined_alone(lease: Lease, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    receipt = label_lease(lease, FailsOn("fake", SPEC), run)
    assert receipt.labelled == 17
    assert receipt.quarantined == {"corrupt_image": 1, "label_error": 2}
    rows = pq.read_table(run.quarantine_url(lease.id)).to_pylist()
    assert [row["key"] for row in rows] == ["004", "007", "012"]
    assert "cannot bear ['004']" in rows[0]["error"]
    assert "Traceback" in rows[0]["traceback"]


def test_a_shard_that_has_gone_is_an_error_and_not_one_bad_image(lease: Lease, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    gone = replace(lease, shard=replace(lease.shard, url=str(tmp_path / "gone.tar"), kind="tar"))
    with pytest.raises(FileNotFoundError, match=r"gone\.tar"):
        label_lease(gone, FakeLabeller("fake", SPEC), run)
    assert run.find_receipt(gone) is None and not Path(run.quarantine_url(gone.id)).exists()


def test_a_broken_labeller_quarantines_nothing(lease: Lease, tmp_path: Path) -> None:
    def broken(images: list[np.ndarray], keys: list[str]) -> list[Label]:
        raise RuntimeError("device lost")

    run = make_run(tmp_path / "run")
    before = threading.active_count()
    with pytest.raises(LabellerBroken, match="device lost"):
        label_lease(lease, broken, run)
    assert files(tmp_path / "run") == {}
    assert threading.active_count() == before
    assert label_lease(lease, FakeLabeller("fake", SPEC), run).labelled == 19


def test_a_labeller_that_computes_no_numbers_does_not_quarantine_a_corpus(tmp_path: Path) -> None:
    (tmp_path / "000000.tar").write_bytes(make_corpus_tar(range(40)))
    (lease,) = plan_leases(list_shards(str(tmp_path)))

    class Overflowing(FakeLabeller):
        def __call__(self, images: list[np.ndarray], keys: list[str]) -> list[Label]:
            if keys != ["probe"] and set(keys) & broken:
                raise FloatingPointError("the model paints no background of finite numbers")
            return super().__call__(images, keys)

    broken = {f"{n:06d}" for n in range(40)}
    run = make_run(tmp_path / "run")
    with pytest.raises(LabellerBroken, match="none of the first 16 images can be labelled: the model paints no"):
        label_lease(lease, Overflowing("fake", SPEC), run)
    assert run.find_receipt(lease) is None
    broken = {f"{n:06d}" for n in range(10, 40)}
    receipt = label_lease(lease, Overflowing("fake", SPEC), run)
    assert (receipt.labelled, receipt.quarantined) == (10, {"label_error": 30})


def test_a_lease_without_good_samples_writes_an_empty_label_file(tmp_path: Path) -> None:
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "000000.tar").write_bytes(b"")
    (lease,) = plan_leases(list_shards(str(tmp_path / "corpus")))
    run = make_run(tmp_path / "run")
    receipt = label_lease(lease, FakeLabeller("fake", SPEC), run)
    assert (receipt.labelled, receipt.quarantined) == (0, {"empty": 1})
    assert pq.read_table(run.labels_url(lease.id)).num_rows == 0


def leave_death(run: LabelRun, lease: Lease, number: int) -> None:
    """What a worker leaves in the run directory when it is killed while writing."""
    token = f"{number:032x}"
    storage.touch(storage.join(run.url, ATTEMPTS, f"{lease.id}~{run.session}-{token}"))
    storage.touch(storage.temporary_url(run.labels_url(lease.id), token))
    storage.touch(storage.temporary_url(run.receipt_url(lease.id), token))


def test_a_lease_that_kills_even_when_listed_is_not_opened_again(lease: Lease, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    for number in range(5):
        leave_death(run, lease, number)
    receipt = label_lease(lease, FakeLabeller("fake", SPEC), run)
    assert receipt.quarantined == {"worker_died": 1}
    assert pq.read_table(run.quarantine_url(lease.id)).to_pylist()[0]["key"] == ""


def test_deaths_of_earlier_sessions_do_not_count_and_are_swept_up(lease: Lease, tmp_path: Path) -> None:
    for number in range(9):
        leave_death(make_run(tmp_path / "run", session="old"), lease, number)
    receipt = label_lease(lease, FakeLabeller("fake", SPEC), make_run(tmp_path / "run", session="new"))
    assert receipt.labelled == 19
    assert sorted(files(tmp_path / "run")) == ["folder-000000.json", "folder-000000.parquet"]


def test_a_quarantine_file_of_before_goes_when_nothing_is_bad_any_more(corpus: Path, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    (lease,) = plan_leases(list_shards(str(corpus)))
    label_lease(lease, FakeLabeller("fake", SPEC), run)
    assert storage.exists(run.quarantine_url(lease.id))
    (corpus / "007.png").write_bytes(png(7))
    storage.remove(run.receipt_url(lease.id))
    assert label_lease(lease, FakeLabeller("fake", SPEC), run).labelled == 20
    assert not storage.exists(run.quarantine_url(lease.id))


def test_a_lease_is_labelled_onto_an_object_store(lease: Lease) -> None:
    run = make_run(f"memory://run-{lease.id}")
    receipt = label_lease(lease, FakeLabeller("fake", SPEC), run)
    assert read_receipts(run.url, run.stage) == {lease.id: receipt}
    assert storage.list_names(storage.join(run.url, "preliminary")) == [
        f"{lease.id}.json",
        f"{lease.id}.parquet",
    ]


def test_receipts_show_no_credentials(tmp_path: Path) -> None:
    storage.atomic_put(png(1), "memory://key:secret@bucket/one.png")
    (lease,) = plan_leases(list_shards("memory://key:secret@bucket"))
    receipt = label_lease(lease, FakeLabeller("fake", SPEC), make_run(tmp_path / "run"))
    assert receipt.labelled == 1
    assert "secret" not in (tmp_path / "run" / "preliminary" / f"{lease.id}.json").read_text()


def test_a_batch_of_large_images_ends_early(lease: Lease, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.run.shard.MAX_BATCH_PIXELS", 3000)
    pixels: list[int] = []

    class Watched(FakeLabeller):
        def __call__(self, images: list[np.ndarray], keys: list[str]) -> list[Label]:
            pixels.append(sum(image.shape[0] * image.shape[1] for image in images))
            return super().__call__(images, keys)

    assert label_lease(lease, Watched("fake", SPEC), make_run(tmp_path, batch_size=8)).labelled == 19
    assert max(pixels) <= 3000 and len(pixels) < 19


def test_coarse_labels_leave_what_the_refined_could_not_label_where_it_was(lease: Lease, tmp_path: Path) -> None:
    refined = replace(make_run(tmp_path / "run"), stage="refined")
    assert label_lease(lease, FailsOn("fake", SPEC), refined).quarantined == {"corrupt_image": 1, "label_error": 2}
    before = Path(refined.quarantine_url(lease.id)).read_bytes()
    coarse = make_run(tmp_path / "run")
    assert label_lease(lease, FakeLabeller("fake", SPEC), coarse).quarantined == {"corrupt_image": 1}
    assert Path(refined.quarantine_url(lease.id)).read_bytes() == before
    assert len(pq.read_table(coarse.quarantine_url(lease.id))) == 1
