"""Workers without Ray: what they do about errors of a lease, of their own, and of the machine they are on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from engine.corpus.catalogue import list_shards
from engine.corpus.lease import Lease, plan_leases
from engine.pipeline import worker as module
from engine.pipeline.progress import Board
from engine.pipeline.worker import LeaseWorker, check_run
from engine.run.directory import LabelRun, start_run
from engine.run.harvest import Hopeless, LabellerBroken
from engine.storage import NoRoom
from schemas.run import RunManifest
from tests.corpus.hostile import make_corpus_tar

RECEIPT: Any = SimpleNamespace(to_json=lambda: "{}")


class Exited(BaseException):
    """Of the process, as Ray would see it."""


class Near:
    """A board that is called at once, as if it were an actor."""

    def __init__(self) -> None:
        self.board = Board()

    def __getattr__(self, name: str) -> Any:
        return SimpleNamespace(remote=getattr(self.board, name))


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds that workers waited."""
    seconds: list[float] = []

    def leave(status: int) -> None:
        raise Exited

    monkeypatch.setattr(module.ray, "get", lambda value: value)
    monkeypatch.setattr(module.os, "_exit", leave)
    monkeypatch.setattr(module.time, "sleep", seconds.append)
    return seconds


@pytest.fixture
def lease(tmp_path: Path) -> dict[str, list[str]]:
    (tmp_path / "0.tar").write_bytes(make_corpus_tar([1]))
    return {"lease": [json.dumps(plan_leases(list_shards(str(tmp_path)))[0].to_json())]}


def make_worker(board: Near, error: Exception) -> LeaseWorker:
    """One whose every lease ends in this error."""

    def complete(lease: Lease, report: Callable[..., None]) -> None:
        raise error

    worker = LeaseWorker.__new__(LeaseWorker)
    worker._board, worker._complete, worker._name = board, complete, "this"  # type: ignore[assignment]
    board.board.starting("this")
    return worker


@pytest.mark.parametrize(
    ("raised", "error", "fatal"),
    [
        (NoRoom("cannot write x: No space left on device"), "cannot write x: No space left on device", True),
        (FileNotFoundError("no such file: gone.tar"), "FileNotFoundError: no such file: gone.tar", False),
        (MemoryError("a tar of 1 TB"), "MemoryError: a tar of 1 TB", False),
    ],
    ids=["a full disk ends the run", "a shard that is gone fails its lease", "as does an error nobody thought of"],
)
def test_what_waiting_does_not_mend_is_not_waited_for(
    waits: list[float], lease: dict[str, list[str]], raised: Exception, error: str, fatal: bool
) -> None:
    row = make_worker(Near(), raised)(lease)
    assert (row["fatal"], row["error"], [w for w in waits if w]) == ([fatal], [error], [])


def test_what_cannot_be_reached_is_tried_again_for_a_while(waits: list[float], lease: dict[str, list[str]]) -> None:
    row = make_worker(Near(), ConnectionError("reset"))(lease)
    assert (row["fatal"], row["error"], waits) == ([False], ["ConnectionError: reset"], [1.0, 5.0, 20.0, 0.0])


def test_a_lease_that_is_done_forgives_what_failed_before_it(waits: list[float], lease: dict[str, list[str]]) -> None:
    board = Near()
    board.board.starting("another")
    worker = make_worker(board, FileNotFoundError("gone"))
    failing, told = worker._complete, []
    for done in (False, False, True, False):
        board.board.stride()
        worker._complete = (lambda lease, report: RECEIPT) if done else failing  # type: ignore[assignment]
        worker._metrics = SimpleNamespace(finish=told.append)  # type: ignore[assignment]
        worker(lease)
    assert waits == [0.0, 5.0, 0.0] and told == [RECEIPT]


def test_what_is_told_of_errors_holds_no_secret(
    waits: list[float], lease: dict[str, list[str]], caplog: pytest.LogCaptureFixture
) -> None:
    for error in (FileNotFoundError, RuntimeError, NoRoom, LabellerBroken):
        row = make_worker(Near(), error("no https://host/a.tar?Signature=secret"))(lease)
        assert "https://host/a.tar" in row["error"][0] and "secret" not in row["error"][0]
    assert "https://host/a.tar" in caplog.text and "secret" not in caplog.text


def test_what_nobody_can_do_ends_the_run(waits: list[float], lease: dict[str, list[str]]) -> None:
    board = Near()
    board.board.starting("another")
    assert make_worker(board, Hopeless("nothing to begin from"))(lease)["fatal"] == [True]


def test_a_worker_that_is_broken_ends_its_process_and_in_the_end_the_lease_then_waits(
    waits: list[float], lease: dict[str, list[str]]
) -> None:
    board = Near()
    worker = make_worker(board, LabellerBroken("device lost"))
    board.board.starting("another")
    for _ in range(2):
        with pytest.raises(Exited):
            worker(lease)
    row = worker(lease)
    assert (row["fatal"], row["error"], waits) == ([False], ["device lost"], [5.0, 5.0, 0.0])
    worker(lease)
    assert waits[-1] == 5.0


def test_workers_that_are_all_broken_end_the_run(waits: list[float], lease: dict[str, list[str]]) -> None:
    row = make_worker(Near(), LabellerBroken("device lost"))(lease)
    assert (row["fatal"], row["error"]) == ([True], ["device lost"])


def test_a_store_that_does_not_answer_for_a_moment_is_no_missing_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def read(url: str) -> bytes:
        raise ConnectionError("reset")

    monkeypatch.setattr("engine.run.directory.storage.read_bytes", read)
    task: Any = SimpleNamespace(run=SimpleNamespace(url="memory://run", fingerprint="x"))
    with pytest.raises(ConnectionError):
        check_run(task)


def test_a_machine_that_does_not_see_the_run_does_not_begin_one_of_its_own(tmp_path: Path) -> None:
    manifest = RunManifest(fingerprint={"concept": "car"})
    run = LabelRun(
        url=str(tmp_path / "run"),
        stage="refined",
        concept="car",
        prompt="a photo of a car",
        fingerprint=manifest.hash,
        model="m",
        revision=None,
        seed=0,
        session="s",
    )
    task: Any = SimpleNamespace(run=run)
    with pytest.raises(LabellerBroken, match=r"node .* does not see the run directory: there is no .*run/run\.json"):
        check_run(task)
    assert not (tmp_path / "run").exists()
    start_run(run.url, manifest)
    check_run(task)
    other: Any = SimpleNamespace(run=SimpleNamespace(url=run.url, fingerprint="another"))
    with pytest.raises(LabellerBroken, match="sees another run in"):
        check_run(other)
