"""How a run stands, from its run directory alone: while others work on it, and after they have gone."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Literal

from engine import storage
from engine.run.directory import STAGE_FOLDERS, RunError, read_manifest, read_receipts
from engine.run.heartbeat import EVERY, snapshot_url
from engine.run.names import CONCEPT, SEGMENTER, concept_url
from engine.run.segmenter import CHECKPOINTS
from engine.run.synthesis import FOLDER as SYNTHETIC
from schemas.receipt import Receipt
from schemas.snapshot import Snapshot
from schemas.training import TrainingReceipt

SILENT_AFTER = 6 * EVERY
"""Seconds without a snapshot after which a driver is taken for dead."""
RECENT = 3600.0
"""Seconds before the last receipt in which the rate is measured."""

State = Literal["to do", "begun", "running", "stopped", "done"]
"""Trainings don't tell whether somebody is at them: they are begun or done."""


@dataclass(frozen=True, kw_only=True)
class StageStatus:
    """What a stage came to so far.

    Attributes:
        leases: of the whole stage; None if no driver has told.
        images: that are accounted for by receipts; `done` also counts those of leases in progress, as last told.
        planned: images of the stage, None while unknown, exact unless `estimated`.
        outcomes, flags, ignored: see `schemas.receipt`; an outcome is "labelled" or a reason of the quarantine.
        seconds, bytes: sums over the receipts, by step and by name.
        rate: images per second; of the running driver, else of the last hour of work.
        eta: seconds to go at that rate, while it runs.
        workers: that the driver asked for.
        last: of the last sign of life, ISO 8601; "" if there is none.
    """

    name: str
    state: State
    leases: int | None
    leases_done: int
    images: int
    done: int
    planned: int | None
    estimated: bool
    outcomes: dict[str, int] = field(default_factory=dict)
    flags: dict[str, int] = field(default_factory=dict)
    ignored: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    bytes: dict[str, int] = field(default_factory=dict)
    rate: float | None = None
    eta: float | None = None
    workers: int | None = None
    last: str = ""


@dataclass(frozen=True, kw_only=True)
class TrainingStatus:
    """What a training came to so far; `step` is the last one that something was written at."""

    name: str
    state: State
    step: int
    steps: int | None
    losses: tuple[float, float] | None = None
    images: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class RunStatus:
    """How a run stands; the fine-tuning on one of several concepts is called ``WORD/concept``."""

    url: str
    concept: str
    fingerprint: str
    created: str
    stages: list[StageStatus]
    trainings: list[TrainingStatus]

    @property
    def last(self) -> str:
        """The last sign of life, ISO 8601; that of the start if there is none."""
        return max((stage.last for stage in self.stages), default="") or self.created


def read_status(url: str, *, now: datetime | None = None) -> RunStatus:
    """How the run at the URL stands.

    Raises:
        RunError: there is no run, or a segmenter, or a file of it is unreadable.
    """
    url = storage.absolute(url)
    manifest = read_manifest(url, first="name a run directory that jobs/label.py made")
    if manifest.kind == "a segmenter":
        raise RunError(f"{storage.redact(url)} holds {manifest.holds}; name the run directory that it has learned from")
    now = now or datetime.now(timezone.utc)
    stages = [read_stage(url, stage, stage, now) for stage in STAGE_FOLDERS]
    synthetic = storage.join(url, SYNTHETIC)
    if storage.exists(storage.join(synthetic, "run.json")):
        stages += [read_stage(synthetic, "refined", SYNTHETIC, now)]
    steps, several = (manifest.fingerprint.get(name) for name in ("distillation.steps", "concepts"))
    trainings = [
        _read_training(concept_url(url, name), f"{name}/{CONCEPT}" if name else CONCEPT, steps)
        for name in several or (None,)
    ]
    for name in storage.list_folders(url):  # those of some of several concepts lie beside that of all
        segmenter = storage.join(url, name)
        if name.startswith(SEGMENTER) and storage.exists(storage.join(segmenter, "run.json")):
            steps = read_manifest(segmenter).fingerprint.get("segmenter.steps")
            trainings.append(_read_training(segmenter, name, steps))
    return RunStatus(
        url=storage.redact(url),
        concept=str(manifest.fingerprint.get("concept", "")),
        fingerprint=manifest.hash,
        created=manifest.created,
        stages=[stage for stage in stages if stage.state != "to do"],
        trainings=[training for training in trainings if training.state != "to do"],
    )


def read_stage(url: str, stage: str, name: str, now: datetime) -> StageStatus:
    """One stage of a run directory, which is called `name`."""
    receipts = list(read_receipts(url, stage).values())
    snapshot = _read_snapshot(url, stage)
    images = sum(receipt.seen for receipt in receipts)
    outcomes = Counter({"labelled": sum(receipt.labelled for receipt in receipts)} if receipts else {})
    for receipt in receipts:
        outcomes.update(receipt.quarantined)
    state = _state(receipts, snapshot, now)
    alive = snapshot is not None and state == "running"
    planned, estimated = (snapshot.planned, snapshot.estimated) if snapshot else (None, False)
    if state == "done":
        planned, estimated = images, False
    done = max(images, snapshot.done) if snapshot and alive else images
    rate = snapshot.rate if snapshot and alive and snapshot.rate else measure_rate(receipts)
    left = None if planned is None else max(0, planned - done)
    return StageStatus(
        name=name,
        state=state,
        leases=snapshot.leases if snapshot else None,
        leases_done=len(receipts),
        images=images,
        done=done,
        planned=planned,
        estimated=estimated,
        outcomes=dict(outcomes),
        flags=_add_up(receipt.flags for receipt in receipts),
        ignored=_add_up(receipt.ignored for receipt in receipts),
        seconds={step: round(s, 3) for step, s in _add_up(receipt.seconds for receipt in receipts).items()},
        bytes=_add_up(receipt.bytes for receipt in receipts),
        rate=rate,
        eta=left / rate if alive and rate and left is not None else None,
        workers=snapshot.workers if snapshot else None,
        last=max([receipt.finished for receipt in receipts] + ([snapshot.updated] if snapshot else []), default=""),
    )


def measure_rate(receipts: Iterable[Receipt]) -> float | None:
    """Images per second in the last hour of work, pauses left out; None where receipts do not say when they were."""
    spans = sorted((_moment(r.finished), r.seconds.get("total", 0.0), r.seen) for r in receipts if r.finished)
    if not spans:
        return None
    begins = spans[-1][0] - RECENT
    recent = [(end - took, end, seen) for end, took, seen in spans if end >= begins]
    worked, until = 0.0, float("-inf")
    for start, end, _ in sorted(recent):
        worked += max(0.0, end - max(start, until))
        until = max(until, end)
    return sum(seen for _, _, seen in recent) / worked if worked > 0 else None


def _state(receipts: list[Receipt], snapshot: Snapshot | None, now: datetime) -> State:
    if snapshot is None:
        return "stopped" if receipts else "to do"
    silent = now.timestamp() - _moment(snapshot.updated)
    if snapshot.ended or silent > SILENT_AFTER:
        return "done" if len(receipts) >= snapshot.leases else "stopped"
    # While a driver is at it, receipts of before may be those of leases that it does again.
    return "done" if snapshot.leases_done >= snapshot.leases else "running"


def _read_snapshot(url: str, stage: str) -> Snapshot | None:
    try:
        return Snapshot.from_json(storage.read_bytes(snapshot_url(url, stage)))
    except (FileNotFoundError, ValueError):  # of another version: receipts tell enough
        return None


def _read_training(folder: str, name: str, steps: int | None) -> TrainingStatus:
    try:
        receipt = TrainingReceipt.from_json(storage.read_bytes(storage.join(folder, "receipt.json")).decode())
    except FileNotFoundError:
        begun = [name for part in ("training", CHECKPOINTS) for name in storage.list_names(storage.join(folder, part))]
        return TrainingStatus(name=name, state="begun" if begun else "to do", step=_last_step(folder), steps=steps)
    return TrainingStatus(
        name=name,
        state="done",
        step=receipt.steps,
        steps=receipt.steps,
        losses=(receipt.first_loss, receipt.last_loss),
        images=receipt.images,
        seconds=receipt.seconds,
    )


def _last_step(folder: str) -> int:
    """That pictures or metrics of a training tell of."""
    pictures = storage.list_names(storage.join(folder, "progress"))
    steps = [int(name[:-4]) for name in pictures if re.fullmatch(r"\d+\.png", name)]
    try:
        lines = storage.read_bytes(storage.join(folder, "metrics.jsonl")).splitlines()
    except FileNotFoundError:
        lines = []
    return max([*steps, len(lines)], default=0)


def _add_up(counts: Iterable[dict]) -> dict:
    total: Counter = Counter()
    for count in counts:
        total.update(count)
    return dict(sorted(total.items()))


def _moment(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()
