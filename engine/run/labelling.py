"""The options of a labelling, and the plan that they stand for."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from engine.run.directory import find_input
from engine.run.options import (
    Distillation,
    Execution,
    Method,
    Model,
    Refinement,
    What,
    Where,
    distillation_spec,
    label_spec,
    source_of,
)
from engine.run.plan import LabelPlan, default_run_url, plan_labelling
from engine.run.source import LabellerSource


@dataclass(frozen=True, kw_only=True)
class Stage:
    """How far to go, and where the fine-tuned model comes from."""

    stage: Literal["refined", "preliminary"] = "refined"
    """refined: all of it. preliminary: masks from the model's attention alone, coarse and quick."""
    adapter: Annotated[str | None, tyro.conf.arg(metavar="PATH")] = None
    """A fine-tuned model made before (RUN/concept/weights.safetensors), to be used instead of making one."""


@dataclass(frozen=True, kw_only=True)
class Labelling(Execution):
    """How to run; nothing of this changes the labels."""

    retry_quarantined: bool = False
    """Try again what is in quarantine, once images, model or machines are mended. Labels that are there stay as
    they are."""


@dataclass(frozen=True, kw_only=True)
class Label:
    """All settings of the job."""

    what: What
    stage: Stage
    where: Where
    model: Model
    method: Method
    refinement: Refinement
    distillation: Distillation
    execution: Labelling


def make_plan(options: Label, source: LabellerSource | None = None) -> LabelPlan:
    """The checked plan of the job; ValueError for what cannot be done.

    Args:
        source: of labellers, instead of one of the model that the options name.
    """
    what, where = options.what, options.where
    return plan_labelling(
        spec=label_spec(what, options.method, options.refinement, options.stage.stage),
        source=source or source_of(options.model),
        input_url=find_input(where.input, what.concept),
        run_url=where.run or default_run_url(what.concept),
        distillation=distillation_spec(options.distillation),
        adapter=options.stage.adapter,
        limit=where.limit,
        batch_size=options.execution.batch_size,
        precision=options.model.model_precision,
        retry=options.execution.retry_quarantined,
        config=dataclasses.asdict(options),
    )
