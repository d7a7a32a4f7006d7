"""Run directories on disks that are full, or that turn read-only: a clear failure, and a run that goes on later."""

from __future__ import annotations

import errno
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from engine import storage
from engine.corpus.catalogue import list_shards
from engine.corpus.lease import Lease, plan_leases
from engine.run.directory import LabelRun
from engine.run.fake import FakeLabeller
from engine.run.shard import label_lease
from tests.corpus.hostile import make_corpus_tar
from tests.run.test_shard import SPEC, make_run

SHARDS, SMALL, LARGE = 6, "64k", "4m"


@pytest.fixture
def leases(tmp_path: Path) -> list[Lease]:
    (tmp_path / "corpus").mkdir()
    for shard in range(SHARDS):
        (tmp_path / "corpus" / f"{shard:06d}.tar").write_bytes(make_corpus_tar(range(shard * 10, shard * 10 + 8)))
    return plan_leases(list_shards(str(tmp_path / "corpus")))


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, with room for a few leases."""
    folder = tmp_path / "disk"
    folder.mkdir()
    try:
        mount("-t", "tmpfs", "-o", f"size={SMALL}", "tmpfs", folder)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"NOT TESTED: a full disk, because nothing can be mounted here ({error})")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def mount(*arguments: object) -> None:
    subprocess.run(["mount", *map(str, arguments)], check=True, capture_output=True)


def label(leases: list[Lease], run: LabelRun) -> None:
    for lease in leases:
        label_lease(lease, FakeLabeller("fake", SPEC), run)


def finished(run: LabelRun) -> set[str]:
    """Leases with a receipt, all of which must be whole; the others must have no file at all."""
    folder = Path(run.url, "preliminary")
    for path in folder.glob("*.parquet"):
        pq.read_table(path)
    for path in folder.glob("*.json"):
        assert json.loads(path.read_text())["labelled"] == pq.read_table(path.with_suffix(".parquet")).num_rows
    return {path.stem for path in folder.glob("*.json")}


def rows(run: LabelRun) -> list[dict]:
    return [row for path in sorted(Path(run.url).rglob("*.parquet")) for row in pq.read_table(path).to_pylist()]


def test_a_full_disk_is_named_and_the_run_goes_on_when_there_is_room(
    disk: Path, leases: list[Lease], tmp_path: Path
) -> None:
    run, undisturbed = make_run(disk / "run"), make_run(tmp_path / "undisturbed")
    label(leases, undisturbed)
    with pytest.raises(storage.NoRoom, match=rf"cannot write {disk}.*No space left on device"):
        label(leases, run)
    assert 0 < len(finished(run)) < SHARDS
    assert not list(disk.rglob("*.tmp")), "what did not fit takes no room"
    mount("-o", f"remount,size={LARGE}", disk)
    label(leases, run)
    assert len(finished(run)) == SHARDS
    assert rows(run) == rows(undisturbed)


def test_a_disk_that_turns_read_only_is_named_and_the_run_goes_on_later(disk: Path, leases: list[Lease]) -> None:
    run = make_run(disk / "run")
    label(leases[:1], run)
    mount("-o", "remount,ro", disk)
    with pytest.raises(storage.NoRoom, match="Read-only file system"):
        label(leases, run)
    mount("-o", f"remount,rw,size={LARGE}", disk)
    assert finished(run) == {leases[0].id}
    label(leases, run)
    assert len(finished(run)) == SHARDS


def test_a_quota_counts_as_a_full_disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(storage.NoRoom, match=r"quota exceeded"):
        storage.atomic_put(b"data", str(tmp_path / "x"))
