"""What a labelling run will take, from a short probe of its model on some of its images. No Ray."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, cast

import numpy as np

from engine import storage
from engine.corpus.decode import DecodeError, decode_image
from engine.corpus.reader import open_lease
from engine.corpus.sample import Sample
from engine.labelling.spec import LabelSpec, SeveralSpec
from engine.memory import free_memory
from engine.run.directory import LabelRun
from engine.run.names import index_folder
from engine.run.plan import LabelPlan
from engine.run.prefetch import Picture
from engine.run.quantities import format_bytes
from engine.run.rows import labels_to_parquet, make_rows
from engine.run.source import LabellerSource, ModelSource

FILE = "plan.json"
SHARDS = 8
"""So many shards are opened, spread over the corpus, to tell how many images all of them hold."""


@dataclass(frozen=True, kw_only=True)
class Probe:
    """What some images took, one worker's seconds per image.

    Attributes:
        images: that were labelled; `planned` are those that the run has to do.
        coarse: seconds per image up to the preliminary masks, as the fine-tuning's sample needs them.
        learning: the same of networks as they learn, which have a precision of their own and are not compiled.
        label_bytes: of an image's rows.
    """

    images: int
    planned: int
    seconds: float
    coarse: float
    learning: float
    label_bytes: float


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """What the run will take.

    Attributes:
        images: to be labelled; `sample` of them get a preliminary mask before, for the fine-tuning.
        seconds, coarse: of one worker for one image, all of it or the preliminary mask alone.
        fine_tuning: seconds, on one device; 0 where there is none to do.
        label_bytes: of an image's rows.
        device: of a worker.
        price_per_hour: of a worker's device.
    """

    images: int
    seconds: float
    workers: int
    device: str
    label_bytes: float
    sample: int = 0
    coarse: float = 0.0
    fine_tuning: float = 0.0
    price_per_hour: float | None = None

    @property
    def images_per_second(self) -> float:
        """Of all workers, while labelling."""
        return self.workers / self.seconds

    @property
    def hours(self) -> float:
        """From start to end, if nothing is lost."""
        return ((self.images * self.seconds + self.sample * self.coarse) / self.workers + self.fine_tuning) / 3600

    @property
    def device_hours(self) -> float:
        """Of all workers' devices, which are held from start to end."""
        return self.workers * self.hours

    @property
    def price(self) -> float | None:
        return None if self.price_per_hour is None else self.device_hours * self.price_per_hour

    def describe(self, *, now: datetime | None = None) -> str:
        """For a person, one fact per line."""
        end = (now or datetime.now()) + timedelta(hours=self.hours)
        each = f"{self.seconds:.3g} s an image, {self.workers} worker(s) on {self.device}"
        facts = [
            ("images", f"about {self.images}"),
            ("rate", f"{self.images_per_second:.3g} images/s ({each})"),
            ("time", f"{self.hours:.3g} hours; done at {end:%Y-%m-%d %H:%M} if started now"),
            ("devices", f"{self.device_hours:.3g} hours of {self.device}"),
            ("disk", f"{format_bytes(self.images * self.label_bytes)} of labels"),
        ]
        if self.fine_tuning:
            sample = f"{self.sample * self.coarse / self.workers / 3600:.2g} hours of masks of the sample"
            facts.insert(2, ("before", f"{sample}, about {self.fine_tuning / 3600:.2g} hours of fine-tuning"))
        if self.price is not None:
            facts.append(("price", f"{self.price:.2f} at {self.price_per_hour:g} an hour"))
        return "\n".join(f"{name:<12}{fact}" for name, fact in facts)

    def write(self, run: LabelRun) -> None:
        """Into the run directory, for the end of the run to be compared with."""
        values = {**dataclasses.asdict(self), "images_per_second": self.images_per_second, "hours": self.hours}
        values |= {"fingerprint": run.fingerprint, "stage": run.stage}
        storage.atomic_put((json.dumps(values, indent=1) + "\n").encode(), storage.join(run.url, FILE))


def read_rate(run: LabelRun) -> tuple[float, int] | None:
    """Images per second that were predicted for the run, and for how many workers; None if nothing was.

    What was predicted for other settings, or another stage, is nothing.
    """
    try:
        values = json.loads(storage.read_bytes(storage.join(run.url, FILE)))
        if (values["fingerprint"], values["stage"]) != (run.fingerprint, run.stage):
            return None
        return float(values["images_per_second"]), int(values["workers"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def probe(
    plan: LabelPlan, *, images: int, device: str, limit: int | None = None, now: Callable[[], float] = time.perf_counter
) -> Probe:
    """Labels some images of what the plan has left as one of its workers would, and keeps nothing.

    Without m′, which takes as long as m. On a GPU the worker's threads decode and encode while it labels, on a CPU
    they share its core; the first batch warms a GPU up.

    Args:
        limit: of the run, in images.
        now: the time in seconds.

    Raises:
        ValueError: none of the images that were tried can be read.
    """
    labeller = plan.source.build(plan.spec, device=device, threads=1 if device == "cpu" else None)
    began = now()
    pictures, planned = _read(plan, images)
    reading = now() - began
    if not pictures:
        raise ValueError(f"none of the first images of {storage.redact(plan.input_url)} can be read")
    batches = [pictures[i : i + plan.run.batch_size] for i in range(0, len(pictures), plan.run.batch_size)]

    def label(labeller: Any, **stage: Any) -> tuple[float, list[Any]]:
        began = now()
        labels = [x for b in batches for x in labeller([p.image for p in b], [p.key for p in b], **stage)]
        return (now() - began) / len(pictures), labels

    if device != "cpu":
        label(labeller)
    seconds, labels = label(labeller)
    coarse = learning = label(labeller, stage="preliminary")[0] if plan.concepts else 0.0
    if plan.concepts and (source := _as_it_learns(plan)) != plan.source:
        del labeller
        free_memory()
        labeller = source.build(plan.spec, device=device, threads=1 if device == "cpu" else None)
        if device != "cpu":
            label(labeller, stage="preliminary")
        learning = label(labeller, stage="preliminary")[0]
    began = now()
    rows = [row for p, x in zip(pictures, labels, strict=True) for row in make_rows(p, x, plan.run.concept)]
    encoding = now() - began
    beside = (reading + encoding) / len(pictures)
    return Probe(
        images=len(pictures),
        planned=planned if limit is None else min(planned, limit),
        seconds=seconds + beside if device == "cpu" else max(seconds, beside),
        coarse=coarse,
        learning=learning,
        label_bytes=len(labels_to_parquet(rows, plan.run)) / len(pictures),
    )


def make_forecast(
    plan: LabelPlan,
    *,
    images: int,
    device: str | None,
    workers: int,
    limit: int | None = None,
    price_per_hour: float | None = None,
) -> Forecast:
    """What the plan will take: probes with so many images, on CUDA if there is one and no other device is named."""
    import torch  # not needed for a run that only reads what was predicted

    from engine.labelling.passes import Passes

    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    done = sum(receipt.seen for receipt in plan.receipts.values())
    found = probe(plan, images=images, device=device, limit=None if limit is None else max(limit - done, 0))
    sample, fine_tuning = 0, 0.0
    if plan.concepts:
        settings, spec = plan.concepts[0].distillation, cast(LabelSpec | SeveralSpec, plan.spec)
        sample = min(settings.sample, found.planned)
        # A pass of the U-Net there and back takes about three passes there.
        passes = 3 * settings.steps * settings.batch_size * len(plan.concepts)
        fine_tuning = passes * found.learning / Passes.of(spec).attention
    return Forecast(
        images=found.planned,
        seconds=found.seconds,
        workers=workers,
        device=device,
        label_bytes=found.label_bytes,
        sample=sample,
        coarse=found.coarse,
        fine_tuning=fine_tuning,
        price_per_hour=price_per_hour,
    )


def _as_it_learns(plan: LabelPlan) -> LabellerSource:
    """The source of labellers whose networks are as fast as those of the fine-tuning."""
    if not isinstance(plan.source, ModelSource):
        return plan.source
    return dataclasses.replace(plan.source, precision=plan.concepts[0].distillation.precision, compiled=False)


def _read(plan: LabelPlan, count: int) -> tuple[list[Picture], int]:
    """Up to `count` pictures from leases spread over what is left, and how many images there are in all, about."""
    chosen = np.unique(np.linspace(0, len(plan.remaining) - 1, SHARDS).round().astype(int))
    leases = [plan.remaining[i] for i in chosen]
    pictures: list[Picture] = []
    found = size = 0.0
    for number, lease in enumerate(leases, 1):
        reader = open_lease(lease, indexes=index_folder(plan.run.url))
        found, size = found + reader.planned, size + lease.shard.size / lease.parts
        for item in reader:
            if len(pictures) >= -(-count * number // len(leases)):
                break
            if isinstance(item, Sample):
                try:
                    image = decode_image(item.image)
                except DecodeError:
                    continue
                pictures.append(Picture(index=len(pictures), shard=item.shard, key=item.key, image=image))
        reader.close()
    whole = sum(lease.shard.size / lease.parts for lease in plan.remaining)
    # Where the store tells no sizes, shards count alike.
    share = whole / size if size else len(plan.remaining) / len(leases)
    return pictures, round(found * share)
