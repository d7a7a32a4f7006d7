"""The options of a labelling, and the plan that they stand for."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from engine.run.directory import find_input
from engine.run.names import default_run_url
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
from engine.run.plan import LabelPlan, plan_labelling
from engine.run.several import SeveralPlan, plan_several, read_concepts
from engine.run.source import LabellerSource


@dataclass(frozen=True, kw_only=True)
class Concepts(What):
    """What to look for."""

    concept: Annotated[tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="WORD")] = ()  # type: ignore[assignment]
    """The word or phrase whose pixels are wanted: car, "fire truck". Given more than once, there is a row for each
    concept and image, each concept has the others for distractors, and no pixel is in two masks of an image."""
    concept_file: Annotated[str | None, tyro.conf.arg(metavar="FILE")] = None
    """More concepts: a word or phrase in every line, # begins a remark."""


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

    what: Concepts
    stage: Stage
    where: Where
    model: Model
    method: Method
    refinement: Refinement
    distillation: Distillation
    execution: Labelling


def make_plan(options: Label, source: LabellerSource | None = None) -> LabelPlan | SeveralPlan:
    """The checked plan of the job; ValueError for what cannot be done.

    Args:
        source: of labellers, instead of one of the model that the options name.
    """
    concepts = read_concepts(options.what.concept, options.what.concept_file)
    asked = options.what
    config = dataclasses.asdict(options)

    def plan_one(concept: str, run_url: str) -> LabelPlan:
        # Without presence nothing is asked of them.
        rivals = [other for other in concepts if other != concept and options.method.presence_steps != 0]
        what = What(
            concept=concept,
            prompt=asked.prompt,
            background_prompt=asked.background_prompt,
            distractor=tuple(dict.fromkeys([*asked.distractor, *rivals])),
        )
        return plan_labelling(
            spec=label_spec(what, options.method, options.refinement, options.stage.stage),
            source=source or source_of(options.model),
            input_url=find_input(options.where.input, concept),
            run_url=run_url,
            distillation=distillation_spec(options.distillation),
            adapter=options.stage.adapter,
            limit=options.where.limit,
            batch_size=options.execution.batch_size,
            precision=options.model.model_precision,
            retry=options.execution.retry_quarantined,
            config={**config, "what": dataclasses.asdict(what)},
        )

    run_url = options.where.run or default_run_url(*concepts)
    if len(concepts) == 1:
        return plan_one(concepts[0], run_url)
    if options.where.input == "miniature":
        raise ValueError("--input miniature is one corpus for each concept; name the images to find several in")
    if options.stage.adapter is not None:
        raise ValueError("--adapter is for one concept; label each concept with its own")
    return plan_several(concepts, plan_one, run_url, config)
