"""A driver for tests: a job with fakes or a small model, and with faults at chosen points.

    python tests/pipeline/drive.py --concept car ... with FAULT=<kind>:<value> in the environment

Faults: `worker:KEY` kills the worker process that labels KEY, once; `poison:KEY` does so every time.
`put:NAME` kills a worker once between writing and renaming a file whose path ends so; `again:NAME` spares the
first such file and dies when it is to be replaced; `stall:NAME` is `again`, but hangs instead of dying, and a
file that is new is enough for it where NAME ends with `!`. `start` kills workers while they load, `load` lets the
first one fail at that. `broken` makes labellers fail whatever they are given; `sick:KEY` does so in one process, the
first that labels KEY. `where:FOLDER` is none: it notes there the nodes on which images are labelled. Several faults
are separated by spaces.

With `TERMINATE` in the environment, SIGTERM reaches the driver amid Ray Data's own work, before anything is labelled.

The first argument `train` trains a segmenter instead: python tests/pipeline/drive.py train RUN OUTPUT

MODEL in the environment is the folder of a diffusion model, which is then fine-tuned and labels in truth. With
`JOB=synthesize` it is that job which is run, and the keys are those of samples.
"""

from __future__ import annotations

import functools
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import ray

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import engine.run.plan
from engine.labelling.label import Label
from engine.labelling.spec import LabelSpec
from engine.run.concept import ConceptTask
from engine.run.fake import FakeSource
from engine.run.segmenter import SegmenterTask, plan_training
from engine.run.shard import Labels
from engine.run.source import LabellerSource, ModelSource, Precision
from engine.segmenter.spec import SegmenterSpec
from engine.synthesis.sample import Samples, Start, SyntheticSample
from engine.synthesis.spec import SynthesisSpec, key_of
from jobs import synthesize
from jobs.label import main
from schemas.training import TrainingReceipt

CHECKPOINT_EVERY = 2
"""Steps between the checkpoints of a small model's fine-tuning, and of a segmenter's training."""
TRAINING = SegmenterSpec(steps=8, batch_size=4, crop=32, short_side=40, width=2, warmup=1, precision="float32")
"""In float32 half a batch rounds as a whole one does, nearly."""
STATE = "state.safetensors"
"""Name of the file with the training's state."""


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@dataclass(frozen=True, kw_only=True)
class Fault:
    """What is to go wrong in a worker; `once` is the file that says that it has."""

    kind: str
    value: str
    once: Path

    @classmethod
    def parse(cls, faults: str, once: str) -> list[Fault]:
        pairs = [fault.partition(":") for fault in faults.split()]
        several = len(pairs) > 1
        return [
            cls(kind=kind, value=value, once=Path(f"{once}-{kind}" if several else once)) for kind, _, value in pairs
        ]

    def strike(self) -> None:
        if not self.once.exists():
            self.once.touch()
            if self.kind == "stall":
                time.sleep(600)
            die()

    def begin(self) -> None:
        """Called when the worker begins to load."""
        if self.kind == "start":
            die()
        if self.kind == "load" and not self.once.exists():
            self.once.touch()
            raise RuntimeError("the model cannot be had")
        if self.kind in ("put", "again", "stall"):
            replace = os.replace

            def replace_or_die(source: Any, target: Any) -> None:
                new = self.kind == "put" or self.value.endswith("!")
                if str(target).endswith(self.value.rstrip("!")) and (new or os.path.exists(target)):
                    self.strike()
                replace(source, target)

            os.replace = replace_or_die

    def meet(self, keys: list[str]) -> None:
        """Called before images with these keys are labelled."""
        if self.kind == "where":
            Path(self.value, ray.get_runtime_context().get_node_id()).touch()
        if self.kind == "sick" and self.value in keys and not self.once.exists():
            self.once.touch()
            os.environ["SICK"] = "yes"  # of this process, whatever labels in it
        if self.kind == "broken" or "SICK" in os.environ:
            raise RuntimeError("device lost")
        if self.value in keys:
            if self.kind == "poison":
                die()
            if self.kind == "worker":
                self.strike()


@dataclass(frozen=True)
class FaultyLabeller:
    """A labeller with whom faults happen."""

    labeller: Labels
    faults: list[Fault]

    def __call__(self, images: list[np.ndarray], keys: list[str]) -> list[Label]:
        for fault in self.faults:
            fault.meet(keys)
        return self.labeller(images, keys)


@dataclass(frozen=True)
class FaultySynthesizer:
    """A synthesizer with whom faults happen."""

    samples: Samples
    faults: list[Fault]

    def __call__(self, indices: Sequence[int], starts: Sequence[Start | None]) -> list[SyntheticSample]:
        for fault in self.faults:
            fault.meet([key_of(index) for index in indices])
        return self.samples(indices, starts)


@dataclass(frozen=True, kw_only=True)
class FaultySource(FakeSource):
    """Makes faulty labellers and synthesizers; the fault travels with it because workers have another environment."""

    fault: str = ""
    once: str = ""

    def build(
        self, spec: Any, *, device: str, threads: int | None = None, weights: Sequence[bytes] = ()
    ) -> FaultyLabeller:
        faults = Fault.parse(self.fault, self.once)
        for fault in faults:
            fault.begin()
        return FaultyLabeller(super().build(spec, device=device, threads=threads, weights=weights), faults)

    def build_synthesizer(self, spec: LabelSpec, settings: SynthesisSpec, **options: Any) -> FaultySynthesizer:
        faults = Fault.parse(self.fault, self.once)
        for fault in faults:
            fault.begin()
        return FaultySynthesizer(super().build_synthesizer(spec, settings, **options), faults)


@dataclass(frozen=True, kw_only=True)
class FaultyModelSource(ModelSource):
    """The same for a diffusion model; faults that need no labeller strike while it is fine-tuned as well."""

    fault: str = ""
    once: str = ""

    def build(
        self, spec: Any, *, device: str, threads: int | None = None, weights: Sequence[bytes] = ()
    ) -> FaultyLabeller:
        labeller = super().build(spec, device=device, threads=threads, weights=weights)
        return FaultyLabeller(labeller, Fault.parse(self.fault, self.once))

    def _load(self, device: str, precision: Precision) -> Any:
        for fault in Fault.parse(self.fault, self.once):
            fault.begin()
        return super()._load(device, precision)


def often(task: type[ConceptTask]) -> Callable[..., ConceptTask]:
    """The task's class as plans shall use it for checkpoints every few steps."""
    return functools.partial(task, checkpoint_every=CHECKPOINT_EVERY)


@dataclass(frozen=True, kw_only=True)
class FaultyTask(SegmenterTask):
    """A training with faults in its workers, who are the only ones to ask for its state."""

    fault: str = ""
    once: str = ""

    def file(self, *names: str) -> str:
        if names[-1] == STATE:
            for fault in Fault.parse(self.fault, self.once):
                fault.begin()
        return super().file(*names)


def train(run: str, output: str, *, workers: int | None = None, fault: str = "", once: str = "") -> TrainingReceipt:
    """Trains a small segmenter."""
    from engine.pipeline.train import run_training

    task = plan_training(run_url=run, spec=TRAINING, output_url=output)
    changes = {"checkpoint_every": CHECKPOINT_EVERY, "fault": fault, "once": once}
    return run_training(FaultyTask(**{**vars(task), **changes}), workers=workers)


def source_of_environment() -> LabellerSource:
    faults = {"fault": os.environ.get("FAULT", ""), "once": os.environ.get("FAULT_ONCE", "")}
    if model := os.environ.get("MODEL"):
        engine.run.plan.ConceptTask = often(ConceptTask)  # type: ignore[assignment, misc]
        return FaultyModelSource(model=model, **faults)
    return FaultySource(delay=float(os.environ.get("DELAY", "0")), **faults)


def terminate_amid_ray_data() -> None:
    """Has the driver terminated in a frame of Ray Data, which holds an iterator that nobody closes."""
    import ray.data.iterator

    def terminated(*given: object, **named: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    ray.data.iterator.DataIterator._create_batch_iterator = terminated


if __name__ == "__main__":
    if "TERMINATE" in os.environ:
        terminate_amid_ray_data()
    if sys.argv[1:2] == ["train"]:
        train(*sys.argv[2:4], fault=os.environ["FAULT"], once=os.environ["FAULT_ONCE"])
        sys.exit()
    job = synthesize.main if os.environ.get("JOB") == "synthesize" else main
    sys.exit(job(source=source_of_environment()))
