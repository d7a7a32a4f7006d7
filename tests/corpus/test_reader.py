from __future__ import annotations

import json
import socket
from pathlib import Path

import fsspec
import pytest

from engine.corpus import Defect, Lease, Sample, list_shards, open_lease, plan_leases
from engine.corpus.decode import DecodeError, decode_image, decode_mask
from tests.corpus.counting import count_fetched
from tests.corpus.hostile import make_corpus_tar, make_tar, write_hostile_corpus


def read(url: str, *, masks: bool = False) -> list[Sample | Defect]:
    return [item for lease in plan_leases(list_shards(url)) for item in open_lease(lease, masks=masks)]


def test_hostile_corpus_gives_every_good_sample_and_the_reason_of_every_bad_one(tmp_path: Path) -> None:
    expected = write_hostile_corpus(tmp_path)
    good, bad = [], []
    for item in read(str(tmp_path)):
        if isinstance(item, Defect):
            bad.append((item.shard, item.key, item.reason))
            assert item.message.endswith(".")
            assert item.stage == "read"
            continue
        try:
            assert decode_image(item.image).shape == (48, 64, 3)
            good.append((item.shard, item.key))
        except DecodeError as error:
            bad.append((item.shard, item.key, error.reason))
    assert sorted(good) == expected["good"]
    assert sorted(bad) == expected["bad"]


def test_a_sample_has_its_caption_and_metadata_but_no_ground_truth_unless_asked(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(make_corpus_tar([4]))
    [sample] = read(str(tmp_path))
    assert isinstance(sample, Sample)
    assert (sample.shard, sample.key) == ("a.tar", "000004")
    assert (sample.caption, sample.metadata, sample.masks) == ("number 4", {"number": 4}, {})
    [sample] = read(str(tmp_path), masks=True)
    assert isinstance(sample, Sample)
    assert sorted(sample.masks) == ["", "red hat"]
    assert decode_mask(sample.masks[""]).shape == decode_image(sample.image).shape[:2]


@pytest.mark.parametrize("metadata", [b"", b"{", b"[1]", b"\xff\xfe", b"[" * 100_000])
def test_bad_metadata_and_captions_cost_nothing(tmp_path: Path, metadata: bytes) -> None:
    members = [("a.jpg", b"x"), ("a.json", metadata), ("a.txt", b"caf\xe9")]
    (tmp_path / "a.tar").write_bytes(make_tar(members))
    [sample] = read(str(tmp_path))
    assert isinstance(sample, Sample)
    assert sample.metadata == {}
    assert sample.caption == "caf\ufffd"


def test_a_shard_that_has_gone_or_shrunk_is_a_defect(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(make_corpus_tar([0, 1]))
    [shard] = list_shards(str(tmp_path))
    reader = open_lease(Lease(shard=shard))
    with path.open("r+b") as file:
        file.truncate(600)
    assert [(i.key, i.reason) for i in reader if isinstance(i, Defect)] == [
        ("000000", "truncated"),
        ("000001", "truncated"),
    ]
    path.unlink()
    [defect] = open_lease(Lease(shard=shard))
    assert isinstance(defect, Defect)
    assert (defect.key, defect.reason) == ("", "unreadable")
    with pytest.raises(FileNotFoundError, match=r"a\.tar"):
        open_lease(Lease(shard=shard), must_open=True)


def test_an_oversized_member_is_not_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.corpus.reader.LARGEST_MEMBER", 3)
    (tmp_path / "a.tar").write_bytes(make_tar([("a.jpg", b"1234"), ("b.jpg", b"123"), ("b.txt", b"1234")]))
    too_large, sample = read(str(tmp_path))
    assert isinstance(too_large, Defect)
    assert too_large.reason == "too_large"
    assert isinstance(sample, Sample)
    assert sample.caption is None


def test_remote_shards_are_read_whole_or_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    filesystem = fsspec.filesystem("memory")
    filesystem.pipe("/reader-test/a.tar", make_corpus_tar([0, 1, 2]))
    whole = read("memory://reader-test")
    monkeypatch.setattr("engine.remote._WHOLE", -1)
    assert read("memory://reader-test") == whole
    assert len(whole) == 3
    filesystem.rm("/reader-test", recursive=True)


class TestFolder:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        files = {
            "a.jpg": b"jpg",
            "a.png": b"png",
            "a.txt": b"a caption",
            "a.json": json.dumps({"n": 1}).encode(),
            "a.mask.png": b"mask",
            "a.fire truck.mask.png": b"truck",
            "IMG.0001.jpg": b"1",
            "IMG.0002.jpg": b"2",
            "IMG.0002.mask.png": b"mask 2",
            "sub/a.webp": b"other",
            "lonely.txt": b"",
            "lonely.mask.png": b"",
        }
        for name, content in files.items():
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_bytes(content)
        return tmp_path

    def test_finds_images_with_what_lies_beside_them(self, folder: Path) -> None:
        items = read(str(folder), masks=True)
        assert [(item.shard, item.key) for item in items] == [
            ("folder-000000", key) for key in ("IMG.0001", "IMG.0002", "a", "a", "sub/a")
        ]
        first, duplicate = items[2:4]
        assert isinstance(first, Sample)
        assert (first.image, first.caption, first.metadata) == (b"jpg", "a caption", {"n": 1})
        assert first.masks == {"": b"mask", "fire truck": b"truck"}
        assert isinstance(items[1], Sample)
        assert items[1].masks == {"": b"mask 2"}
        assert isinstance(duplicate, Defect)
        assert duplicate.reason == "duplicate_key"

    def test_an_image_that_vanished_is_a_defect(self, folder: Path) -> None:
        [shard] = list_shards(str(folder))
        (folder / "IMG.0001.jpg").unlink()
        item = next(iter(open_lease(Lease(shard=shard))))
        assert isinstance(item, Defect)
        assert (item.key, item.reason) == ("IMG.0001", "unreadable")

    @pytest.mark.parametrize("kind", ["ring", "socket"])
    def test_what_is_no_file_is_a_defect(self, folder: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
        [shard] = list_shards(str(folder))
        monkeypatch.chdir(folder)  # the path of a socket must be short
        Path("IMG.0001.jpg").unlink()
        if kind == "ring":
            Path("IMG.0001.jpg").symlink_to("IMG.0001.jpg")
        else:
            with socket.socket(socket.AF_UNIX) as server:
                server.bind("IMG.0001.jpg")
        first, second, *_ = open_lease(Lease(shard=shard))
        assert isinstance(first, Defect) and isinstance(second, Sample)
        assert (first.key, first.reason) == ("IMG.0001", "unreadable")

    def test_works_on_any_filesystem(self) -> None:
        filesystem = fsspec.filesystem("memory")
        filesystem.pipe("/folder-test/x/a.jpg", b"image")
        [sample] = read("memory://folder-test")
        assert isinstance(sample, Sample)
        assert (sample.key, sample.image) == ("x/a", b"image")
        filesystem.rm("/folder-test", recursive=True)


def test_a_link_that_leads_nowhere_is_a_defect(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").symlink_to(tmp_path / "gone.jpg")
    (tmp_path / "b.jpg").write_bytes(b"an image")
    gone, there = read(str(tmp_path))
    assert isinstance(gone, Defect) and (gone.key, gone.reason) == ("a", "unreadable") and "a.jpg" in gone.message
    assert isinstance(there, Sample) and there.key == "b"


def test_of_a_large_tar_in_a_store_each_worker_fetches_the_headers_once_and_each_part_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("engine.remote._WHOLE", 0)
    monkeypatch.setattr("engine.remote._PIECE", 4096)
    images = {f"{n:04d}.jpg": bytes([n]) * 9_000 for n in range(60)}
    data, parts = make_tar(list(images.items())), 12
    store = fsspec.filesystem("memory")
    store.pipe_file("/large/a.tar", data)
    try:
        [shard] = list_shards("memory://large")
        found = {}
        with count_fetched() as fetched:
            for part in range(parts):
                with open_lease(Lease(shard=shard, part=part, parts=parts)) as reader:
                    found |= {f"{item.key}.jpg": item.image for item in reader if isinstance(item, Sample)}
        assert found == images
        # The headers, and all between them; each part its own; and pieces that reach beyond what is asked for.
        assert sum(fetched) < 2.5 * len(data)
        store.pipe_file("/large/a.tar", make_tar([("z.jpg", b"x" * 9_000), ("y.jpg", b"y" * 9_000)]))
        with open_lease(Lease(shard=list_shards("memory://large")[0])) as reader:
            assert [item.key for item in reader] == ["z", "y"], "another file has another index"
    finally:
        store.rm("/large", recursive=True)
