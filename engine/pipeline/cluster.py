"""Reaching a Ray cluster, and dividing it among workers."""

from __future__ import annotations

import logging
import math
import os
import re
import socket
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ray
from ray._private.services import find_bootstrap_address
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from engine import storage

logger = logging.getLogger(__name__)

SPARE_CPUS = 0.5
"""Never given to workers: where they take every CPU, Ray Data's other operators wait for ever."""


_PLAIN_ADDRESS = re.compile(r"[^/:]+:\d+")


class ClusterError(ValueError):
    """The cluster cannot be used for this run; the message says why and what to do."""


@dataclass(frozen=True, kw_only=True)
class Workers:
    """How many labelling workers to run and what each reserves.

    Attributes:
        count: at most; `ready` of them fit on the cluster as it is now, the others start once it has grown.
    """

    count: int
    ready: int
    num_cpus: float
    num_gpus: float
    device: str

    def describe(self) -> str:
        """``2 on CPUs, more if the cluster grows``."""
        more = ", more if the cluster grows" if self.count > self.ready else ""
        return f"{self.ready} on {'GPUs' if self.num_gpus else 'CPUs'}{more}"


def check_address() -> None:
    """Raises ClusterError when RAY_ADDRESS names a cluster that cannot be joined; Ray itself tries for minutes."""
    address = os.environ.get("RAY_ADDRESS", "")
    if address.startswith(("http://", "https://")):
        raise ClusterError(
            f"RAY_ADDRESS is {storage.redact(address)}, the address of a job server: run this with "
            "`ray job submit --working-dir . -- python jobs/label.py ...`, or unset it to run here"
        )
    if _PLAIN_ADDRESS.fullmatch(address) and not _answers(address):
        raise ClusterError(f"no Ray cluster answers at RAY_ADDRESS={address}; start it, or unset it to run here")


def connect() -> None:
    """Joins the cluster this process belongs to, or this machine's, or starts one quietly.

    Inside a submitted job, and where RAY_ADDRESS is set, that cluster is meant. Else the last one started on
    this machine with `ray start` is joined; if there is none, one is started that ends with this process.

    Raises:
        ClusterError: the cluster cannot be reached.
    """
    if ray.is_initialized():
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    address = None
    if not os.environ.get("RAY_ADDRESS"):
        # What `ray start` noted; a cluster that ended without saying so leaves its note behind.
        address = find_bootstrap_address(None)
        address = address if address and _answers(address) else "local"
    try:
        with _quiet_core():
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, include_dashboard=False)
    except (ConnectionError, RuntimeError) as error:
        raise ClusterError(f"Ray cannot be reached or started: {error}") from error


def _answers(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host, int(port)), timeout=10):
            return True
    except (OSError, ValueError):
        return False


@contextmanager
def _quiet_core() -> Iterator[None]:
    """Keeps Ray's C++ core from writing between our lines (it also announces that it was told to keep quiet).

    Ray's errors still come as exceptions, and its log files are where they always are.
    """
    level = os.environ.get("RAY_BACKEND_LOG_LEVEL")
    os.environ["RAY_BACKEND_LOG_LEVEL"] = level or "fatal"
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
        if level is None:
            del os.environ["RAY_BACKEND_LOG_LEVEL"]


def await_node() -> None:
    """Waits for something to compute on: of a cluster that has just been started, the head may be all there is."""
    total = ray.cluster_resources()
    if total.get("CPU") or total.get("GPU"):
        return
    logger.warning("the cluster has no node for workers yet; waiting for the first")
    # A task that waits is what makes autoscalers start a node. Waited for in Python, which signals can interrupt.
    task: Any = ray.remote(num_cpus=1)(lambda: None)
    task.remote().future().result()


def divide(*, leases: int, wanted: int | None = None) -> Workers:
    """One worker per GPU where there are GPUs, else one per CPU; more when the cluster grows, but no more than leases.

    A CPU worker computes in one thread whatever their number, so that their number does not change the
    labels.

    Args:
        wanted: number of workers asked for instead. On GPUs, those that don't fit now start when the cluster has
            grown.
    """
    total = ray.cluster_resources()
    cpus, gpus = total.get("CPU", 1.0), int(total.get("GPU", 0))
    most = max(1, min(leases, wanted or leases))
    if gpus:
        ready = min(most, gpus)
        share = min(1.0, max(cpus - SPARE_CPUS, 0) / max(ready, gpus))
        return Workers(count=most, ready=ready, num_cpus=_floor(share), num_gpus=1, device="cuda")
    ready = max(1, min(most, wanted or int(cpus)))
    share = min(1.0, max(cpus - SPARE_CPUS, cpus / 2) / ready)
    # What is spare must not be enough for one more.
    count = most if share > SPARE_CPUS else ready
    return Workers(count=count, ready=ready, num_cpus=_floor(share), num_gpus=0, device="cpu")


def check_reach(urls: Iterable[str]) -> None:
    """Raises ClusterError unless every node sees each local path (object stores are not asked)."""
    paths = {url for url in urls if storage.is_local(url)}
    nodes = [node for node in ray.nodes() if node["Alive"]]
    if not paths or len(nodes) < 2:
        return
    look = ray.remote(num_cpus=0, max_retries=0)(_missing)
    asked = [
        (
            node["NodeManagerHostname"],
            look.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote(
                sorted(paths)
            ),
        )
        for node in nodes
    ]
    for host, answer in asked:
        for path in ray.get(answer):
            raise ClusterError(
                f"node {host} of the cluster does not see {path}: on several nodes the run directory and the "
                "corpus must be on a shared filesystem or an object store, for example s3://bucket/folder"
            )


def _missing(paths: list[str]) -> list[str]:
    return [path for path in paths if not os.path.exists(path)]


def _floor(value: float) -> float:
    # Ray counts in ten-thousandths of a CPU.
    return max(math.floor(value * 1000) / 1000, 0.001)
