"""`--retry-quarantined`: what failed is tried again after a fix, and nothing else is touched."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from engine import storage
from engine.corpus.catalogue import list_shards
from engine.corpus.lease import Lease, plan_leases
from engine.distillation.spec import DistillationSpec
from engine.labelling.label import Label
from engine.labelling.spec import Stage
from engine.run.attempts import ATTEMPTS, MAX_ALONE, MAX_DEATHS
from engine.run.directory import LabelRun, RunError, start_run
from engine.run.fake import FakeLabeller, FakeSource
from engine.run.plan import LabelPlan, plan_labelling
from engine.run.shard import Labels, label_lease
from engine.run.summary import FAILURES_SHOWN, Outcome
from schemas.receipt import Receipt
from tests.corpus.hostile import draw_noise, encode, make_tar
from tests.run.test_shard import SPEC

Finish = Callable[..., list[Receipt]]


class Seeing(FakeLabeller):
    """Remembers the keys that it was shown, and fails on those of `bad`."""

    bad: tuple[str, ...] = ()

    def __init__(self) -> None:
        super().__init__("fake", SPEC)
        self.keys: list[str] = []

    def __call__(self, images: list[np.ndarray], keys: list[str]) -> list[Label]:
        if set(keys) & set(self.bad):
            raise RuntimeError("not this one")
        self.keys += keys
        return super().__call__(images, keys)


def write_shard(path: Path, numbers: range, broken: tuple[int, ...] = ()) -> None:
    members = [(f"{n:06d}.png", b"broken" if n in broken else encode(draw_noise(n))) for n in numbers]
    path.write_bytes(make_tar(members))


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    folder = tmp_path / "corpus"
    folder.mkdir()
    write_shard(folder / "000000.tar", range(6), broken=(2, 4))
    write_shard(folder / "000001.tar", range(10, 16))
    return folder


def make_plan(corpus: Path, run: Path, *, retry: bool = False, stage: Stage = "preliminary") -> LabelPlan:
    return plan_labelling(
        spec=SPEC.at(stage),
        source=FakeSource(),
        input_url=str(corpus),
        run_url=str(run),
        distillation=DistillationSpec(),
        retry=retry,
    )


def finish(plan: LabelPlan, labeller: Labels) -> list[Receipt]:
    start_run(plan.run.url, plan.manifest)
    return [label_lease(lease, labeller, plan.run) for lease in plan.remaining]


def rows(run: Path) -> dict[str, dict]:
    tables = [pq.read_table(path) for path in sorted((run / "preliminary").glob("*.parquet"))]
    return {row["key"]: row for table in tables for row in table.to_pylist()}


def test_only_what_failed_is_shown_to_the_labeller_again(corpus: Path, tmp_path: Path) -> None:
    run, labeller = tmp_path / "run", Seeing()
    labeller.bad = ("000003", "000012")
    finish(make_plan(corpus, run), labeller)
    before = {path.name: path.read_bytes() for path in (run / "preliminary").glob("*.parquet")}
    old = rows(run)
    assert len(old) == 12 - 4
    mended = Seeing()
    plan = make_plan(corpus, run, retry=True)
    (first, second) = finish(plan, mended)
    assert mended.keys == ["000003", "000012"]
    assert first.quarantined == {"corrupt_image": 2} and second.quarantined == {}
    assert (first.kept, second.kept) == (3, 5)
    assert not storage.exists(plan.run.quarantine_url("000001")), "its row has gone"
    assert [row["key"] for row in pq.read_table(plan.run.quarantine_url("000000")).to_pylist()] == ["000002", "000004"]
    assert {key: row for key, row in rows(run).items() if key in old} == old
    finish(make_plan(corpus, tmp_path / "clean"), FakeLabeller("fake", SPEC))
    for name in before:
        clean = (tmp_path / "clean" / "preliminary" / name).read_bytes()
        assert (run / "preliminary" / name).read_bytes() == clean, "as if it had never failed"


def test_without_the_option_quarantine_is_left_alone(corpus: Path, tmp_path: Path) -> None:
    finish(make_plan(corpus, tmp_path / "run"), Seeing())
    assert make_plan(corpus, tmp_path / "run").remaining == []
    assert [lease.id for lease in make_plan(corpus, tmp_path / "run", retry=True).remaining] == ["000000"]


def test_images_that_were_mended_are_labelled_in_their_old_place(corpus: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    finish(make_plan(corpus, run), Seeing())
    write_shard(corpus / "000000.tar", range(6))
    with pytest.raises(RunError, match="--retry-quarantined"):
        make_plan(corpus, run)
    labeller = Seeing()
    (receipt,) = finish(make_plan(corpus, run, retry=True), labeller)
    assert labeller.keys == ["000002", "000004"]
    assert (receipt.labelled, receipt.quarantined) == (6, {})
    assert make_plan(corpus, run).remaining == [], "the run now belongs to the mended corpus"
    finish(make_plan(corpus, tmp_path / "clean"), Seeing())
    assert rows(run) == rows(tmp_path / "clean")


def test_images_of_the_sample_are_tried_again_as_long_as_the_fine_tuning_is_to_be_done(
    corpus: Path, tmp_path: Path
) -> None:
    run, labeller = tmp_path / "run", Seeing()
    sample = make_plan(corpus, run, stage="refined").sample
    assert sample and finish(sample, Seeing())
    write_shard(corpus / "000000.tar", range(6))
    with pytest.raises(RunError, match="--retry-quarantined"):
        make_plan(corpus, run, stage="refined")
    sample = make_plan(corpus, run, stage="refined", retry=True).sample
    assert sample and [receipt.labelled for receipt in finish(sample, labeller)] == [6]
    assert labeller.keys == ["000002", "000004"]
    sample = make_plan(corpus, run, stage="refined").sample
    assert sample and sample.remaining == []


def test_a_shard_without_bad_images_must_not_change(corpus: Path, tmp_path: Path) -> None:
    finish(make_plan(corpus, tmp_path / "run"), Seeing())
    write_shard(corpus / "000001.tar", range(10, 20))
    with pytest.raises(RunError, match=r"another 000001\.tar"):
        make_plan(corpus, tmp_path / "run", retry=True)


def test_every_part_of_a_mended_shard_is_brought_up_to_date(corpus: Path, tmp_path: Path) -> None:
    """Samples that come anew may move others to another part: each part keeps what is still its own."""
    run = replace(make_plan(corpus, tmp_path / "run").run, session="first")

    def parts() -> list[Lease]:
        (shard, _) = list_shards(str(corpus))
        return [Lease(shard=shard, part=part, parts=2) for part in range(2)]

    members = [("000000.png", encode(draw_noise(0))), ("000001.txt", b"no image"), ("000002.png", b"broken")]
    members += [(f"{n:06d}.png", encode(draw_noise(n))) for n in range(3, 7)]
    (corpus / "000000.tar").write_bytes(make_tar(members))
    for lease in parts():
        label_lease(lease, Seeing(), run)
    del members[1]
    members[1] = ("000002.png", encode(draw_noise(2)))
    (corpus / "000000.tar").write_bytes(make_tar(members))
    labeller, again = Seeing(), replace(run, session="second", retry=True)
    receipts = [label_lease(lease, labeller, again) for lease in parts()]
    assert sum(receipt.labelled for receipt in receipts) == 6
    assert sorted(rows(tmp_path / "run")) == [f"{n:06d}" for n in (0, 2, 3, 4, 5, 6)]


def test_a_retry_that_is_killed_goes_on_either_way(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for again in (True, False):
        run, labeller = tmp_path / f"run-{again}", Seeing()
        labeller.bad = ("000003",)
        finish(make_plan(corpus, run), labeller)

        def killed(*arguments: object, **options: object) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(storage, "atomic_put", killed)
            plan = make_plan(corpus, run, retry=True)
            label_lease(plan.remaining[0], Seeing(), plan.run)
        assert [lease.id for lease in make_plan(corpus, run).remaining] == ["000000"]
        finish(make_plan(corpus, run, retry=again), Seeing())
        assert len(rows(run)) == 10


def test_a_lease_is_tried_again_once_in_a_session(corpus: Path, tmp_path: Path) -> None:
    finish(make_plan(corpus, tmp_path / "run"), Seeing())
    plan = make_plan(corpus, tmp_path / "run", retry=True)
    (receipt,) = finish(plan, Seeing())
    assert receipt.failed == 2

    def never(images: list[np.ndarray], keys: list[str]) -> list[Label]:
        raise AssertionError

    assert finish(plan, never) == [receipt], "a second worker of the same session leaves it at that"


def test_a_retry_labels_all_where_the_rows_are_gone(corpus: Path, tmp_path: Path) -> None:
    run: LabelRun = make_plan(corpus, tmp_path / "run").run
    (lease, _) = plan_leases(list_shards(str(corpus)))
    label_lease(lease, Seeing(), run)
    storage.remove(run.labels_url(lease.id))
    assert label_lease(lease, Seeing(), replace(run, session="second", retry=True)).labelled == 4


def test_a_retry_of_a_shard_that_kills_workers_before_its_first_image_keeps_its_rows(
    corpus: Path, tmp_path: Path
) -> None:
    run: LabelRun = make_plan(corpus, tmp_path / "run").run
    (lease, _) = plan_leases(list_shards(str(corpus)))
    label_lease(lease, Seeing(), run)
    before = pq.read_table(run.labels_url(lease.id))
    for number in range(MAX_DEATHS + MAX_ALONE):
        storage.touch(storage.join(run.url, ATTEMPTS, f"{lease.id}~second-{number}"))
    receipt = label_lease(lease, Seeing(), replace(run, session="second", retry=True))
    assert pq.read_table(run.labels_url(lease.id)).equals(before)
    assert (receipt.labelled, receipt.kept, receipt.quarantined) == (4, 4, {"worker_died": 1})


def test_a_retry_that_kills_workers_still_leaves_alone_what_has_a_row(corpus: Path, tmp_path: Path) -> None:
    run, labeller, again = make_plan(corpus, tmp_path / "run").run, Seeing(), Seeing()
    (lease, _) = plan_leases(list_shards(str(corpus)))
    labeller.bad = ("000003",)
    label_lease(lease, labeller, run)
    for number in range(MAX_DEATHS):
        storage.touch(storage.join(run.url, ATTEMPTS, f"{lease.id}~second-{number}"))
    receipt = label_lease(lease, again, replace(run, session="second", retry=True))
    assert again.keys == ["000003"]
    assert (receipt.seen, receipt.labelled, receipt.kept) == (6, 4, 3)


def test_the_summary_counts_as_new_what_this_start_has_looked_at(corpus: Path, tmp_path: Path) -> None:
    finish(make_plan(corpus, tmp_path / "run"), Seeing())
    plan = make_plan(corpus, tmp_path / "run", retry=True)
    (receipt,) = finish(plan, Seeing())
    done = {**plan.receipts, receipt.lease_id: receipt}
    outcome = Outcome(plan=plan, receipts=done, failed_leases={}, seconds=4.0)
    assert (outcome.seen, outcome.new, outcome.quarantined) == (12, 2, 2)
    assert "2 in 4 s (0.5 images/s) after 0 s of loading, 10 before" in outcome.describe()
    assert outcome.failed(0.1) and not outcome.failed(0.2)
    assert not replace(outcome, receipts=plan.receipts).failed(0.0), "nothing is in quarantine"


def test_the_summary_of_a_corpus_that_is_gone_names_some_of_the_leases(corpus: Path, tmp_path: Path) -> None:
    plan = make_plan(corpus, tmp_path / "run")
    failed = {f"{n:06d}": f"FileNotFoundError: {n}" for n in range(1000)}
    lines = Outcome(plan=plan, receipts={}, failed_leases=failed).describe().splitlines()
    shown = [line for line in lines if line.startswith("failed")]
    assert shown[0] == "failed       000000: FileNotFoundError: 0"
    assert shown[-1] == f"failed       and {1000 - FAILURES_SHOWN} more leases" and len(shown) == FAILURES_SHOWN + 1


def test_the_summary_counts_the_flags_of_all_leases_the_most_first(corpus: Path, tmp_path: Path) -> None:
    plan = make_plan(corpus, tmp_path / "run")
    receipts = finish(plan, Seeing())
    flags = [{"absent": 2, "covers_most": 3}, {"absent": 2}]
    done = {receipt.lease_id: replace(receipt, flags=own) for receipt, own in zip(receipts, flags, strict=True)}
    outcome = Outcome(plan=plan, receipts=done, failed_leases={})
    assert "\nflags        absent 4, covers_most 3\n" in outcome.describe()
    unflagged = {lease: replace(receipt, flags={}) for lease, receipt in done.items()}
    assert "flags" not in replace(outcome, receipts=unflagged).describe()
