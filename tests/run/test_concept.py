"""The sample of the corpus that a concept is learned from."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path

import pytest

from engine.corpus import Lease, list_shards, open_lease, plan_leases
from engine.run.concept import plan_sample
from tests.corpus.hostile import make_corpus_tar

IMAGES, SHARDS = 40, 8


def write_leases(folder: Path, sizes: Sequence[int]) -> list[Lease]:
    """The leases of a corpus of shards with so many images each."""
    for shard, (size, end) in enumerate(zip(sizes, accumulate(sizes), strict=True)):
        (folder / f"{shard:06d}.tar").write_bytes(make_corpus_tar(list(range(end - size, end))))
    return plan_leases(list_shards(str(folder)))


@pytest.fixture(scope="module")
def leases(tmp_path_factory):
    return write_leases(tmp_path_factory.mktemp("corpus"), [IMAGES] * SHARDS)


def count(leases) -> int:
    return sum(len(list(open_lease(lease))) for lease in leases)


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
