from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFile, MemoryFileSystem

from engine.corpus import CorpusError, list_shards


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    for name in ("000001.tar", "000000.tar", "000010.tar", "README.md", "sub/000005.tar", ".000000.tar.tmp"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    return tmp_path


@pytest.fixture
def memory() -> Iterator[fsspec.AbstractFileSystem]:
    filesystem = fsspec.filesystem("memory")
    yield filesystem
    filesystem.rm("/corpus-test", recursive=True)


def names(url: str) -> list[str]:
    return [shard.name for shard in list_shards(url)]


def test_a_folder_of_tars_is_its_own_tars_sorted(corpus: Path) -> None:
    assert names(str(corpus)) == ["000000.tar", "000001.tar", "000010.tar"]
    assert names(f"{corpus}/") == names(f"file://{corpus}") == names(str(corpus))
    shard = list_shards(str(corpus))[1]
    assert (shard.url, shard.size, shard.kind, shard.stem) == (f"{corpus}/000001.tar", 10, "tar", "000001")


def test_patterns(corpus: Path) -> None:
    assert names(f"{corpus}/00000*.tar") == ["000000.tar", "000001.tar"]
    assert names(f"{corpus}/00000?.tar") == ["000000.tar", "000001.tar"]
    assert names(f"{corpus}/*") == ["000000.tar", "000001.tar", "000010.tar"]
    assert names(f"{corpus}/{{000000..000001}}.tar") == ["000000.tar", "000001.tar"]
    assert names(f"{corpus}/{{000010,sub/*}}.tar") == ["000010.tar", "000005.tar"]
    assert names(f"{corpus}/000010.tar") == ["000010.tar"]


def test_a_relative_path_becomes_absolute(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(corpus)
    assert list_shards("sub")[0].url == f"{corpus}/sub/000005.tar"


def test_a_pattern_may_begin_at_the_root(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"12345")
    first, rest = str(tmp_path)[1], str(tmp_path)[2:]
    (shard,) = list_shards(f"/[{first}]{rest}/*.jpg")
    assert (shard.url, shard.members) == ("/", (f"{str(tmp_path)[1:]}/a.jpg",))


@pytest.mark.parametrize("within", ["in", "in/", "in/*.tar", "in/{a,b}.tar", ""])
def test_the_account_of_a_container_stays_in_the_urls(within: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Container(MemoryFileSystem):
        """As adlfs does, leaves the account out of its paths."""

        store: ClassVar[dict] = {}
        pseudo_dirs: ClassVar[list] = [""]
        protocol = "abfs"

        @classmethod
        def _strip_protocol(cls, path: str) -> str:
            path = path.removeprefix("abfs://")
            host, _, rest = path.partition("/")
            return "/".join(filter(None, [host.partition("@")[0], *rest.split("/")]))

    fsspec.register_implementation("abfs", Container, clobber=True)
    folder = "tars/in" if within else "tars"
    for name in ("a.tar", "b.tar"):
        Container.store[f"{folder}/{name}"] = MemoryFile(Container(), f"{folder}/{name}", b"xyz")
    host = "abfs://tars@account.dfs.core.windows.net"
    shards = list_shards(f"{host}/{within}" if within else host)
    assert [shard.url for shard in shards] == [f"{host}{folder[4:]}/{name}" for name in ("a.tar", "b.tar")]


def test_a_name_with_pattern_letters_that_exists_is_taken_literally(tmp_path: Path) -> None:
    folder = tmp_path / "a[1] {x}"
    folder.mkdir()
    (folder / "0.tar").touch()
    assert names(str(folder)) == ["0.tar"]


def test_any_filesystem(memory: fsspec.AbstractFileSystem) -> None:
    for name in ("a.tar", "b.tar"):
        memory.pipe(f"/corpus-test/{name}", b"xyz")
    for url in ("memory://corpus-test", "memory://corpus-test/*.tar", "memory://corpus-test/{a,b}.tar"):
        shards = list_shards(url)
        assert [shard.url for shard in shards] == ["memory://corpus-test/a.tar", "memory://corpus-test/b.tar"]
        assert [shard.size for shard in shards] == [3, 3]


@pytest.mark.parametrize("may_list", [True, False])
def test_many_names_of_a_store_are_looked_for_in_one_list(
    memory: fsspec.AbstractFileSystem, monkeypatch: pytest.MonkeyPatch, may_list: bool
) -> None:
    for n in range(400):
        memory.pipe_file(f"/corpus-test/{n:06d}.tar", b"12345")
    asked: list[str] = []
    info, ls = MemoryFileSystem.info, MemoryFileSystem.ls

    def list_folder(self: MemoryFileSystem, path: str, **options: object) -> object:
        if may_list:
            return ls(self, path, **options)
        raise PermissionError("ListBucket")

    monkeypatch.setattr(MemoryFileSystem, "info", lambda self, path, **k: asked.append(path) or info(self, path, **k))
    monkeypatch.setattr(MemoryFileSystem, "ls", list_folder)
    shards = list_shards("memory://corpus-test/{000000..000399}.tar")
    assert [shard.name for shard in shards] == [f"{n:06d}.tar" for n in range(400)]
    assert {shard.size for shard in shards} == {5}
    assert len(asked) < 10 if may_list else len(asked) >= 400
    with pytest.raises(CorpusError, match=r"'/corpus-test/000400\.tar' \(and 1 more\) does not exist"):
        list_shards("memory://corpus-test/{000000..000401}.tar")


def test_a_folder_of_images_is_cut_into_virtual_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.corpus.catalogue.SAMPLES_PER_FOLDER_SHARD", 2)
    for name in ("b.jpg", "b.txt", "sub/deep/c.PNG", "a.webp", "notes.md", ".thumbs/a.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"12345")
    shards = list_shards(str(tmp_path))
    assert [(shard.name, shard.kind, shard.url) for shard in shards] == [
        ("folder-000000", "folder", str(tmp_path)),
        ("folder-000001", "folder", str(tmp_path)),
    ]
    assert [shard.members for shard in shards] == [("a.webp", "b.jpg", "b.txt"), ("sub/deep/c.PNG",)]
    assert [shard.size for shard in shards] == [15, 5]
    assert list_shards(f"{tmp_path}/*.jpg")[0].members == ("b.jpg",)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("", "empty"),
        ("DIR/nothing-here", "does not exist"),
        ("DIR/{000000..000002}.tar", "000002.tar"),
        ("DIR/*.nothing", "No .tar and no .jpg"),
        ("DIR/hollow", "No .tar and no .jpg"),
        ("DIR/README.md", "not a .tar"),
        ("DIR/packed.tar.gz", "compressed"),
        ("pipe:cat DIR/000000.tar", "command"),
        ("nosuchscheme://bucket/x", "nosuchscheme"),
        ("DIR/{0..9999999999}.tar", "digit too many"),
    ],
)
def test_unusable_inputs_say_why(corpus: Path, url: str, words: str) -> None:
    (corpus / "packed.tar.gz").touch()
    (corpus / "hollow").mkdir()
    with pytest.raises(CorpusError) as caught:
        list_shards(url.replace("DIR", str(corpus)))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_two_shards_of_one_name_are_refused(corpus: Path) -> None:
    (corpus / "sub" / "000000.tar").touch()
    with pytest.raises(CorpusError, match=r"000000\.tar"):
        list_shards(f"{corpus}/**/*.tar")


def test_shard_names_that_cannot_be_stored_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a\nb.tar").touch()
    with pytest.raises(CorpusError, match="control characters"):
        list_shards(str(tmp_path))


def test_passwords_in_urls_stay_out_of_messages() -> None:
    with pytest.raises(CorpusError) as caught:
        list_shards("nosuchscheme://me:secret@host/x")
    assert "secret" not in str(caught.value)


def test_links_are_what_they_stand_for(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    # As in caches of downloads, where every file is a link to a blob.
    other = tmp_path_factory.mktemp("other")
    (other / "000002.tar").symlink_to(corpus / "000001.tar")
    (other / "000003.tar").write_bytes(b"a tar of its own")
    assert names(str(other)) == names(f"{other}/*") == names(f"{other}/*.tar") == ["000002.tar", "000003.tar"]
    assert [shard.size for shard in list_shards(str(other))] == [10, 16]
    (other / "linked").symlink_to(corpus)
    assert names(f"{other}/linked") == names(f"{other}/*/*.tar") == ["000000.tar", "000001.tar", "000010.tar"]


def test_a_folder_of_images_goes_on_behind_links_but_not_in_a_ring(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "b.jpg").write_bytes(b"12345")
    (elsewhere / "back").symlink_to(tmp_path)
    (tmp_path / "a.jpg").write_bytes(b"12345")
    (tmp_path / "more").symlink_to(elsewhere)
    (tmp_path / "self").symlink_to(tmp_path)
    (shard,) = list_shards(str(tmp_path))
    assert shard.members == ("a.jpg", "more/b.jpg")


def test_what_is_no_file_is_no_image_behind_links_either(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.jpg").write_bytes(b"12345")
    (tmp_path / "ring.jpg").symlink_to(tmp_path / "ring.jpg")
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "to_pipe.jpg").symlink_to(tmp_path / "pipe.jpg")
    (tmp_path / "to_device.jpg").symlink_to("/dev/null")
    monkeypatch.chdir(tmp_path)  # the path of a socket must be short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket.png")
    (shard,) = list_shards(str(tmp_path))
    assert shard.members == ("a.jpg", "ring.jpg"), "a ring of links leads nowhere, which is for its reader to say"


def test_a_link_that_leads_nowhere_hides_no_folder_beside_it(corpus: Path) -> None:
    (corpus / "sub" / "gone.tar").symlink_to(corpus / "nowhere.tar")
    assert names(f"{corpus}/sub/*.tar") == ["000005.tar", "gone.tar"]
    (corpus / "apart").mkdir()
    (corpus / "apart" / "sub").symlink_to(corpus / "sub")
    (corpus / "apart" / "gone").symlink_to(corpus / "nowhere")
    with pytest.raises(CorpusError, match="apart/gone' does not exist"):
        list_shards(f"{corpus}/apart/*")


def test_pictures_of_formats_that_are_not_read_are_told_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("a.jpg", "b.HEIC", "c.heic", "d.tiff", "._d.tiff", "notes.md"):
        (tmp_path / name).write_bytes(b"12345")
    assert list_shards(str(tmp_path))[0].members == ("a.jpg",)
    assert "pictures that are not read (2 .heic, 1 .tiff)" in caplog.text and "md" not in caplog.text
