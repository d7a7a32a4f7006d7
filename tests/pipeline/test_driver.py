"""What the driver does before and after there is work, without a cluster."""

from __future__ import annotations

import os
import signal
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path

import pytest

from engine import storage
from engine.pipeline import driver
from engine.run.attempts import ATTEMPTS
from engine.run.termination import Terminated
from schemas.run import RunManifest
from tests.run.origins import start_origin
from tests.run.test_status import label


def test_whoever_gives_up_waiting_for_a_node_leaves_no_connection_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[bool] = []

    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(driver.ray, "is_initialized", lambda: False)
    monkeypatch.setattr(driver.ray, "shutdown", lambda: ended.append(True))
    monkeypatch.setattr(driver, "connect", lambda: None)
    monkeypatch.setattr(driver, "await_node", interrupted)
    with pytest.raises(KeyboardInterrupt), driver.on_cluster():
        raise AssertionError
    assert ended == [True]


def test_ray_keeps_its_way_of_ending_on_a_signal_no_longer_than_its_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    at_the_end: list[object] = []
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(driver.ray, "is_initialized", lambda: False)
    monkeypatch.setattr(driver.ray, "shutdown", lambda: at_the_end.append(signal.getsignal(signal.SIGTERM)))
    monkeypatch.setattr(driver, "connect", lambda: signal.signal(signal.SIGTERM, signal.SIG_IGN))
    monkeypatch.setattr(driver, "await_node", lambda: None)
    with pytest.raises(Terminated), driver.on_cluster():
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(30)
    assert at_the_end == [signal.SIG_IGN], "as Ray has set it"
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_driver_names_the_option_of_its_run_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options: list[str] = []

    def occupy(url: str, manifest: RunManifest, session: str, *, option: str) -> AbstractContextManager[None]:
        options.append(option)
        return nullcontext()

    monkeypatch.setattr(driver, "occupy", occupy)
    monkeypatch.setattr(driver, "on_cluster", nullcontext)
    plan = start_origin(tmp_path)
    for option in ("--run", "--output"):
        with driver.at_work(replace(plan, run=replace(plan.run, option=option))):
            pass
    assert options == ["--run", "--output"]


def test_a_driver_with_nothing_to_do_leaves_the_marks_of_another_alone(tmp_path: Path) -> None:
    plan = start_origin(tmp_path)
    label(plan)
    done = start_origin(tmp_path)
    mark = storage.join(done.run.url, ATTEMPTS, "000000~other-token")
    storage.touch(mark)
    assert not done.remaining
    assert driver.drive(done).quarantined == 0
    assert storage.exists(mark)
