"""How long work takes and how much memory it needs, on any device."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch

Work = Callable[[], object]


@dataclass(frozen=True, kw_only=True)
class Clock:
    """Medians over repeats.

    Attributes:
        device: which is waited for.
        repeats: measurements of each work.
        kind: wall: seconds that pass. cpu: seconds of this process on all cores, which do not count what else the
            machine does; for work on the CPU only.
    """

    device: torch.device
    repeats: int = 3
    kind: Literal["wall", "cpu"] = "wall"

    def __post_init__(self) -> None:
        if self.repeats < 1:
            raise ValueError(f"--repeats is {self.repeats}; it must be at least 1")
        if self.kind == "cpu" and self.device.type != "cpu":
            raise ValueError(f"--clock cpu says nothing about work on {self.device.type}; use --clock wall")

    def seconds(self, *works: Work, warm_up: bool = True) -> list[float]:
        """Of each work. They are taken in turns, so that what disturbs the machine disturbs them alike."""
        if warm_up:
            for work in works:
                work()
        rounds = [[self._once(work) for work in works] for _ in range(self.repeats)]
        return [statistics.median(times) for times in zip(*rounds, strict=True)]

    def peak_bytes(self, work: Work) -> int:
        """Most memory that the work holds at once on the device, besides what was there before."""
        if self.device.type == "cuda":
            self._wait()
            before = torch.cuda.memory_allocated(self.device)
            torch.cuda.reset_peak_memory_stats(self.device)
            work()
            self._wait()
            return torch.cuda.max_memory_allocated(self.device) - before
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
            work()
        held = most = 0
        assert profile.profiler is not None and profile.profiler.kineto_results is not None
        for event in profile.profiler.kineto_results.events():
            if event.name() == "[memory]":
                held += event.nbytes()
                most = max(most, held)
        return most

    def _once(self, work: Work) -> float:
        now = time.process_time if self.kind == "cpu" else time.perf_counter
        self._wait()
        began = now()
        work()
        self._wait()
        return now() - began

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
