"""Labelling on Ray: leases go to an actor pool, receipts come back."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from typing import Any

import ray
import ray.data

from engine.pipeline.cluster import Workers
from engine.pipeline.worker import LeaseWorker
from engine.run.harvest import LeasePlan
from schemas.receipt import Receipt

SHORT_LEASE = 4 << 20
"""Bytes of images that take seconds rather than minutes."""

QUEUE_FROM = 8
"""Leases for each worker that is ready, from which on the end of a run is a small part of it."""


class LabellingError(RuntimeError):
    """The run cannot go on; what is done is safe, and the same command resumes it."""


def label_leases(plan: LeasePlan, workers: Workers, board: Any) -> Iterator[Receipt | tuple[str, str]]:
    """Does the plan's remaining leases: labels their images, or makes images and labels these.

    Yields:
        the receipt of each lease as it finishes, or (lease id, error) of one that could not be reached.

    Raises:
        LabellingError: all workers fail on everything, or cannot load the model.
    """
    leases = [{"lease": json.dumps(lease.to_json())} for lease in plan.remaining]
    quiet_ray_data()
    # A pool of which every worker has a lease is to grow, if the cluster has.
    ray.data.DataContext.get_current().autoscaling_config.actor_pool_util_upscaling_threshold = 1.0
    rows = (
        ray.data.from_items(leases, override_num_blocks=len(leases))
        .map_batches(
            LeaseWorker,
            # Put once: Ray copies arguments for every worker, and a task may name every file of a corpus.
            fn_constructor_kwargs={"put_task": ray.put(plan.task), "workers": workers, "board": board},
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(
                min_size=workers.ready,
                max_size=workers.count,
                max_tasks_in_flight_per_actor=count_in_flight(plan, ready=workers.ready),
            ),
            num_cpus=workers.num_cpus,
            num_gpus=workers.num_gpus,
            # Ray Data replaces lost workers and tries their leases again without end, as it should. For a
            # lease that kills its workers, attempt markers make an end of it (see engine.run.harvest).
        )
        .iter_rows()
    )
    for row in rows:
        if row["fatal"]:
            raise LabellingError(row["error"])
        yield Receipt.from_json(row["receipt"]) if row["receipt"] else (row["lease_id"], row["error"])


def count_in_flight(plan: LeasePlan, *, ready: int) -> int:
    """How many leases a worker holds at once: the one it does and, if they are many and short, the next one.

    A second lease in the queue waits while others idle at the end. But Ray Data looks for finished leases up to 0.1 s
    late, twice, before it hands out the next: a tenth of a lease of 2 s.

    Args:
        ready: workers that the cluster has room for now; how many more it may grow to says nothing of the end.
    """
    leases = plan.remaining
    short = plan.sized and 0 < sum(lease.shard.size / lease.parts for lease in leases) < SHORT_LEASE * len(leases)
    return 2 if short and len(leases) >= QUEUE_FROM * ready else 1


def quiet_ray_data() -> None:
    """Ray Data's bars move per lease, too rarely to say anything; and no lease is late for it."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    # A lease takes minutes, on a slow machine more than the half hour that Ray Data allows by default.
    context.execution_no_progress_timeout_s = -1
    logging.getLogger("ray.data").setLevel(logging.ERROR)
