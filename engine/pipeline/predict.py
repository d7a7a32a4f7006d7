"""Predicting the masks of a corpus on Ray: the labelling's leases and workers, with a segmenter in them."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from typing import Any

import ray.data

from engine import storage
from engine.corpus.lease import Lease
from engine.pipeline.cluster import check_address
from engine.pipeline.driver import drive, explained, on_cluster
from engine.pipeline.label import quiet_ray_data
from engine.run.directory import LabelRun
from engine.run.plan import LabelPlan
from engine.run.predict import write_masks
from engine.run.summary import Outcome


def run_prediction(
    plan: LabelPlan, *, workers: int | None = None, png: bool = False, tell: Callable[[str], None] = print
) -> Outcome:
    """Predict what the plan has left.

    Args:
        png: write every mask as a PNG file of its own as well.

    Raises:
        as `engine.pipeline.driver.drive`.
    """
    if not plan.remaining and not png:
        return drive(plan)
    check_address()
    with on_cluster():
        outcome = drive(plan, workers=workers, tell=tell)
        if png:
            with explained():
                count = write_all_masks(plan.run, [lease for lease in plan.leases if lease.id in outcome.receipts])
            tell(f"masks: {count} in {storage.redact(storage.join(plan.run.url, 'masks'))}")
    return outcome


def write_all_masks(run: LabelRun, leases: list[Lease]) -> int:
    """Writes the masks of finished leases as PNG files; returns their number."""
    quiet_ray_data()
    items = [{"lease": json.dumps(lease.to_json())} for lease in leases]
    rows = (
        ray.data.from_items(items, override_num_blocks=max(1, len(items)))
        .map_batches(partial(_write, run=run), batch_size=1)
        .iter_rows()
    )
    return sum(row["count"] for row in rows)


def _write(batch: dict[str, Any], run: LabelRun) -> dict[str, list[int]]:
    return {"count": [write_masks(run, Lease.from_json(json.loads(batch["lease"][0])))]}
