"""A worker: loads its model, then turns lease after lease into files and receipts.

Machines of a cluster fail one by one, and the others go on: what only one worker meets costs that worker's time. What
all of them meet ends the run.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import time
import traceback
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import ray

from engine import storage
from engine.corpus.lease import Lease
from engine.pipeline.cluster import Workers
from engine.pipeline.metrics import WorkerMetrics
from engine.remote import LASTING_ERRORS
from engine.run.directory import RunError, read_manifest
from engine.run.harvest import Complete, Hopeless, LabellerBroken, LeaseProgress, LeaseTask
from engine.storage import NoRoom
from schemas.receipt import Receipt

logger = logging.getLogger(__name__)

MAX_FAILED_STARTS = 3
"""So often may a worker die while it loads, with no other succeeding in between, before it is an error."""
REST = 5.0
"""Seconds that a broken worker waits before it starts anew."""
PATIENCE = (1.0, 5.0, 20.0)
"""Seconds to wait before each new try of what could not be reached."""

Result = TypeVar("Result")


class LeaseWorker:
    """Ray Data keeps one of these in each worker process, and gives it leases."""

    def __init__(self, put_task: ray.ObjectRef[LeaseTask], workers: Workers, board: Any) -> None:
        self._board, self._name = board, ray.get_runtime_context().get_actor_id()
        task = ray.get(put_task)
        self._metrics = WorkerMetrics(task.run.stage)
        # An error that left this method would end the run, whatever other workers do.
        try:
            self._complete = self._load(task, workers.device)
        except Exception as error:
            logger.warning("a worker could not load the model:\n%s", storage.redact(traceback.format_exc()))
            self._complete = partial(_fail, storage.redact(str(error)) or type(error).__name__)

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        """One lease (JSON) to its receipt (JSON), or to the error that kept it from being labelled.

        An error is fatal if other leases would only meet it, too.
        """
        lease = Lease.from_json(json.loads(batch["lease"][0]))
        try:
            receipt = be_patient(lambda: self._complete(lease, self._report), f"lease {lease.id}")
        except (NoRoom, Hopeless) as error:
            return _row(lease, error=storage.redact(str(error)), fatal=True)
        except LabellerBroken as error:
            return self._start_anew(lease, storage.redact(str(error)))
        except Exception as error:
            logger.warning("lease %s failed:\n%s", lease.id, storage.redact(traceback.format_exc()))
            self._hold_back(broken=False)
            return _row(lease, error=storage.redact(f"{type(error).__name__}: {error}"))
        self._board.succeed.remote(self._name)
        self._metrics.finish(receipt)
        return _row(lease, receipt=receipt.to_json())

    def _load(self, task: LeaseTask, device: str) -> Complete:
        # Ray starts an actor again whose process died in here, for ever: somebody has to count.
        deaths = ray.get(self._board.starting.remote(self._name))
        if deaths > MAX_FAILED_STARTS:
            raise LabellerBroken(f"{deaths} worker processes have died while they loaded the model {task.model}")
        be_patient(partial(check_run, task), "the run directory")
        # One thread on CPUs, whatever their number: sums are rounded in another order with more.
        load = partial(task.load, device=device, threads=1 if device == "cpu" else None)
        complete = be_patient(load, f"the model {task.model}")
        self._board.started.remote()
        return complete

    def _start_anew(self, lease: Lease, error: str) -> dict[str, list[Any]]:
        """Ends this process, which Ray replaces; a GPU that failed once fails every later call of its process."""
        verdict = ray.get(self._board.breaks.remote(self._name, lease.id))
        if verdict == "try again":
            logger.warning("a worker on %s is broken (%s) and starts anew", socket.gethostname(), error)
            time.sleep(REST)
            os._exit(1)
        if verdict == "fail the lease":
            self._hold_back(broken=True)
        return _row(lease, error=error, fatal=verdict == "fail the run")

    def _hold_back(self, *, broken: bool) -> None:
        time.sleep(ray.get(self._board.hold.remote(self._name, broken=broken)))

    def _report(self, progress: LeaseProgress) -> None:
        self._metrics.report(progress)
        self._board.report.remote(progress)


def check_run(task: LeaseTask) -> None:
    """Nothing where this machine sees the run; else it would begin one of its own, on its own disk.

    Raises:
        LabellerBroken: it sees none, or another.
        OSError: that may heal.
    """
    url = task.run.url
    try:
        found = read_manifest(url).hash
    except RunError as error:
        if isinstance(error.__cause__, OSError) and not isinstance(error.__cause__, LASTING_ERRORS):
            raise error.__cause__ from error
        raise LabellerBroken(f"node {socket.gethostname()} does not see the run directory: {error}") from error
    if found != task.run.fingerprint:
        raise LabellerBroken(f"node {socket.gethostname()} sees another run in {storage.redact(url)}")


def be_patient(call: Callable[[], Result], what: str) -> Result:
    """Its result, tried again for a while if something cannot be reached.

    Raises:
        OSError: waiting did not mend it, or would not.
    """
    for wait in (*PATIENCE, None):
        try:
            return call()
        except OSError as error:
            if wait is None or isinstance(error, (NoRoom, *LASTING_ERRORS)):
                raise
            logger.warning("%s: %s; trying again in %g s", what, storage.redact(str(error)), wait)
            time.sleep(wait)
    raise AssertionError


def _fail(error: str, lease: Lease, report: Callable[[LeaseProgress], None]) -> Receipt:
    """What a worker without a model does to a lease."""
    raise LabellerBroken(error)


def _row(lease: Lease, *, receipt: str = "", error: str = "", fatal: bool = False) -> dict[str, list[Any]]:
    return {"lease_id": [lease.id], "receipt": [receipt], "error": [error], "fatal": [fatal]}
