"""The driver of a run: starts it, watches it, and ends it in order whatever happens."""

from __future__ import annotations

import gc
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from itertools import islice
from traceback import clear_frames

import ray

from engine import storage
from engine.pipeline.causes import find_cause, first_line
from engine.pipeline.cluster import await_node, check_address, check_reach, connect, divide
from engine.pipeline.distil import distil_on_ray
from engine.pipeline.label import LabellingError, label_leases
from engine.pipeline.metrics import DriverGauges
from engine.pipeline.progress import ProgressLine, Tally, count, start_board
from engine.pipeline.trainer import TrainingError
from engine.run.attempts import clear_attempts
from engine.run.claim import occupy
from engine.run.harvest import LeasePlan
from engine.run.heartbeat import Heartbeat, timestamp
from engine.run.names import index_folder
from engine.run.plan import LabelPlan
from engine.run.summary import Outcome
from engine.run.termination import terminable
from schemas.receipt import Receipt
from schemas.snapshot import Snapshot

logger = logging.getLogger(__name__)


def run_plan(plan: LabelPlan, *, workers: int | None = None, tell: Callable[[str], None] = print) -> Outcome:
    """All that the plan asks for: masks of a sample, fine-tuning on them, labels; what is done already is skipped.

    Args:
        tell: is told what begins, and what is skipped and why.

    Raises:
        as `drive` and `make_concepts_of`.
    """
    if not plan.remaining:
        return drive(plan)
    with at_work(plan):
        make_concepts_of(plan, workers=workers, tell=tell)
        tell(f"labels: {len(plan.remaining)} of {len(plan.leases)} leases to do")
        return drive(plan, workers=workers, tell=tell)


def make_concepts_of(plan: LabelPlan, *, workers: int | None, tell: Callable[[str], None] = print) -> None:
    """Preliminary masks of the sample and the fine-tunings on them, unless the plan has no need of them.

    Raises:
        ValueError: nothing to learn from, or as `drive`.
        TrainingError, LabellingError: it cannot go on; resuming is safe.
    """
    if not plan.concepts or plan.sample is None:
        if plan.weights:
            tell(f"fine-tuning: skipped, m′ is there ({', '.join(map(storage.redact, plan.weights))})")
        elif plan.run.stage == "refined":
            tell("fine-tuning: skipped as asked for, the model itself paints the backgrounds")
        return
    with at_work(plan):
        sample = plan.sample
        if sample.remaining:
            tell(f"sample: preliminary masks, {len(sample.remaining)} of {len(sample.leases)} leases to do")
            outcome = drive(sample, workers=workers, tell=tell)
            if outcome.failed_leases:
                lease, error = next(iter(outcome.failed_leases.items()))
                raise LabellingError(
                    f"{lease}: {error}. The concept is learned from a sample with this shard: mend what is wrong, or "
                    "leave the shard out of --input"
                )
        else:
            tell("sample: preliminary masks, skipped, they are there")
        for task in plan.concepts:
            settings, name = task.distillation, f" on {task.spec.concept!r}" if len(plan.weights) > 1 else ""
            tell(f"fine-tuning{name}: {settings.method}, {settings.steps} steps")
            with explained():
                receipt = distil_on_ray(task)
            tell(
                f"fine-tuning{name}: loss {receipt.first_loss:.4f} -> {receipt.last_loss:.4f} on "
                f"{receipt.images['used']} images; pictures in {storage.redact(task.url('progress'))}"
            )


def drive(plan: LeasePlan, *, workers: int | None = None, tell: Callable[[str], None] = print) -> Outcome:
    """Does what the plan has left.

    Args:
        tell: gets the line that says how many workers there are, and on what.

    Raises:
        ValueError: the run directory cannot be written to or another driver is at it, or the cluster cannot be used.
        LabellingError: the run cannot go on; resuming is safe.
        KeyboardInterrupt: interrupted; resuming is safe.
    """
    receipts, failed = dict(plan.receipts), dict[str, str]()
    started = began = ended = time.monotonic()
    if plan.remaining:
        with at_work(plan):
            check_reach(plan.places)
            with suppress(OSError):  # only tidiness: whoever is gone is waited for but a while
                index_folder(plan.run.url).sweep()
            pool = divide(leases=len(plan.remaining), wanted=workers)
            tell(f"workers: {pool.describe()}")
            board, gauges = start_board(pool.ready), DriverGauges(plan.run.stage)
            before = sum(receipt.seen for receipt in receipts.values())
            heart = Heartbeat(plan.run.url, _first_snapshot(plan, pool.count))

            def show(tally: Tally, rate: float | None) -> None:
                heart.beat(**asdict(tally), rate=rate)
                gauges.show(tally)

            line = ProgressLine(_tally(plan, receipts, board), done=before, tell=show)
            with heart, line, explained():
                for result in label_leases(plan, pool, board):
                    if isinstance(result, Receipt):
                        receipts[result.lease_id] = result
                    else:
                        failed[result[0]] = result[1]
            ended = time.monotonic()
            began = line.began or started
            if not failed:
                with suppress(OSError):  # only tidiness
                    clear_attempts(plan.run.url)
    return Outcome(plan=plan, receipts=receipts, failed_leases=failed, loading=began - started, seconds=ended - began)


@contextmanager
def at_work(plan: LeasePlan) -> Iterator[None]:
    """All that a driver needs: a run directory that is started and its own, and a connection to Ray."""
    # What can be found out before a cluster is reached or started is found out first.
    check_address()
    with occupy(plan.run.url, plan.manifest, plan.run.session, option=plan.run.option), on_cluster():
        yield


def _first_snapshot(plan: LeasePlan, workers: int) -> Snapshot:
    tally = count(plan.leases, plan.receipts, [])
    return Snapshot(
        stage=plan.run.stage, **asdict(tally), rate=None, workers=workers, started=timestamp(), updated=timestamp()
    )


def _tally(
    plan: LeasePlan, receipts: dict[str, Receipt], board: ray.actor.ActorHandle
) -> Callable[[], tuple[Tally, float | None]]:
    told = 0

    def tally() -> tuple[Tally, float | None]:
        nonlocal told
        known = dict(receipts)
        opened, age = ray.get(board.state.remote(list(islice(known, told, None))), timeout=30)
        told = len(known)
        return count(plan.leases, known, opened), age

    return tally


@contextmanager
def on_cluster() -> Iterator[None]:
    """A connection to Ray with our way of ending on signals; one that was there before is left as it is."""
    ours = not ray.is_initialized()
    with terminable():  # Ray sets a handler of its own as it starts, and leaves it there
        connect()
        try:
            with terminable():
                await_node()
                yield
        except BaseException as error:
            if ours:
                _let_go(error)
            raise
        finally:
            # Nothing but the end of the connection. A second signal leaves no workers behind: where Ray was started
            # here, its own handler ends them.
            if ours:
                ray.shutdown()


def _let_go(error: BaseException) -> None:
    """Drops what the frames of an error hold, while there is a connection that it can be ended through.

    Ray Data ends what it has under way when its iterators are dropped. An interrupt may leave one in a frame of Ray's
    own, which the error's traceback keeps; dropped after the connection, it fails with a traceback of its own.
    """
    clear_frames(error.__traceback__)
    gc.collect()


@contextmanager
def explained() -> Iterator[None]:
    """Turns what Ray wraps around a worker's error back into the one sentence that matters."""
    try:
        yield
    except (LabellingError, TrainingError):
        raise
    except (ray.exceptions.RayError, RuntimeError) as error:
        logger.debug("a worker failed", exc_info=True)
        raise LabellingError(find_cause(error) or first_line(error)) from error
