from __future__ import annotations

import os
import signal
import subprocess
import sys
import uuid
from pathlib import Path

import pytest
from fsspec.implementations.local import LocalFileSystem

from engine import storage


@pytest.fixture
def memory() -> str:
    return f"memory://{uuid.uuid4().hex}"


def test_put_makes_folders_and_replaces_the_whole_file(tmp_path: Path) -> None:
    url = str(tmp_path / "a" / "b.bin")
    storage.atomic_put(b"one one one", url)
    storage.atomic_put(b"two", url)
    assert storage.read_bytes(url) == b"two"
    assert os.listdir(tmp_path / "a") == ["b.bin"]


def test_put_to_an_object_store_is_one_put(memory: str) -> None:
    url = storage.join(memory, "runs", "x.bin")
    storage.atomic_put(b"data", url)
    assert storage.read_bytes(url) == b"data"
    assert storage.list_names(storage.join(memory, "runs")) == ["x.bin"]


def test_files_and_folders_are_listed_apart(tmp_path: Path, memory: str) -> None:
    for root in (str(tmp_path / "root"), memory):
        assert storage.list_folders(root) == storage.list_names(root) == []
        for name in ("b", "a/x", "c/y/z"):
            storage.atomic_put(b"data", storage.join(root, name))
        assert storage.list_names(root) == ["b"] and storage.list_folders(root) == ["a", "c"]


def test_of_two_that_create_a_file_without_seeing_each_other_the_first_one_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LocalFileSystem, "exists", lambda self, path, **options: False)
    url = str(tmp_path / "run" / "x")
    storage.create(b"one", url)
    storage.create(b"two", url)
    assert storage.read_bytes(url) == b"one"


def test_a_process_killed_while_writing_leaves_nothing_under_the_final_name(tmp_path: Path) -> None:
    url = str(tmp_path / "x.bin")
    program = (
        "import os, signal; from engine import storage\n"
        "os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        f"storage.atomic_put(b'data', {url!r}, token='t')\n"
    )
    killed = subprocess.run([sys.executable, "-c", program], cwd=Path(__file__).parents[1], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert not storage.exists(url)
    assert storage.list_names(str(tmp_path)) == [".x.bin.t.tmp"]
    assert storage.temporary_url(url, "t") == str(tmp_path / ".x.bin.t.tmp")


def test_a_failed_write_cleans_up_after_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        storage.atomic_put(b"data", str(tmp_path / "x.bin"))
    assert os.listdir(tmp_path) == []


def test_a_put_survives_its_temporary_file_being_swept_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace = os.replace
    calls = []

    def swept_once(source: str, target: str) -> None:
        calls.append(source)
        if len(calls) == 1:
            os.remove(source)
        replace(source, target)

    monkeypatch.setattr(os, "replace", swept_once)
    storage.atomic_put(b"data", str(tmp_path / "x.bin"))
    assert (tmp_path / "x.bin").read_bytes() == b"data"


@pytest.mark.parametrize("name", ["pipe", "python", "exec/x", "a:b"])
def test_a_folder_may_be_called_like_a_command(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert storage.absolute(name) == str(tmp_path / name)


@pytest.mark.parametrize("url", ["pipe:cat /etc/passwd", "pipe://x", "PIPE:ls", "exec://ls", "filecache::pipe://x"])
def test_urls_that_run_commands_are_refused(url: str) -> None:
    with pytest.raises(storage.StorageError, match="run a command"):
        storage.open_filesystem(url)


def test_an_unknown_scheme_is_refused_in_one_sentence() -> None:
    with pytest.raises(storage.StorageError, match="nonsense"):
        storage.open_filesystem("nonsense://bucket/x")


def test_local_paths_become_absolute_and_object_urls_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert storage.absolute("runs/car/") == str(tmp_path / "runs" / "car")
    assert storage.absolute("~/runs") == str(tmp_path / "runs")
    assert storage.absolute("memory://bucket/runs/") == "memory://bucket/runs"


@pytest.mark.parametrize("url", ["", " "])
def test_an_empty_path_is_not_the_working_directory(url: str) -> None:
    with pytest.raises(storage.StorageError, match="is empty"):
        storage.absolute(url)


def test_a_local_folder_is_found_however_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for url in ("~/out", f"file://{tmp_path}/out", str(tmp_path / "out")):
        assert storage.local_path(url, "--output") == tmp_path / "out"
    assert storage.local_path("out", "--output") == Path("out"), "settings that are kept name no machine's folders"


@pytest.mark.parametrize("url", ["s3://bucket/x", "memory://x", "simplecache::file:///x", "gs://bucket/x"])
def test_what_is_no_local_folder_is_refused_by_its_option(url: str) -> None:
    with pytest.raises(storage.StorageError, match=f"^--vae must be a local folder, not {url}; give one"):
        storage.local_path(url, "--vae")


def test_credentials_never_show() -> None:
    assert storage.redact("s3://key:secret@bucket/a") == "s3://***@bucket/a"
    assert "sig" not in storage.redact("https://host/a.tar?X-Amz-Signature=sig&b=c").replace("Signature", "")
    assert storage.redact("/data/{000..003}.tar") == "/data/{000..003}.tar"
    assert storage.redact("/data/a?.tar") == "/data/a?.tar"


def test_a_missing_folder_lists_nothing_and_a_missing_file_is_removed_without_error(
    tmp_path: Path, memory: str
) -> None:
    for root in (str(tmp_path / "none"), memory):
        assert storage.list_names(root) == []
        storage.remove(storage.join(root, "x"))
        assert not storage.exists(storage.join(root, "x"))


def test_names_that_look_like_patterns_are_names(tmp_path: Path, memory: str) -> None:
    for root in (str(tmp_path / "run [1]"), storage.join(memory, "run [1]")):
        names = ["a.json", "b[1].json", "c*?.json", "b1.json"]
        for name in names:
            storage.atomic_put(name.encode(), storage.join(root, name))
        assert dict(storage.read_many(root, names)) == {name: name.encode() for name in names}
        storage.remove_folder(root)
        assert storage.list_names(root) == []


def test_a_pipe_is_written_into_and_stays(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    storage.atomic_put(b"data", str(pipe))
    assert os.read(reader, 10) == b"data" and pipe.is_fifo()
    os.close(reader)
