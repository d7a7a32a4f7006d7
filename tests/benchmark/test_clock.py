"""Medians of works taken in turns, and peaks of memory."""

from __future__ import annotations

import pytest
import torch

from engine.benchmark import clock as module
from engine.benchmark.clock import Clock

CPU = torch.device("cpu")


def test_each_work_gets_the_median_of_its_own_turns(monkeypatch):
    time = 0.0
    durations = {"a": [9, 1, 2, 3], "b": [9, 50, 10, 20]}
    turns: list[str] = []

    def work(name: str):
        def run() -> None:
            nonlocal time
            turns.append(name)
            time += durations[name].pop(0)

        return run

    monkeypatch.setattr(module.time, "perf_counter", lambda: time)
    assert Clock(device=CPU).seconds(work("a"), work("b")) == [2, 20]
    assert "".join(turns) == "abababab"


def test_the_peak_is_what_is_held_at_once():
    megabyte = 2**18

    def work() -> None:
        first = torch.zeros(4 * megabyte)
        del first
        kept = [torch.zeros(megabyte) for _ in range(2)]
        del kept

    assert Clock(device=CPU).peak_bytes(work) == pytest.approx(4 * 2**20, rel=0.01)


def test_cpu_time_of_another_device_is_refused():
    with pytest.raises(ValueError, match="--clock wall"):
        Clock(device=torch.device("cuda"), kind="cpu")
    with pytest.raises(ValueError, match="--repeats is 0"):
        Clock(device=CPU, repeats=0)
