from __future__ import annotations

import json
from pathlib import Path

import pytest

from engine.corpus import CorpusError, Defect, Lease, Sample, Shard, list_shards, open_lease, plan_leases
from tests.corpus.hostile import make_corpus_tar, make_tar


@pytest.fixture
def corpus(tmp_path: Path) -> str:
    (tmp_path / "a.tar").write_bytes(make_corpus_tar(range(7)))
    (tmp_path / "b.tar").write_bytes(make_tar([("junk.md", b"")]) + b"tail")
    (tmp_path / "c.tar").write_bytes(make_corpus_tar(range(20, 25)))
    return str(tmp_path)


def read(leases: list[Lease]) -> list[Sample | Defect]:
    found: list[Sample | Defect] = []
    for lease in leases:
        with open_lease(lease) as reader:
            items = list(reader)
            assert len(items) == reader.planned
        found += items
    return found


def identities(items: list[Sample | Defect]) -> list[tuple[str, str]]:
    return sorted((item.shard, item.key) for item in items)


def test_small_shards_are_one_lease_each(corpus: str) -> None:
    leases = plan_leases(list_shards(corpus))
    assert [lease.id for lease in leases] == ["a", "b", "c"]
    assert len(read(leases)) == 7 + 2 + 5


@pytest.mark.parametrize("target_bytes", [10_000, 20_000, 3_000])
def test_parts_partition_a_shard_exactly(corpus: str, target_bytes: int) -> None:
    shards = list_shards(corpus)
    leases = plan_leases(shards, target_bytes=target_bytes)
    assert len(leases) > 3
    assert leases[1].id == "a-00001"
    assert identities(read(leases)) == identities(read(plan_leases(shards)))


@pytest.mark.parametrize(("parts", "sizes"), [(1, [7]), (2, [4, 3]), (3, [3, 2, 2]), (9, [1] * 7 + [0] * 2)])
def test_parts_are_stretches_of_equal_number(corpus: str, parts: int, sizes: list[int]) -> None:
    shard = list_shards(corpus)[0]
    found = [[item.key for item in read([Lease(shard=shard, part=part, parts=parts)])] for part in range(parts)]
    assert [len(own) for own in found] == sizes
    assert [key for own in found for key in own] == [f"{n:06d}" for n in range(7)]


def test_a_limit_ends_a_part_after_so_many_of_its_samples(corpus: str) -> None:
    first, second, _ = list_shards(corpus)
    assert [item.key for item in read([Lease(shard=first, part=1, parts=2, limit=2)])] == ["000004", "000005"]
    assert len(read([Lease(shard=first, part=1, parts=2, limit=3)])) == 3
    assert [item.key for item in read([Lease(shard=second, limit=1)])] == ["junk", ""], "no sample, so no end"


def test_parts_before_a_limit_are_as_they_are_without_one(corpus: str) -> None:
    shards = list_shards(corpus)
    whole = plan_leases(shards, target_bytes=5_000)
    cut = plan_leases(shards, target_bytes=5_000, limit=5)
    assert len(cut) > 2 and cut[:-1] == whole[: len(cut) - 1]
    assert read(cut) == read(whole)[:5]
    held = len(read(whole[:2]))
    assert plan_leases(shards, target_bytes=5_000, limit=held) == whole[:2], "they are done, whatever the limit becomes"


def test_defects_of_the_shard_belong_to_the_first_part(corpus: str) -> None:
    shard = list_shards(corpus)[1]
    parts = [read([Lease(shard=shard, part=part, parts=2)]) for part in range(2)]
    assert [[item.key for item in items] for items in parts] == [["junk", ""], []]


@pytest.mark.parametrize("target_bytes", [1 << 30, 10_000])
@pytest.mark.parametrize("limit", [1, 3, 7, 8, 11, 12, 100])
def test_a_limit_gives_the_first_samples_however_shards_are_split(corpus: str, limit: int, target_bytes: int) -> None:
    leases = plan_leases(list_shards(corpus), limit=limit, target_bytes=target_bytes)
    samples = [item for item in read(leases) if isinstance(item, Sample)]
    everything = [("a.tar", f"{n:06d}") for n in range(7)] + [("c.tar", f"{n:06d}") for n in range(20, 25)]
    assert identities(list(samples)) == everything[:limit]
    assert all(open_lease(lease).planned for lease in leases if lease.limit)


def test_a_limit_does_not_change_how_a_shard_is_split(corpus: str) -> None:
    shards = list_shards(corpus)
    plain = plan_leases(shards, target_bytes=10_000)
    limited = plan_leases(shards, target_bytes=10_000, limit=5)
    assert {(lease.id, lease.parts) for lease in limited} <= {(lease.id, lease.parts) for lease in plain}


def test_a_limit_below_one_is_refused(corpus: str) -> None:
    with pytest.raises(CorpusError, match="0"):
        plan_leases(list_shards(corpus), limit=0)


def test_a_part_that_would_be_named_like_a_shard_is_refused() -> None:
    shards = [
        Shard(url="/x/a.tar", name="a.tar", size=100, kind="tar"),
        Shard(url="/x/a-00001.tar", name="a-00001.tar", size=10, kind="tar"),
    ]
    with pytest.raises(CorpusError, match="a-00001"):
        plan_leases(shards, target_bytes=50)


def test_a_lease_survives_json() -> None:
    shard = Shard(url="/x", name="folder-000000", size=3, kind="folder", members=("a.jpg", "ü.png"))
    lease = Lease(shard=shard, part=2, parts=5, limit=9)
    assert Lease.from_json(json.loads(json.dumps(lease.to_json()))) == lease


def test_files_that_are_never_read_are_counted_once_however_a_shard_is_split(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(make_tar([("a.jpg", b"1"), ("a.cls", b"2"), ("b.jpg", b"3")]))
    [shard] = list_shards(str(tmp_path))
    assert [open_lease(Lease(shard=shard, part=p, parts=2)).ignored for p in range(2)] == [{"cls": 1}, {}]
