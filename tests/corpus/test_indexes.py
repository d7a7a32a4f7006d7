from __future__ import annotations

import gzip
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import fsspec
import pytest

from engine import storage
from engine.corpus import Sample, indexes, list_shards, open_lease, plan_leases, tar
from engine.corpus.indexes import Headers, IndexFolder, headers_from_json, headers_to_json
from engine.corpus.lease import Lease
from engine.corpus.members import Member
from tests.corpus.counting import count_fetched
from tests.corpus.hostile import make_tar

PARTS = 7
IMAGES = {f"{n:04d}.jpg": n.to_bytes(2, "big") * 500 for n in range(840)}
URL = "memory://indexed/a.tar"


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.remote._WHOLE", 0)
    monkeypatch.setattr("engine.remote._PIECE", 4096)
    monkeypatch.setattr(indexes, "LOOK_EVERY", 0.01)


@pytest.fixture
def data() -> Iterator[bytes]:
    """Of a tar that lies at URL."""
    data = make_tar(list(IMAGES.items()))
    fsspec.filesystem("memory").pipe_file("/indexed/a.tar", data)
    yield data
    fsspec.filesystem("memory").rm("/indexed", recursive=True)


@pytest.fixture
def folder(tmp_path: Path) -> IndexFolder:
    return IndexFolder(url=str(tmp_path / ".indexes"))


def read(lease: Lease, folder: IndexFolder | None) -> dict[str, bytes]:
    """The images of a lease, as a process reads them that has not read any other."""
    tar._last_index.clear()
    with open_lease(lease, indexes=folder) as reader:
        return {f"{item.key}.jpg": item.image for item in reader if isinstance(item, Sample)}


def parts_of(url: str) -> list[Lease]:
    (shard,) = list_shards(url)
    return plan_leases([shard], target_bytes=-(-shard.size // PARTS))


def index_file(folder: IndexFolder) -> Path:
    return Path(folder.url) / "a.json.gz"


def test_of_a_large_tar_the_first_of_all_workers_reads_the_headers(data: bytes, folder: IndexFolder) -> None:
    leases = parts_of(URL)
    assert len(leases) == PARTS
    with count_fetched() as alone:
        plain = [read(lease, None) for lease in leases]
    with count_fetched() as shared:
        assert [read(lease, folder) for lease in leases] == plain
    assert {name: image for part in plain for name, image in part.items()} == IMAGES
    assert sum(alone) > PARTS * len(data)
    assert sum(shared) < 2.2 * len(data)
    assert storage.list_names(folder.url) == ["a.json.gz"], "nobody is at it any more"


def test_the_index_of_another_version_is_not_used(data: bytes, folder: IndexFolder) -> None:
    (lease, *_) = parts_of(URL)
    read(lease, folder)
    before = index_file(folder).read_bytes()
    other = make_tar([(name.replace("jpg", "png"), image) for name, image in IMAGES.items()])
    assert len(other) == len(data)
    fsspec.filesystem("memory").pipe_file("/indexed/a.tar", other)
    with count_fetched() as fetched:
        read(lease, folder)
    assert sum(fetched) > len(other)
    assert index_file(folder).read_bytes() != before
    with count_fetched() as fetched:
        assert read(lease, folder) == read(lease, None)


@pytest.mark.parametrize(
    "damaged",
    [
        b"",
        b"{}",
        gzip.compress(b"{"),
        gzip.compress(b"[]"),
        gzip.compress(b"[" * 100_000),
        gzip.compress(b'{"index_version": 1}'),
    ],
    ids=["empty", "no gzip", "no JSON", "a list", "too deep", "lacking"],
)
def test_a_damaged_index_is_made_anew(data: bytes, folder: IndexFolder, damaged: bytes) -> None:
    (lease, *_) = parts_of(URL)
    storage.atomic_put(damaged, str(index_file(folder)))
    found = read(lease, folder)
    assert found == read(lease, None) != {}
    with count_fetched() as fetched:
        assert read(lease, folder) == found
    assert sum(fetched) < 2 * len(data) / PARTS


def test_an_index_that_lacks_or_forges_places_is_damaged() -> None:
    headers = Headers(members=[Member(name="a.jpg", key="a", suffix="jpg", offset=512, size=3)])
    values = json.loads(gzip.decompress(headers_to_json(headers, "v")))
    for name, value in (
        ("sizes", []),
        ("sizes", [-1]),
        ("steps", [-1]),
        ("sizes", ["3"]),
        ("sizes", [3.0]),
        ("names", [1]),
    ):
        with pytest.raises((ValueError, TypeError, AttributeError)):
            headers_from_json(gzip.compress(json.dumps({**values, name: value}).encode()), "v")


def test_names_of_any_kind_come_back_as_they_were() -> None:
    def member(name: str, suffix: str, offset: int) -> Member:
        return Member(name=name, key=name.partition(".")[0], suffix=suffix, offset=offset, size=7)

    # Of no valid UTF-8, one after the other in any order, and sparse or only called so.
    named = [("b.jpg", "jpg"), ("caf\udce9.jpg", "jpg"), ("a.jpg", "jpg (sparse)"), ("c.jpg (sparse)", "jpg (sparse)")]
    members = [member(name, suffix, 1024 * (9 - place)) for place, (name, suffix) in enumerate(named)]
    assert headers_from_json(headers_to_json(Headers(members=members), "v"), "v").members == members


def test_a_damaged_tar_is_looked_at_anew_by_everybody(data: bytes, folder: IndexFolder) -> None:
    fsspec.filesystem("memory").pipe_file("/indexed/a.tar", data[: len(data) // 2])
    (lease, *_) = parts_of(URL)
    assert read(lease, folder) == read(lease, None) != {}
    assert storage.list_names(folder.url) == []


def test_an_index_that_cannot_be_kept_is_no_error(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    (lease, *_) = parts_of(URL)
    assert read(lease, IndexFolder(url=str(tmp_path / "file" / "below"))) == read(lease, None)


def test_who_only_reads_writes_nothing(data: bytes, folder: IndexFolder) -> None:
    (lease, *_) = parts_of(URL)
    looking = replace(folder, keeps=False)
    read(lease, looking)
    assert not Path(folder.url).exists()
    read(lease, folder)
    with count_fetched() as fetched:
        read(lease, looking)
    assert sum(fetched) < 2 * len(data) / PARTS


class TestAtOnce:
    headers = Headers(members=[Member(name="a.jpg", key="a", suffix="jpg", offset=512, size=3)])

    def make(self) -> Headers:
        self.made += 1
        time.sleep(0.1)
        return self.headers

    def share(self, folder: IndexFolder, workers: int) -> None:
        """What so many workers find who look at once."""
        self.made, found = 0, []
        threads = [
            threading.Thread(target=lambda: found.append(folder.share("a", "v", 1, self.make))) for _ in range(workers)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert found == [self.headers] * workers

    def test_one_reads_and_the_others_wait(self, folder: IndexFolder) -> None:
        self.share(folder, workers=6)
        assert self.made == 1

    @pytest.mark.parametrize("begun", [b"{}", b"", json.dumps({"token": "x", "version": "w", "time": 0}).encode()])
    def test_nobody_waits_for_the_dead(
        self, folder: IndexFolder, begun: bytes, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        storage.atomic_put(begun, storage.join(folder.url, "a.begun"))
        looked: list[str] = []
        monkeypatch.setattr(storage, "exists", looked.append)
        self.share(folder, workers=1)
        assert self.made == 1 and looked == []

    def test_whoever_ended_since_one_looked_is_believed(
        self, folder: IndexFolder, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        real = storage.create

        def create(data: bytes, url: str) -> None:
            storage.atomic_put(headers_to_json(self.headers, "v"), str(index_file(folder)))
            real(data, url)

        monkeypatch.setattr(storage, "create", create)
        self.share(folder, workers=1)
        assert self.made == 0 and storage.list_names(folder.url) == ["a.json.gz"]

    def test_a_mark_that_is_being_written_is_one(self, folder: IndexFolder, monkeypatch: pytest.MonkeyPatch) -> None:
        mark = {"token": "x", "version": indexes._hash("v"), "time": time.time()}
        storage.atomic_put(json.dumps(mark).encode(), storage.join(folder.url, "a.begun"))
        real, read = storage.read_bytes, []

        def read_bytes(url: str) -> bytes:
            if not url.endswith(".begun"):
                return real(url)
            read.append(url)
            if len(read) > 1:  # whoever made the mark has ended
                storage.atomic_put(headers_to_json(self.headers, "v"), str(index_file(folder)))
            return real(url) if len(read) > 1 else b""

        monkeypatch.setattr(storage, "read_bytes", read_bytes)
        self.share(folder, workers=1)
        assert self.made == 0

    def test_marks_of_the_dead_are_swept_up_and_indexes_stay(self, folder: IndexFolder) -> None:
        self.share(folder, workers=1)
        before = storage.list_names(folder.url)
        storage.atomic_put(b"{}", storage.join(folder.url, "b.begun"))
        folder.sweep()
        assert storage.list_names(folder.url) == before != []

    def test_one_that_takes_too_long_is_overtaken(self, folder: IndexFolder, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(indexes, "PATIENCE", 0.05)
        self.share(folder, workers=2)
        assert self.made == 2

    def test_one_that_fails_lets_the_others_go_on(self, folder: IndexFolder) -> None:
        def fail() -> Headers:
            raise OSError("the store is out of reach")

        with pytest.raises(OSError, match="out of reach"):
            folder.share("a", "v", 1, fail)
        assert storage.list_names(folder.url) == []
