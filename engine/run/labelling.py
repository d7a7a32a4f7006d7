"""The options of a labelling, and the plan that they stand for."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from engine import storage
from engine.labelling.spec import SeveralSpec
from engine.run.directory import find_input
from engine.run.ignored import tell_ignored_training
from engine.run.names import choose_run_url
from engine.run.options import (
    CONCEPT,
    Distillation,
    Execution,
    Method,
    Model,
    Refinement,
    What,
    Where,
    distillation_spec,
    label_spec,
    settings_to_config,
    source_of,
)
from engine.run.plan import LabelPlan, plan_labelling
from engine.run.several import read_concepts, refuse_joined
from engine.run.source import LabellerSource


@dataclass(frozen=True, kw_only=True)
class Concepts(What):
    """What to look for."""

    concept: Annotated[tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="WORD")] = ()  # type: ignore[assignment]
    """The word or phrase whose pixels are wanted: car, "fire truck". Given more than once, all are found in one pass
    over the images, with a row for each concept and image; each has the others for distractors, and no pixel is in two
    masks of an image."""
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


def make_plan(options: Label, source: LabellerSource | None = None) -> LabelPlan:
    """The checked plan of the job; ValueError for what cannot be done.

    Args:
        source: of labellers, instead of one of the model that the options name.
    """
    concepts, input_url = read_concepts(options.what.concept, options.what.concept_file), options.where.input
    run_url = choose_run_url(options.where.run, *concepts)
    asked = [
        What(
            concept=concept,
            prompt=options.what.prompt,
            background_prompt=options.what.background_prompt,
            distractor=options.what.distractor,
        )
        for concept in concepts
    ]
    specs = tuple(label_spec(what, options.method, options.refinement, options.stage.stage) for what in asked)
    tell_ignored_training(options.distillation, options.stage.adapter)
    source = source or source_of(options.model)
    config = settings_to_config(options, source)
    if options.stage.adapter is not None:
        config["stage"]["adapter"] = storage.absolute(options.stage.adapter)
    if len(concepts) == 1:
        config["what"] = dataclasses.asdict(asked[0])
    else:
        if input_url == "miniature":
            raise ValueError("--input miniature is one corpus for each concept; name the images to find several in")
        if CONCEPT in options.what.background_prompt:
            raise ValueError(
                f"--background-prompt {options.what.background_prompt!r} is one for all concepts; write it without "
                f"{CONCEPT}"
            )
        refuse_joined(run_url)
    return plan_labelling(
        spec=specs[0] if len(concepts) == 1 else SeveralSpec(specs=specs),
        source=source,
        input_url=find_input(input_url, concepts[0]),
        run_url=run_url,
        distillation=distillation_spec(options.distillation),
        adapter=options.stage.adapter,
        limit=options.where.limit,
        batch_size=options.execution.batch_size,
        precision=options.model.model_precision,
        retry=options.execution.retry_quarantined,
        config=config,
    )
