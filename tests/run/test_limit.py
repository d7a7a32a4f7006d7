"""A run with --limit over tars in an object store."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import fsspec
import numpy as np
import pytest
from PIL import Image

from engine.distillation.spec import DistillationSpec
from engine.labelling.spec import LabelSpec
from engine.run.counts import read_counts
from engine.run.directory import start_run
from engine.run.fake import FakeLabeller, FakeSource
from engine.run.plan import LabelPlan, plan_labelling
from engine.run.shard import label_lease
from schemas.receipt import Receipt
from tests.corpus.counting import count_fetched
from tests.corpus.hostile import make_tar

SPEC = LabelSpec(concept="car", prompt="a photo of a car", stage="preliminary")
SHARDS, EACH, LIMIT = 8, 5, 23


@pytest.fixture
def store() -> Iterator[fsspec.AbstractFileSystem]:
    """With tars at memory://some; the second has an image that does not decode, and a key without image."""
    store = fsspec.filesystem("memory")
    for shard in range(SHARDS):
        Image.fromarray(np.full((8, 8, 3), shard, np.uint8)).save(buffer := io.BytesIO(), format="PNG")
        members = [(f"{image}.png", buffer.getvalue()) for image in range(EACH)]
        if shard == 1:
            members[0] = ("0.png", b"no image")
            members.append(("x.txt", b""))
        store.pipe_file(f"/some/{shard}.tar", make_tar(members))
    yield store
    store.rm("/some", recursive=True)


def plan(run: Path, *, limit: int | None = LIMIT, retry: bool = False) -> tuple[LabelPlan, int]:
    """The plan, and how many tars were opened for it."""
    with count_fetched() as fetched:
        plan = plan_labelling(
            spec=SPEC,
            source=FakeSource(),
            input_url="memory://some",
            run_url=str(run),
            distillation=DistillationSpec(),
            limit=limit,
            retry=retry,
        )
    return plan, len(fetched)


def label(plan: LabelPlan, leases: int | None = None) -> None:
    start_run(plan.run.url, plan.manifest)
    for lease in plan.remaining[:leases]:
        label_lease(lease, FakeLabeller("fake", SPEC), plan.run)


def names(run: Path) -> set[str]:
    return {str(path) for path in run.rglob("*")}


def test_a_resume_opens_only_what_nobody_has_counted(store: fsspec.AbstractFileSystem, tmp_path: Path) -> None:
    first, opened = plan(tmp_path)
    assert opened == len(first.leases) == 5 and first.leases[-1].limit == 3
    assert names(tmp_path) == set(), "planning writes nothing"
    label(first, leases=2)
    there = names(tmp_path)
    resumed, opened = plan(tmp_path)
    assert opened == 3 and resumed.leases == first.leases and resumed.remaining == first.leases[2:]
    assert names(tmp_path) == there
    label(resumed)
    done, opened = plan(tmp_path)
    assert opened == 0 and done.leases == first.leases and done.done


def test_a_larger_limit_opens_no_shard_that_was_counted_and_a_smaller_one_none(
    store: fsspec.AbstractFileSystem, tmp_path: Path
) -> None:
    first, _ = plan(tmp_path)
    label(first)
    larger, opened = plan(tmp_path, limit=LIMIT + EACH)
    # The shard that was cut short holds as many as it did.
    assert opened == 1 and [lease.id for lease in larger.remaining] == ["4", "5"]
    assert plan(tmp_path / "other", limit=LIMIT + EACH)[0].leases == larger.leases
    assert plan(tmp_path, limit=LIMIT - EACH)[1] == 0


def test_a_shard_with_samples_in_quarantine_is_counted_anew_where_it_may_have_been_mended(
    store: fsspec.AbstractFileSystem, tmp_path: Path
) -> None:
    label(plan(tmp_path)[0])
    again, opened = plan(tmp_path, retry=True)
    assert opened == 1 and [lease.id for lease in again.remaining] == ["1"]


def test_a_receipt_of_another_shard_or_of_an_earlier_version_tells_nothing(
    store: fsspec.AbstractFileSystem, tmp_path: Path
) -> None:
    first, _ = plan(tmp_path)
    label(first)
    (lease, *_) = first.leases
    assert read_counts(first.run)(lease) == EACH
    assert read_counts(first.run)(replace(lease, shard=replace(lease.shard, size=1))) is None
    url = Path(first.run.receipt_url(lease.id))
    told = url.read_text()
    url.write_text(replace(Receipt.from_json(told), samples=None).to_json())
    assert read_counts(first.run)(lease) is None
    refined = Path(replace(first.run, stage="refined").receipt_url(lease.id))
    refined.parent.mkdir()
    refined.write_text(told)
    assert read_counts(first.run)(lease) == EACH, "receipts of either stage tell"
