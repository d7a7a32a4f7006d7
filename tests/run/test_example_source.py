"""Which images and labels a training is given, and how many of which lease."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from engine.corpus import Lease
from engine.corpus.catalogue import Shard
from engine.run.directory import RunError
from engine.run.example_source import ExampleSource, cut_sources, find_corpus
from engine.run.fake import FakeLabeller
from engine.run.shard import label_lease
from tests.run.origins import start_origin


def test_labels_of_shards_that_were_divided_in_another_way_are_not_joined_with_these(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.run.plan.LEASE_VERSION", 1)
    before = start_origin(tmp_path, labelled=True, shards=[range(6)])
    (lease,) = before.leases
    assert find_corpus(before.run.url, before.manifest, "refined", None).leases == [lease], "one part is one part"
    monkeypatch.undo()
    with pytest.raises(RunError, match=r"lease_version: 1 -> 2\): no settings of this program give the same results"):
        start_origin(tmp_path)
    halves = [replace(lease, part=part, parts=2) for part in range(2)]
    monkeypatch.setattr("engine.run.example_source.plan_leases", lambda shards: halves)
    Path(before.run.receipt_url(lease.id)).unlink()
    for half in halves:
        label_lease(half, FakeLabeller("fake", before.spec), before.run)
    with pytest.raises(RunError, match=r"divided large shards in another way \(lease_version 1, not 2\)"):
        find_corpus(before.run.url, before.manifest, "refined", None)


def source(name: str, counts: list[int], *, known: bool = True) -> ExampleSource:
    """A source with so many labels in each of its leases."""
    shards = [Shard(url=f"/{name}/{n}.tar", name=f"{n}.tar", size=1, kind="tar") for n in range(len(counts))]
    leases = [Lease(shard=shard) for shard in shards]
    given = tuple(counts) if known else ()
    return ExampleSource(name=name, labels="refined", labels_url=None, leases=leases, digest="", counts=given)


@pytest.mark.parametrize(
    ("corpus", "synthetic", "looks", "expected"),
    [
        ([2000], [64] * 16, 3200, (2000, 1024)),  # all fit
        ([600] * 100, [64] * 100, 16_000, (14_458, 1542)),
        ([600] * 1000, [64] * 1000, 3200, (2892, 308)),
        ([5] * 1000, [64] * 10, 1000, (887, 113)),
    ],
)
def test_examples_are_shared_out_in_proportion_to_the_labels_that_leases_have(
    corpus: list[int], synthetic: list[int], looks: int, expected: tuple[int, int]
) -> None:
    cut = cut_sources([source("corpus", corpus), source("synthetic", synthetic)], looks)
    given = [[min(pair) for pair in zip(own.wanted, own.counts, strict=True)] for own in cut]
    assert tuple(map(sum, given)) == pytest.approx(expected, abs=16)
    assert sum(map(sum, given)) == min(looks, sum(corpus) + sum(synthetic))
    for own, numbers in zip(cut, given, strict=True):
        assert len(own.wanted) == len(own.leases) and min(numbers) > 0


def test_few_examples_come_from_few_of_many_leases_and_as_many_of_each_where_nobody_knows_what_they_have() -> None:
    (usable,) = cut_sources([source("corpus", [0, 600] * 50)], 320)
    assert set(usable.counts) == {600}, "leases without labels are not opened"
    (few,) = cut_sources([source("corpus", [500] * 1000)], 320)
    assert few.wanted == (16,) * 20
    assert [lease.id for lease in few.leases] == [str(50 * n) for n in range(20)]
    (unknown,) = cut_sources([source("corpus", [500] * 10, known=False)], 320)
    assert unknown.wanted == (32,) * 10
