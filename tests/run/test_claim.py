from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from engine import storage
from engine.run import claim as claims
from engine.run.claim import FILE, ClaimError, Holder, claim, occupy
from engine.run.directory import RunError, make_manifest


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other drivers are known to be dead or alive within the blink of an eye."""
    monkeypatch.setattr(claims, "RENEWED_EVERY", 0.05)
    monkeypatch.setattr(claims, "STALE_AFTER", 1.0)
    monkeypatch.setattr(claims, "LOOK_EVERY", 0.02)


@pytest.fixture(params=["local", "memory"])
def run(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A run directory where files can be locked and renamed, and one where not."""
    return str(tmp_path / "run") if request.param == "local" else f"memory://{uuid.uuid4().hex}"


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Holder]:
    """Makes holders on another machine, whose processes cannot be seen from here."""
    return lambda session: replace(Holder.here(session), machine="other", host="other")


def put(run: str, holder: Holder) -> None:
    storage.atomic_put(json.dumps(vars(holder)).encode(), storage.join(run, FILE))


def held(run: str) -> dict | None:
    url = storage.join(run, FILE)
    return json.loads(storage.read_bytes(url)) if storage.exists(url) else None


def test_a_claim_is_there_while_it_lasts_and_gone_afterwards(run: str) -> None:
    with claim(run, "one"):
        assert held(run)["session"] == "one"  # type: ignore[index]
    assert held(run) is None


def test_a_second_driver_is_refused_by_name_while_the_first_lives(run: str) -> None:
    with claim(run, "one"):
        with pytest.raises(ClaimError, match=rf"process {os.getpid()} on .*use another --run"), claim(run, "two"):
            raise AssertionError
        assert held(run)["session"] == "one"  # type: ignore[index]


def test_a_second_driver_is_told_the_option_that_its_job_has(run: str) -> None:
    with claim(run, "one"):
        manifest = make_manifest({"concept": "car"}, None)
        with pytest.raises(ClaimError, match=r"another --output$"), occupy(run, manifest, "two", option="--output"):
            raise AssertionError
        with pytest.raises(ClaimError, match=r"use another --run$"), claim(run, "three"):
            raise AssertionError


def test_the_same_session_may_claim_again(run: str) -> None:
    with claim(run, "one"):
        with claim(run, "one"):
            pass
        assert held(run) is not None, "the inner one ends nothing"


def test_the_claim_of_a_driver_that_was_killed_here_is_taken_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims, "STALE_AFTER", 1e9)
    program = (
        "import os, signal; from engine.run.claim import claim\n"
        f"with claim({str(tmp_path)!r}, 'one'): os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    killed = subprocess.run([sys.executable, "-c", program], cwd=Path(__file__).parents[2], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert held(str(tmp_path)) is not None
    with claim(str(tmp_path), "two"):
        assert held(str(tmp_path))["session"] == "two"  # type: ignore[index]


@pytest.mark.timeout(20)
def test_a_process_id_that_is_used_again_is_not_taken_for_the_old_process(
    run: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims, "STALE_AFTER", 1e9)  # else time alone would end the old claim
    put(run, replace(Holder.here("one"), started="before"))
    with claim(run, "two"):
        assert held(run)["session"] == "two"  # type: ignore[index]


def test_the_claim_of_a_driver_that_was_killed_elsewhere_is_taken_after_a_while(
    run: str, elsewhere: Callable[[str], Holder]
) -> None:
    put(run, elsewhere("one"))
    with claim(run, "two"):
        assert held(run)["session"] == "two"  # type: ignore[index]


def test_a_driver_elsewhere_that_lives_is_not_disturbed(run: str, elsewhere: Callable[[str], Holder]) -> None:
    other = elsewhere("one")
    put(run, other)
    ended = threading.Event()

    def live() -> None:
        beat = 0
        while not ended.wait(0.05):
            put(run, replace(other, beat=(beat := beat + 1)))

    thread = threading.Thread(target=live)
    thread.start()
    try:
        with pytest.raises(ClaimError, match="on other"), claim(run, "two"):
            raise AssertionError
    finally:
        ended.set()
        thread.join()


@pytest.fixture
def sigint_ignored() -> Iterator[None]:
    """As in a process that a shell script put into the background."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    yield
    signal.signal(signal.SIGINT, before)


def test_a_driver_that_was_out_of_reach_stops_when_another_has_taken_over(
    run: str, elsewhere: Callable[[str], Holder], sigint_ignored: None
) -> None:
    with pytest.raises(ClaimError, match="has taken"), claim(run, "one"):
        put(run, elsewhere("two"))
        assert threading.Event().wait(30), "the wait must be interrupted, though SIGINT is ignored"
    assert held(run)["session"] == "two", "its claim is left alone"  # type: ignore[index]


def test_of_many_drivers_that_start_at_once_one_works(tmp_path: Path) -> None:
    working, refused, done = [], [], threading.Barrier(8)

    def start(number: int) -> None:
        try:
            with claim(str(tmp_path), f"s{number}"):
                working.append(number)
                done.wait(30)
        except ClaimError:
            refused.append(number)
            done.wait(30)

    threads = [threading.Thread(target=start, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(working), len(refused)) == (1, 7)


@pytest.fixture
def damaged(run: str) -> Iterator[str]:
    storage.atomic_put(b"{", storage.join(run, FILE))
    yield run


def test_a_damaged_claim_is_not_for_ever(damaged: str) -> None:
    with claim(damaged, "one"):
        assert held(damaged)["session"] == "one"  # type: ignore[index]


def test_of_two_drivers_that_start_a_run_at_once_with_other_settings_one_is_refused(
    run: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine, other = (make_manifest({"concept": concept}, None) for concept in ("car", "dog"))

    def late(url: str, session: str, **options: str) -> object:
        storage.atomic_put(other.to_json().encode(), storage.join(url, "run.json"))
        return claim(url, session)

    monkeypatch.setattr(claims, "claim", late)
    with pytest.raises(RunError, match=r"car.*dog|dog.*car"), occupy(run, mine, "one"):
        raise AssertionError
    assert held(run) is None
    with occupy(run, other, "two"):
        assert held(run)["session"] == "two"  # type: ignore[index]


def test_a_process_elsewhere_is_not_gone_because_none_here_has_its_number(elsewhere: Callable[[str], Holder]) -> None:
    other = replace(elsewhere("one"), pid=2**22 + 1)
    assert not other.gone()
    assert replace(other, machine=Holder.here("one").machine).gone()


def test_a_process_that_has_ended_and_was_not_waited_for_is_gone() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    holder = replace(Holder.here("one"), pid=child.pid, started=claims._find_process(child.pid) or "")
    assert not holder.gone()
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert holder.gone()
    child.communicate()
