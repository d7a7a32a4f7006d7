"""SIGTERM ends every job as Ctrl-C does."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from dataclasses import dataclass

import pytest

from engine.run.command import run_command
from engine.run.termination import terminable


@dataclass
class Nothing:
    """No options."""


def run(body) -> int:
    root = logging.getLogger()
    before = root.handlers[:]
    try:
        return run_command(Nothing, body, job="test", description="", arguments=[])
    finally:
        root.handlers[:] = before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_job_that_is_told_to_end_tidies_up_and_says_so(number: signal.Signals, capsys) -> None:
    tidy: list[bool] = []

    def body(options: Nothing) -> int:
        try:
            os.kill(os.getpid(), number)
            time.sleep(30)
        finally:
            tidy.append(True)
        return 0

    # Where tests run in the background of a shell, Ctrl-C is ignored from the beginning.
    own = signal.default_int_handler if number is signal.SIGINT else signal.SIG_DFL
    before = signal.signal(number, own)
    try:
        assert run(body) == 128 + number
        assert signal.getsignal(number) is own
    finally:
        signal.signal(number, before)
    assert tidy and "run the same command to resume" in capsys.readouterr().err


def test_outside_the_main_thread_signals_are_left_alone() -> None:
    before, codes = signal.getsignal(signal.SIGTERM), list[int]()

    def body(options: Nothing) -> int:
        assert signal.getsignal(signal.SIGTERM) is before
        return 7

    thread = threading.Thread(target=lambda: codes.append(run(body)))
    thread.start()
    thread.join()
    assert codes == [7]


def test_what_somebody_else_has_set_within_is_undone() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with terminable():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        with terminable(), pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(30)
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    assert signal.getsignal(signal.SIGTERM) is before
