from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from engine.corpus import CorpusError, Defect, Lease, Sample, Shard, list_shards, open_lease, plan_leases
from engine.corpus import lease as lease_module
from engine.corpus.lease import AT_ONCE
from engine.corpus.source import Source, open_source
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


class TestCounting:
    """With a limit, shards are opened to count their samples."""

    @pytest.fixture
    def opened(self, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        """The names of the shards that are opened; `most` is how many at once."""
        names: list[str] = []
        self.now, self.most = 0, 0
        lock = threading.Lock()

        def open_slowly(shard: Shard, *arguments: Any) -> Source:
            with lock:
                names.append(shard.name)
                self.now += 1
                self.most = max(self.most, self.now)
            time.sleep(0.03)
            with lock:
                self.now -= 1
            return open_source(shard, *arguments)

        monkeypatch.setattr(lease_module, "open_source", open_slowly)
        return names

    def make(self, folder: Path, sizes: list[int]) -> list[Shard]:
        for number, size in enumerate(sizes):
            members = [(f"{number}-{image}.jpg", b"x") for image in range(size)]
            (folder / f"{number:02d}.tar").write_bytes(make_tar(members))
        return list_shards(str(folder))

    def test_several_are_opened_at_once_and_none_too_many(self, tmp_path: Path, opened: list[str]) -> None:
        shards = self.make(tmp_path, [7] * 20)
        leases = plan_leases(shards, limit=45)
        assert [(lease.id, lease.limit) for lease in leases] == [(f"{n:02d}", None if n < 6 else 3) for n in range(7)]
        assert sorted(opened) == [f"{n:02d}.tar" for n in range(7)]
        assert self.most == AT_ONCE

    def test_the_first_is_opened_alone(self, tmp_path: Path, opened: list[str]) -> None:
        shards = self.make(tmp_path, [7] * 20)
        assert plan_leases(shards, limit=3) == [Lease(shard=shards[0], limit=3)]
        assert opened == ["00.tar"]

    @pytest.mark.parametrize("sizes", [[1, 50, 1, 1, 1, 1, 50, 1], [50, 1, 1, 1, 1, 1, 1, 1, 1], [0, 0, 0, 0, 0, 0, 3]])
    def test_of_uneven_shards_few_are_opened_in_vain(self, tmp_path: Path, opened: list[str], sizes: list[int]) -> None:
        shards = self.make(tmp_path, sizes)
        for limit in {1, 2, 50, 51, 54, sum(sizes), sum(sizes) + 1}:
            del opened[:]
            leases = plan_leases(shards, limit=limit)
            assert sum(isinstance(item, Sample) for item in read(leases)) == min(limit, sum(sizes))
            assert len(opened) < len(leases) + AT_ONCE

    def test_what_is_known_is_not_opened(self, tmp_path: Path, opened: list[str]) -> None:
        shards = self.make(tmp_path, [7] * 20)
        plain = plan_leases(shards, limit=45)
        del opened[:]
        assert plan_leases(shards, limit=45, known=lambda lease: None if lease.id == "03" else 7) == plain
        assert opened == ["03.tar"]

    def test_a_part_of_which_nothing_is_known_has_its_shard_counted_once(
        self, tmp_path: Path, opened: list[str]
    ) -> None:
        shards = self.make(tmp_path, [9, 9])
        plain = plan_leases(shards, limit=15, target_bytes=4_000)
        del opened[:]
        known = {"00-00000": 3, "00-00001": 3, "00-00002": 3}
        assert plan_leases(shards, limit=15, target_bytes=4_000, known=lambda lease: known.get(lease.id)) == plain
        assert opened == ["01.tar"]

    def test_an_error_of_the_store_ends_the_planning(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        shards = self.make(tmp_path, [7] * 20)

        def fail(shard: Shard, *arguments: Any) -> Source:
            if shard.name == "02.tar":
                raise OSError("the store is out of reach")
            return open_source(shard, *arguments)

        monkeypatch.setattr(lease_module, "open_source", fail)
        with pytest.raises(OSError, match="out of reach"):
            plan_leases(shards, limit=45)
