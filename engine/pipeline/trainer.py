"""Training on Ray Train: workers that share every batch; killed ones are replaced and go on from the checkpoint."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Protocol

import ray
import ray.train
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer

from engine import storage
from engine.gpu import GpuError, prepare_device
from engine.pipeline.causes import find_cause, last_line
from engine.pipeline.cluster import SPARE_CPUS
from engine.pipeline.progress import StatusLine
from engine.run.quantities import format_duration

logger = logging.getLogger(__name__)

CPU_THREADS = 1
"""Of a worker without a GPU, on any machine: sums are rounded in another order with more or fewer."""
MAX_FAILURES = 3
"""So many times workers may be lost before a training is given up, unless it has got further meanwhile; each goes on
from the last checkpoint. Ray counts them over the whole training, so it is led anew. Machines that say beforehand that
they are taken away are not counted."""


class TrainingError(RuntimeError):
    """The training cannot go on; what is done is safe, and the same command resumes it."""


class Work(Protocol):
    """What each worker does: train up to the end, or go on with it. Picklable.

    Args:
        on_progress: to be told of every `engine.diffusion.training.Progress`.
        first: of several workers, the one that writes.

    Raises:
        ValueError, FloatingPointError: errors that no repetition heals.
    """

    def __call__(self, *, device: str, on_progress: Callable[[Any], None], first: bool) -> object: ...


@dataclass(frozen=True, kw_only=True)
class State:
    """How far a training is.

    Attributes:
        text: for a person.
        error: that no repetition heals.
        step: the furthest one that any attempt has come to.
    """

    text: str
    error: str | None = None
    step: int = 0


class Notice:
    """State of the actor through which the training workers tell the driver how far they are."""

    def __init__(self, text: str) -> None:
        self._state = State(text=text)

    def tell(self, text: str, step: int) -> None:
        if step > self._state.step:  # whatever it was, it has been got over
            self._state = replace(self._state, step=step, error=None)
        self._state = replace(self._state, text=text)

    def fail(self, error: str) -> None:
        """An error that no repetition heals."""
        self._state = replace(self._state, error=error)

    def state(self) -> State:
        return self._state


def train_on_ray(
    work: Work,
    *,
    batch_size: int,
    folder: str,
    workers: int | None = None,
    most: int | None = None,
    spare: int = 0,
) -> None:
    """Has the work done on the cluster this process is connected to, and shows how far it is.

    Args:
        batch_size: which the workers must be able to share.
        folder: URL for Ray's notes and the checkpoint; only of use to a training that goes on, so it is removed.
        workers, most, spare: as `count_workers` takes them.

    Raises:
        ValueError: nothing to learn from, or settings that come to nothing.
        TrainingError: the workers fail again and again, without getting further.
        GpuError: the cluster has GPUs, and torch cannot use the one that was tried.
    """
    count = count_workers(batch_size, wanted=workers, most=most, spare=spare)
    gpus = int(ray.cluster_resources().get("GPU", 0))
    begins = f"waiting for {count} GPUs, the cluster has {gpus}" if 0 < gpus < count else "workers are loading"
    notice: Any = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(Notice).remote(begins)

    def look() -> State:
        return ray.get(notice.state.remote(), timeout=30)

    def try_gpu() -> None:
        # Waited for in Python: `ray.get` makes a KeyboardInterrupt of whatever a signal's handler raises.
        ray.remote(num_cpus=0, num_gpus=1, max_retries=0)(prepare_device).remote("cuda").future().result()

    def lead() -> None:
        # In a process of its own: in this one Ray Train would take over what Ctrl-C does, for good.
        ray.remote(num_cpus=0, max_retries=0)(_fit).remote(
            work, notice, count, storage.join(folder, "ray")
        ).future().result()

    with StatusLine(lambda: look().text):
        if gpus:  # or Ray Train would say it four times, in its own words
            check_gpu(try_gpu)
        lead_on(lead, look, alone=count == 1)
    with suppress(OSError):
        storage.remove_folder(folder)


def check_gpu(attempt: Callable[[], None]) -> None:
    """Tries a GPU.

    Raises:
        GpuError: torch cannot use it.
        TrainingError: it could not be found out.
    """
    try:
        attempt()
    except GpuError:
        raise
    except Exception as error:
        raise TrainingError(
            f"a GPU could not be tried before the training: {find_cause(error) or last_line(error)}"
        ) from error


def lead_on(lead: Callable[[], None], look: Callable[[], State], *, alone: bool) -> None:
    """Leads a training to its end, anew where it failed after it had got further.

    Args:
        alone: there is one worker, which ends well after an error that it has told of; of several one that ends well
            has got over it.

    Raises:
        ValueError: an error that no repetition heals.
        TrainingError: it failed and has not got further.
    """
    while True:
        failure: Exception | None = None
        before = look()
        try:
            lead()
        except Exception as error:
            failure = error
        now = look()
        if now.error and (failure or alone):
            raise ValueError(now.error) from failure
        if failure is None:
            return
        told = f"{_describe(failure)}: {find_cause(failure) or last_line(failure)}"
        if now.step <= before.step:
            raise TrainingError(told) from failure
        logger.warning("%s. It has come to step %d meanwhile and goes on from its last checkpoint", told, now.step)


def _describe(failure: Exception) -> str:
    """What has failed: Ray Train has given up on the workers, or could not go on itself, or its process is gone."""
    cause = getattr(failure, "cause", failure)  # of what Ray wraps around an error of another process
    if isinstance(cause, ray.train.WorkerGroupError):
        return f"the training failed {MAX_FAILURES + 1} times"
    if isinstance(cause, ray.train.ControllerError):
        return "Ray Train could not go on"
    return "the process that leads the training failed"


def count_workers(batch_size: int, *, wanted: int | None = None, most: int | None = None, spare: int = 0) -> int:
    """The workers wanted; else as many as can share a batch equally, one per GPU at the most.

    Args:
        most: no more than so many, and where there are no GPUs than the CPUs can take.
        spare: if that is not said, CPUs to leave to others where there are no GPUs; with 0 there is only one worker.

    Raises:
        ValueError: the number wanted does not divide a batch, or is more than the CPUs can take.
    """
    total = ray.cluster_resources()
    room = int(total.get("CPU", 1) / SPARE_CPUS)
    if wanted is not None:
        if batch_size % wanted:
            raise ValueError(f"--workers is {wanted}, which cannot share a batch of {batch_size}; give a divisor")
        if not total.get("GPU") and wanted > room:  # GPUs may come as a cluster grows
            raise ValueError(f"--workers is {wanted}, the CPUs of the cluster can take {room}; give no more")
        return wanted
    own = int(total.get("CPU", 1)) - spare if spare else 1
    there = int(total.get("GPU", 0)) or (own if most is None else room)
    return max(count for count in range(1, max(min(there, most or there), 1) + 1) if batch_size % count == 0)


def _fit(work: Work, notice: Any, workers: int, folder: str) -> None:
    """Runs the workers to their end."""
    gpus = int(ray.cluster_resources().get("GPU", 0)) > 0
    scaling = ScalingConfig(
        num_workers=workers,
        use_gpu=gpus,
        resources_per_worker={"CPU": SPARE_CPUS, **({"GPU": 1} if gpus else {})},
    )
    filesystem, path = _storage(folder)
    run = RunConfig(
        name="run",
        storage_path=path,
        storage_filesystem=filesystem,
        failure_config=FailureConfig(max_failures=MAX_FAILURES),
    )
    TorchTrainer(
        _train_loop,
        train_loop_config={"work": work, "notice": notice},
        scaling_config=scaling,
        run_config=run,
    ).fit()


def _train_loop(config: dict[str, Any]) -> None:
    """What each worker process does."""
    import torch

    work, notice = config["work"], config["notice"]
    gpu = torch.cuda.is_available()
    if not gpu:
        torch.set_num_threads(CPU_THREADS)
        torch.set_flush_denormal(True)
        os.environ["ACCELERATE_USE_CPU"] = "true"
    first = ray.train.get_context().get_world_rank() == 0
    tell = _reporter(notice) if first else (lambda progress: None)
    try:
        work(device=str(ray.train.torch.get_device()), on_progress=tell, first=first)
    except (ValueError, FloatingPointError) as error:
        ray.get(notice.fail.remote(str(error)))
        # Ray Train would try again; but other workers, if there are any, may be waiting for this one.
        if ray.train.get_context().get_world_size() > 1:
            raise


def _reporter(notice: Any) -> Callable[[Any], None]:
    start: list[tuple[int, float]] = []  # the first step that is told of ends the loading, which no rate counts

    def tell(progress: Any) -> None:
        now = time.monotonic()
        start[:] = start or [(progress.step, now)]
        step, began = start[0]
        rate = (progress.step - step) / max(now - began, 1e-6)
        left = format_duration((progress.steps - progress.step) / rate) if rate else "?"
        notice.tell.remote(f"{progress} · ETA {left}", progress.step)

    return tell


def _storage(url: str) -> tuple[Any, str]:
    """Filesystem (None for the local one) and path, as Ray Train wants them."""
    if storage.is_local(url):
        return None, url
    from pyarrow.fs import FSSpecHandler, PyFileSystem

    filesystem, path = storage.open_filesystem(url)
    return PyFileSystem(FSSpecHandler(filesystem)), path
