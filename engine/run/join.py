"""Labels of several concepts in one run: each concept's own labels of a lease, made one. No Ray.

RUN/concepts/NAME/      a run of each concept, like any other
RUN/labels/             their rows, image by image; no pixel is in two masks of an image
"""

from __future__ import annotations

import io
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from engine import storage
from engine.corpus.lease import Lease
from engine.corpus.sample import Defect
from engine.run.attempts import Attempt
from engine.run.directory import LabelRun
from engine.run.harvest import Complete, Harvest, LabellerBroken, Report, complete_lease
from engine.run.rows import mask_to_png, png_to_array, read_rows
from schemas.receipt import Receipt

OF_A_MASK = ("empty", "full", "touches_border")
"""Flags that a mask's own pixels decide."""

PRESENCE_WEIGHT = 3.0
"""Of a concept's presence in the whole image beside its advantage around a pixel, which fewer cells tell."""


@dataclass(frozen=True, kw_only=True)
class JoinTask:
    """The joining as it travels to a worker.

    Attributes:
        runs: of the concepts, in their order.
        run: where the joined labels go.
    """

    runs: tuple[LabelRun, ...]
    run: LabelRun

    @property
    def model(self) -> str:
        return self.run.model

    def load(self, *, device: str, threads: int | None) -> Complete:
        """What joins one lease after another; there is no model to load."""
        return lambda lease, report: join_lease(lease, self.runs, self.run, report)


def join_lease(
    lease: Lease, runs: tuple[LabelRun, ...], run: LabelRun, report: Report = lambda progress: None
) -> Receipt:
    """Joins the labels that the concepts' runs have of a lease; returns its receipt, as `label_lease` does.

    Images come in the first concept's order; those that it has no label of come last.

    Raises:
        LabellerBroken: a concept's labels of the lease are damaged, or not there.
        OSError: the run directory cannot be reached.
    """

    def work(harvest: Harvest, attempt: Attempt) -> None:
        began = time.perf_counter()
        own = [_read(each, lease, harvest) for each in runs]
        keys = list(dict.fromkeys(key for rows in own for key in rows))
        for place, key in enumerate(keys):
            rows = [rows[key] for rows in own if key in rows]
            harvest.rows += [(place, row) for row in make_disjoint(rows)]
        harvest.defects += list(enumerate(_find_defects(lease, runs)))
        harvest.seconds["join"] = time.perf_counter() - began

    return complete_lease(lease, run, report, work=work)


def make_disjoint(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of one image with masks that do not overlap, and with what follows from a mask that has changed."""
    # Imported here because torch takes seconds, and a plan needs none of it.
    from engine.labelling.heatmap import bytes_to_advantage
    from engine.labelling.overlap import resolve_overlap

    masks = [png_to_array(row["mask"]) for row in rows]
    if any(row["advantage"] is None or row["presence"] is None for row in rows):
        shared = resolve_overlap(masks, [png_to_array(row["heatmap"]) for row in rows])
    else:
        # Both say, the presence in first order, by what share the prompt's error is smaller: around a place, and where
        # the concept's heat is.
        scores = [bytes_to_advantage(png_to_array(row["advantage"])) for row in rows]
        shared = resolve_overlap(masks, scores, [PRESENCE_WEIGHT * row["presence"] for row in rows])
    found = zip(rows, masks, shared, strict=True)
    return [row if np.array_equal(old, new) else _with_mask(row, new) for row, old, new in found]


def _with_mask(row: dict[str, Any], mask: np.ndarray) -> dict[str, Any]:
    from engine.diffusion.geometry import bounding_box

    flags = [flag for flag in row["flags"] if flag not in OF_A_MASK]
    if not mask.any():  # what it was taken for is another concept
        flags.append("absent")
    elif mask[0].any() or mask[-1].any() or mask[:, 0].any() or mask[:, -1].any():
        flags.append("touches_border")
    return {
        **row,
        "mask": {**row["mask"], "bytes": mask_to_png(mask)},
        "bbox": list(bounding_box(mask)),
        "area": float(mask.mean()),
        "quality": row["quality"] if mask.any() else 0.0,
        "flags": flags,
    }


def _read(run: LabelRun, lease: Lease, harvest: Harvest) -> dict[str, dict[str, Any]]:
    """A concept's rows of a lease by key, noted as a source."""
    receipt, rows = run.find_receipt(lease), read_rows(run, lease.id)
    if receipt is None or receipt.labelled != len(rows):
        raise LabellerBroken(
            f"the labels of {run.concept!r} in {storage.redact(run.labels_url(lease.id))} are damaged or not there; "
            f"delete {storage.redact(run.receipt_url(lease.id))} and run the same command again"
        )
    harvest.sources[run.concept] = receipt.session
    return rows


def _find_defects(lease: Lease, runs: tuple[LabelRun, ...]) -> list[Defect]:
    """What is in the concepts' quarantines; what no concept could read or decode is in all of them, and counts once."""
    found: dict[tuple[str, ...], Defect] = {}
    for run in runs:
        try:
            table = pq.read_table(io.BytesIO(storage.read_bytes(run.quarantine_url(lease.id))))
        except FileNotFoundError:
            continue
        for row in table.to_pylist():
            own = run.concept if row["stage"] == "label" else ""
            message = f"{own}: {row['error']}" if own else row["error"]
            defect = Defect(
                shard=row["shard"],
                key=row["key"],
                stage=row["stage"],
                reason=row["reason"],
                message=message,
                traceback=row["traceback"],
            )
            found.setdefault((row["key"], row["stage"], row["reason"], own), defect)
    return list(found.values())
