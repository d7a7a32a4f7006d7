"""A driver for tests: `jobs/label.py` with fake labellers, and with faults at chosen points.

    python tests/pipeline/drive.py --concept car ... with FAULT=<kind>:<value> in the environment

Faults: `worker:KEY` kills the worker process that labels KEY, once; `poison:KEY` does so every time.
`put:NAME` kills a worker once between writing and renaming a file whose name ends so. `start` kills workers
while they load. `broken` makes labellers fail whatever they are given.
"""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from engine.labelling.label import Label
from engine.labelling.spec import LabelSpec
from engine.run.fake import FakeLabeller, FakeSource
from jobs.label import main


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class FaultyLabeller(FakeLabeller):
    """A fake labeller that kills its process at a key."""

    kind = ""
    value = ""
    once = Path()

    def __call__(self, images: list[np.ndarray], keys: list[str]) -> list[Label]:
        if self.kind == "broken":
            raise RuntimeError("device lost")
        if self.value in keys:
            if self.kind == "poison":
                die()
            if self.kind == "worker" and not self.once.exists():
                self.once.touch()
                die()
        return super().__call__(images, keys)


@dataclass(frozen=True, kw_only=True)
class FaultySource(FakeSource):
    """Makes faulty labellers; the fault travels with the source because workers have another environment."""

    fault: str = ""
    once: str = ""

    def build(
        self, spec: LabelSpec, *, device: str, threads: int | None = None, weights: bytes | None = None
    ) -> FakeLabeller:
        kind, _, value = self.fault.partition(":")
        once = Path(self.once)
        if kind == "start":
            die()
        if kind == "put":
            replace = os.replace

            def replace_or_die(source: Any, target: Any) -> None:
                if str(target).endswith(value) and not once.exists():
                    once.touch()
                    die()
                replace(source, target)

            os.replace = replace_or_die
        labeller = FaultyLabeller(self.model, spec, delay=self.delay)
        labeller.kind, labeller.value, labeller.once = kind, value, once
        return labeller


if __name__ == "__main__":
    source = FaultySource(
        delay=float(os.environ.get("DELAY", "0")),
        fault=os.environ.get("FAULT", ""),
        once=os.environ.get("FAULT_ONCE", ""),
    )
    sys.exit(main(source=source))
