"""The whole labeller: each profile beside the naive baseline, and what masks lose by being made quickly."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch

from engine.benchmark.clock import Clock, Work
from engine.benchmark.naive import NaiveLabeller
from engine.benchmark.operations import Operations
from engine.benchmark.rows import UNFIT, Report
from engine.benchmark.stages import add_stages
from engine.benchmark.subject import CONCEPT, Subject, make_model
from engine.diffusion.model import LatentDiffusion
from engine.distillation.weights import ConceptModel
from engine.labelling.label import Label
from engine.labelling.labeller import Labeller
from engine.labelling.spec import LabelSpec
from engine.run.options import PROFILES, Method, Refinement, What, label_spec


def spec_of(profile: str, *, shorten: int = 1) -> LabelSpec:
    """The settings of a profile, its numbers of steps divided; no image is called absent."""
    spec = label_spec(What(concept=CONCEPT), Method(profile=profile), Refinement(), "refined")  # type: ignore[arg-type]
    fewer = {
        name: max(1, getattr(spec, name) // shorten)
        for name in ("timesteps", "attention_steps", "propagation_steps", "presence_steps")
    }
    settings = replace(spec.refinement, inpaint_steps=max(1, spec.refinement.inpaint_steps // shorten))
    # Random weights find no concept, and an image that is called absent costs less.
    return replace(spec, **fewer, refinement=settings, presence_threshold=-1e9)


def measure_labelling(
    report: Report, subject: Subject, clock: Clock, operations: Operations, *, shorten: int = 1, compiled: bool = False
) -> None:
    """Adds the rows of both profiles and of the naive baseline.

    Args:
        shorten: divides all numbers of steps, for a quick try.
        compiled: compile the U-Nets of the labellers, never that of the baseline.
    """
    specs = {name: spec_of(name, shorten=shorten) for name in PROFILES}
    labellers = {
        name: Labeller(another(subject), spec, weights=subject.weights, compiled=compiled)
        for name, spec in specs.items()
    }
    labels: dict[str, list[Label]] = {}

    def work(name: str) -> Work:
        return lambda: labels.__setitem__(name, labellers[name](subject.images, subject.keys))

    naive = NaiveLabeller(another(subject), specs["paper"], weights=subject.weights)
    works: dict[str, Work] = {name: work(name) for name in specs}
    works["naive"] = partial(naive, subject.images, subject.keys)
    each: dict[str, float] = {}

    def time(*names: str) -> None:
        times = clock.seconds(*map(works.__getitem__, names), warm_up=compiled or clock.device.type != "cpu")
        each.update((name, seconds / len(subject.images)) for name, seconds in zip(names, times, strict=True))

    if not report.attempt("naive, whole", lambda: time(*works)):  # it keeps all maps
        time(*specs)
    for name, seconds in each.items():
        report.add(f"{name}, whole", 1 / seconds, "images/s")
    ratio = f"paper ÷ naive{'' if subject.model.resolution < 512 else ' at 512²'}, images/s"
    if "naive" in each:
        report.add(ratio, each["naive"] / each["paper"])
    else:
        report.add(ratio, None, note=UNFIT)
    report.add("fast ÷ paper, images/s", each["paper"] / each["fast"])
    for name, spec in specs.items():
        achieved = operations.of_image(spec) / each[name]
        report.add(f"{name}, achieved ÷ P", achieved / report.about["P"], note=_unpainted(labels[name]))
        stages = partial(add_stages, report, name, subject, labellers[name], clock, operations, whole=each[name])
        report.attempt(f"{name}, mixtures' share", stages)
    _add_overlaps(report, subject, specs["paper"], labels)


def _add_overlaps(report: Report, subject: Subject, spec: LabelSpec, labels: dict[str, list[Label]]) -> None:
    """IoU of masks, pooled, with those that the profile's short cuts or this precision and layout did not touch."""
    names = ("fast against paper, mask IoU", "paper against float32 eager, mask IoU")
    if not subject.informative:
        for name in names:
            report.add(name, None, note="masks of random weights mean nothing")
        return
    report.add(names[0], overlap(labels["fast"], labels["paper"]))

    def compare() -> None:
        reference = another(subject, dtype=torch.float32)
        for network in (reference.unet, reference.vae):
            network.to(memory_format=torch.contiguous_format)
        plain = Labeller(reference, spec, batch_size=8)
        plain.concept = ConceptModel.load(reference, subject.weights)  # its adapters as they are
        report.add(names[1], overlap(labels["paper"], plain(subject.images, subject.keys)))

    report.attempt(names[1], compare)


def overlap(labels: list[Label], others: list[Label]) -> float:
    """Pooled IoU of the masks."""
    both, either = (
        sum(int(operate(a.mask, b.mask).sum()) for a, b in zip(labels, others, strict=True))
        for operate in (np.logical_and, np.logical_or)
    )
    return both / max(either, 1)


def another(subject: Subject, **changes: Any) -> LatentDiffusion:
    """The subject's model once more: labellers change what they are given."""
    kind = {"device": subject.model.device, "dtype": subject.model.unet.dtype, **changes}
    return make_model(subject.shape, **kind)


def _unpainted(labels: list[Label]) -> str:
    done = sum(label.signals is not None for label in labels)
    return "" if done == len(labels) else f"only {done} of {len(labels)} images were painted"
