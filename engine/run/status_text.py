"""The status of a run in a few lines, for a person."""

from __future__ import annotations

import dataclasses
import json
from datetime import datetime, timezone

from engine.run.quantities import format_bytes, format_count, format_counts, format_duration
from engine.run.status import RunStatus, StageStatus, TrainingStatus

NAMES = {"preliminary": "sample", "refined": "labels", "synthetic": "synthetic", "concept": "fine-tuning"}
"""What stages and trainings are called in the output of the jobs."""
OUTERMOST = ("wait", "label", "make", "write")
"""Steps that the time of a worker consists of; others lie within these or beside them."""


def describe_status(status: RunStatus, *, now: datetime | None = None) -> str:
    """The status, one fact per line."""
    age = (now or datetime.now(timezone.utc)) - datetime.fromisoformat(status.last)
    facts = [
        ("run", status.url),
        ("concept", f"{status.concept!r}, fingerprint {status.fingerprint}, started {status.created}"),
    ]
    for training in status.trainings:
        facts.append((_name(training.name), describe_training(training)))
    places = [place for place, (name, _) in enumerate(facts) if name.endswith(NAMES["concept"])]
    for stage in status.stages:
        lines = [(_name(stage.name), describe_progress(stage)), *_details(stage)]
        # The sample comes before the fine-tuning that learns from it.
        where = places[0] if places and stage.name == "preliminary" else len(facts)
        facts[where:where] = lines
    if not (status.stages or status.trainings):
        facts.append(("labels", "nothing yet"))
    facts.append(("last sign", f"{format_duration(age.total_seconds())} ago"))
    width = max(12, *(len(name) for name, _ in facts))
    return "\n".join(f"{name:<{width}} {fact}" for name, fact in facts)


def _name(name: str) -> str:
    concept, _, own = name.rpartition("/")
    return " ".join(filter(None, (concept, NAMES.get(own, own))))


def status_to_json(status: RunStatus) -> str:
    """The status as JSON."""
    return json.dumps({**dataclasses.asdict(status), "last": status.last}, indent=2, ensure_ascii=False)


def describe_progress(stage: StageStatus) -> str:
    """``running · 320 of ~1200 images (27%) · 3.2 images/s · ETA 4m35s · 3 of 12 leases · 4 workers``."""
    parts: list[str] = [stage.state]
    if stage.state == "done" or stage.planned is None:
        parts.append(format_count(stage.done, "image"))
    else:
        share = f" ({100 * stage.done / stage.planned:.0f}%)" if stage.planned else ""
        parts.append(f"{stage.done} of {'~' if stage.estimated else ''}{stage.planned} images{share}")
    if stage.rate:
        parts.append(f"{stage.rate:.3g} images/s")
    if stage.eta is not None:
        parts.append(f"ETA {format_duration(stage.eta)}")
    leases = "" if stage.leases is None or stage.state == "done" else f" of {stage.leases}"
    parts.append(f"{stage.leases_done}{leases} leases" if leases else format_count(stage.leases_done, "lease"))
    if stage.workers and stage.state == "running":
        parts.append(format_count(stage.workers, "worker"))
    return " · ".join(parts)


def describe_training(training: TrainingStatus) -> str:
    """``done · 150 steps · loss 0.1200 -> 0.0800 · 64 images``."""
    if training.state != "done":
        known = f" of {training.steps}" if training.steps else ""
        return f"{training.state} · at least step {training.step}{known}"
    parts = [training.state, format_count(training.step, "step")]
    if training.losses:
        parts.append(f"loss {training.losses[0]:.4f} -> {training.losses[1]:.4f}")
    if "used" in training.images:
        parts.append(format_count(training.images["used"], "image"))
    return " · ".join(parts)


def _details(stage: StageStatus) -> list[tuple[str, str]]:
    failed = {reason: number for reason, number in stage.outcomes.items() if reason != "labelled"}
    outcome = f"{stage.outcomes.get('labelled', 0)} labelled, {sum(failed.values())} quarantined"
    outcome += f" ({format_counts(failed)})" if failed else ""
    rows = [("outcome", outcome), ("flags", format_counts(stage.flags)), ("time", _time(stage))]
    rows += [("data", _data(stage.bytes)), ("never read", format_counts(stage.ignored))]
    return [(f"  {name}", text) for name, text in rows if text and stage.images]


def _time(stage: StageStatus) -> str:
    """Seconds of a worker per image: in all, and by step, those that a step consists of in brackets."""
    seconds, images = stage.seconds, max(1, stage.images)
    steps = []
    for outer in OUTERMOST:
        if outer in seconds:
            inner = {name.partition(".")[2]: s for name, s in seconds.items() if name.startswith(f"{outer}.")}
            split = ", ".join(
                f"{name} {s / images:.3g}" for name, s in sorted(inner.items(), key=lambda item: -item[1])
            )
            steps.append(f"{outer} {seconds[outer] / images:.3g}" + (f" ({split})" if split else ""))
    return f"{seconds.get('total', 0.0) / images:.3g} s of a worker per image: {', '.join(steps)}" if steps else ""


def _data(sizes: dict[str, int]) -> str:
    read = sizes.get("images", 0)
    return f"{format_bytes(read)} of images, {format_bytes(sum(sizes.values()) - read)} of labels" if sizes else ""
