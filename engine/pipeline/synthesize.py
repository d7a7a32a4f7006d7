"""Synthesis on Ray: shards go to the same actor pool as leases of a corpus."""

from __future__ import annotations

from collections.abc import Callable

from engine.pipeline.driver import drive
from engine.run.summary import Outcome
from engine.run.synthesis import SynthesisPlan


def run_synthesis(plan: SynthesisPlan, *, workers: int | None = None, tell: Callable[[str], None] = print) -> Outcome:
    """Makes the samples that are still to be made.

    Args:
        tell: is told what begins, or that nothing is left.

    Raises:
        as `drive`.
    """
    left = len(plan.remaining)
    tell(f"samples: {left} of {len(plan.leases)} shards to do" if left else "samples: skipped, they are there")
    return drive(plan, workers=workers, tell=tell)
