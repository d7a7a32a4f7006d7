"""Seconds of the steps of a labelling, each with the work that its device does for it."""

from __future__ import annotations

import time
from collections import defaultdict

import torch


class Stopwatch:
    """Adds up the wall-clock seconds of steps that follow each other.

    A GPU works behind the program's back: the end of a step waits for it, or its seconds would go to whichever step
    asks for a result first. That is a handful of waits per batch, next to the thousands of kernels that they wait for.
    """

    def __init__(self, device: torch.device | str) -> None:
        self._device = torch.device(device)
        self._seconds: defaultdict[str, float] = defaultdict(float)
        self._began = 0.0

    def start(self) -> None:
        """The first step begins."""
        self._began = time.perf_counter()

    def lap(self, step: str) -> None:
        """This step ends, and another one begins."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        now = time.perf_counter()
        self._seconds[step] += now - self._began
        self._began = now

    def take(self) -> dict[str, float]:
        """Seconds by step since they were last taken."""
        taken, self._seconds = dict(self._seconds), defaultdict(float)
        return taken
