"""Concept in, segmentation model out: labels, synthetic images, the segmenter, and how good they are."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import logging
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

# Where the project is not installed (a job's working directory), it is found beside this file.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from engine import storage
from engine.run.command import run_command
from engine.run.directory import RunError, find_input, find_moved
from engine.run.ignored import tell_ignored, tell_ignored_training
from engine.run.later_options import Segmentation, Synthesis, segmenter_spec, synthesis_spec
from engine.run.names import SEGMENTER, choose_run_url
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
    settings_to_config,
    source_of,
)
from engine.run.origin import Origin, find_origin
from engine.run.plan import LabelPlan, plan_labelling
from engine.run.predict import plan_prediction
from engine.run.segmenter import SegmenterTask, plan_training
from engine.run.source import ModelSource
from engine.run.summary import Outcome
from engine.run.synthesis import FOLDER, SynthesisPlan, plan_synthesis
from engine.run.what_next import describe_next
from engine.segmenter.spec import SegmenterSpec
from engine.synthesis.spec import SynthesisSpec

logger = logging.getLogger(__name__)

NO_TEST = "skipped, the images have no ground truth (name some that do with --test)"


@dataclass(frozen=True, kw_only=True)
class Test:
    """What the segmenter is measured on."""

    test: Annotated[str | None, tyro.conf.arg(metavar="CORPUS")] = None
    """Images with ground truth, best none of those that were labelled. Default: the images that were labelled, if they
    have ground truth."""


@dataclass(frozen=True, kw_only=True)
class Distill:
    """All settings of the job."""

    what: tyro.conf.OmitArgPrefixes[What]
    where: tyro.conf.OmitArgPrefixes[Where]
    test: tyro.conf.OmitArgPrefixes[Test]
    model: tyro.conf.OmitArgPrefixes[Model]
    method: tyro.conf.OmitArgPrefixes[Method]
    refinement: tyro.conf.OmitArgPrefixes[Refinement]
    distillation: tyro.conf.OmitArgPrefixes[Distillation]
    synthesis: Synthesis
    training: Segmentation = dataclasses.field(default_factory=lambda: Segmentation(synthetic=True))
    execution: tyro.conf.OmitArgPrefixes[Execution]


DESCRIPTION = """Goes all the way from a word and images without labels to a segmentation model.

Stages:
  labels      as jobs/label.py: masks of all images, with a model fine-tuned on the concept
  synthesis   as jobs/synthesize.py: variations of the images by this model, and their masks
  training    as jobs/train.py: a U-Net that learns from both
  evaluation  as jobs/predict.py and jobs/evaluate.py, where there is ground truth to compare with

Each stage has its own job for more control; all of them share the run directory.

Examples:
  python jobs/distill.py --concept car
  python jobs/distill.py --concept bird --input 'tars/{000000..000003}.tar' --run runs/bird --test 'held-out/*.tar'
  python jobs/distill.py --concept car --profile fast --synthesis.count 5000 --training.steps 20000

Interrupt at any time: the same command resumes. Exit code: 0 done, 1 stopped or with more failures than
--max-failures, 2 wrong usage."""


def main(arguments: list[str] | None = None) -> int:
    """Parses, plans, runs one stage after the other, and sums up; returns the exit code."""

    def run(options: Distill) -> int:
        source = source_of(options.model)
        labelling = _plan_labels(options, source)
        # What makes no sense is refused now rather than after hours of labelling.
        settings = synthesis_spec(options.synthesis, prefix="synthesis.")
        training = segmenter_spec(options.training, prefix="training.")
        tell_ignored_training(options.distillation)
        if training.synthetic:
            source.check_synthesis(settings)
        else:
            tell_ignored(options.synthesis, "--training.no-synthetic", prefix="synthesis.")
        test = _find_test(options, labelling)
        _check_what_is_there(labelling, settings, training)
        print(f"{labelling.describe()}\n{_describe_rest(labelling, settings, training, test)}", flush=True)
        if options.execution.dry_run:
            return 0
        tell = functools.partial(print, flush=True)
        # Imported here because Ray takes seconds, and many calls end before they need it.
        from engine.pipeline.driver import on_cluster, run_plan
        from engine.pipeline.synthesize import run_synthesis
        from engine.pipeline.train import run_training

        workers, config = options.execution.workers, dataclasses.asdict(options)
        with on_cluster():
            _begin("labels", tell)
            outcomes = [run_plan(labelling, workers=workers, tell=tell)]
            tell(outcomes[0].describe())
            _stop_where_leases_failed(outcomes[0])
            if training.synthetic:
                _begin("synthesis", tell)
                samples = _plan_samples(labelling, settings, config)
                outcomes.append(run_synthesis(samples, workers=workers, tell=tell))
                tell(outcomes[-1].describe())
                _stop_where_leases_failed(outcomes[-1])
            _begin("training", tell)
            task = plan_training(run_url=labelling.run.url, spec=training, input_url=labelling.input_url, config=config)
            run_training(task, most=workers, tell=tell)
            _begin("evaluation", tell)
            outcomes += _evaluate(options, labelling, task, test, tell)
            _draw(labelling, task, tell)
        url = labelling.run.url
        moved = find_moved(url, labelling.input_url)
        tell(describe_next("distill", run=url, model=task.url, concept=labelling.spec.concept, input_url=moved))
        return int(any(outcome.failed(options.execution.max_failures) for outcome in outcomes))

    return run_command(
        Distill, run, job="distill", description=DESCRIPTION, arguments=arguments, prefixes=True, once="--concept"
    )


def _find_test(options: Distill, labelling: LabelPlan) -> str | None:
    """The corpus that the segmenter is measured on; None without ground truth.

    Raises:
        ValueError: --test names no corpus, or one without ground truth.
    """
    from engine.evaluation.truth import has_truth

    concept, named = labelling.spec.concept, options.test.test
    if named is None:
        return labelling.input_url if has_truth(labelling.input_url, concept) else None
    corpus = storage.absolute(find_input(named, concept))
    if not has_truth(corpus, concept):
        raise ValueError(
            f"--test {storage.redact(named)} has no ground truth for {concept!r} beside its first images; give images "
            "with KEY.mask.png files, or leave it out"
        )
    return corpus


def _plan_samples(labelling: LabelPlan, settings: SynthesisSpec, config: dict[str, Any] | None = None) -> SynthesisPlan:
    return plan_synthesis(_find_origin(labelling), settings, input_url=labelling.input_url, config=config)


def _find_origin(labelling: LabelPlan) -> Origin:
    """The run, with its model where this command names it; that may have moved since the run started."""
    return find_origin(labelling.run.url, model=labelling.source.model, revision=labelling.source.revision)


def _check_what_is_there(labelling: LabelPlan, settings: SynthesisSpec, training: SegmenterSpec) -> None:
    """Refuses what ends with more labels or samples than later stages that are there began with; RunError."""
    segmenter, samples = (storage.join(labelling.run.url, name) for name in (SEGMENTER, FOLDER))
    there = [folder for folder in (segmenter, samples) if storage.exists(storage.join(folder, "run.json"))]
    if not (training.synthetic and settings.begins_from_images):
        there = [folder for folder in there if folder == segmenter]
    more = "labels" if labelling.remaining else ""
    if there and not more and training.synthetic and _plan_samples(labelling, settings).remaining:
        more, there = "samples", [folder for folder in there if folder == segmenter]
    if there and more:
        raise RunError(
            f"{' and '.join(map(storage.redact, there))} began with fewer {more} than this command makes; move what is "
            "there away to make it anew, give another --run, or use jobs/label.py, synthesize.py and train.py with an "
            "--output"
        )


def _describe_rest(labelling: LabelPlan, settings: SynthesisSpec, training: SegmenterSpec, test: str | None) -> str:
    """What the stages after the labelling will do, for a person, as far as it is known before there are labels."""
    samples = (
        f"{settings.count} samples, strength {settings.strength:g}, guidance {settings.guidance:g}"
        if training.synthetic
        else "none, the segmenter learns from the corpus alone"
    )
    facts = [
        ("synthesis", samples),
        ("training", f"{training.describe()}, into {storage.redact(storage.join(labelling.run.url, SEGMENTER))}"),
        ("evaluation", f"on {storage.redact(test)}" if test is not None else NO_TEST),
    ]
    return "\n".join(f"{name:<12}{fact}" for name, fact in facts)


def _stop_where_leases_failed(outcome: Outcome) -> None:
    """What comes next must begin with all of them; RuntimeError."""
    if left := list(outcome.failed_leases):
        raise RuntimeError(f"{len(left)} leases could not be done ({left[0]}); the same command tries them again")


def _begin(stage: str, tell: Any) -> None:
    tell(f"\n== {stage}")


def _plan_labels(options: Distill, source: ModelSource) -> LabelPlan:
    what, where = options.what, options.where
    return plan_labelling(
        spec=label_spec(what, options.method, options.refinement, "refined"),
        source=source,
        input_url=find_input(where.input, what.concept),
        run_url=choose_run_url(where.run, what.concept),
        distillation=distillation_spec(options.distillation),
        limit=where.limit,
        batch_size=options.execution.batch_size,
        precision=options.model.model_precision,
        config=settings_to_config(options, source),
    )


def _draw(labelling: LabelPlan, task: SegmenterTask, tell: Any) -> None:
    """RUN/story.png; a run is no failure for want of a picture."""
    from engine.pipeline.story import write_story_on_ray

    path = storage.join(labelling.run.url, "story.png")
    try:
        write_story_on_ray(_find_origin(labelling), task.url, labelling.input_url, path)
    except Exception as error:
        logger.warning("no picture: %s", error, exc_info=logger.isEnabledFor(logging.DEBUG))
    else:
        tell(f"to look at   {storage.redact(path)}")


def _evaluate(
    options: Distill, labelling: LabelPlan, task: SegmenterTask, test: str | None, tell: Any
) -> list[Outcome]:
    """Labels and the segmenter's masks against ground truth, where there is any; RUN/evaluation.json."""
    from engine.evaluation.evaluate import evaluate_run
    from engine.evaluation.report import format_report
    from engine.evaluation.rows import EvaluationError
    from engine.evaluation.truth import has_truth
    from engine.pipeline.predict import run_prediction

    if test is None:
        tell(f"evaluation: {NO_TEST}")
        return []
    concept, run, corpus = labelling.spec.concept, labelling.run.url, labelling.input_url
    results: dict[str, Any] = {}

    def compare(name: str, title: str, url: str, images: str) -> None:
        try:
            results[name] = evaluate_run(url, images, concept)
        except EvaluationError as error:  # as where only images beyond a --limit have masks: all else is done
            tell(f"{name}: not compared: {error}\n")
        else:
            tell(f"{title}{format_report(results[name])}\n")

    if has_truth(corpus, concept):
        compare("labels", "", run, corpus)
    digest = hashlib.sha256(f"{task.manifest.hash}\0{test}".encode()).hexdigest()[:8]
    plan = plan_prediction(
        model=task.url,
        input_url=test,
        output_url=storage.join(run, "predictions", digest),
        limit=options.where.limit if test == corpus else None,
    )
    outcome = run_prediction(plan, workers=options.execution.workers, tell=tell)
    if outcome.failed_leases:
        raise RuntimeError(f"{len(outcome.failed_leases)} leases of {storage.redact(test)} could not be predicted")
    compare("segmenter", f"masks of the segmenter on {storage.redact(test)}\n", plan.run.url, test)
    if results:
        storage.atomic_put((json.dumps(results, indent=2) + "\n").encode(), storage.join(run, "evaluation.json"))
    return [outcome]


if __name__ == "__main__":
    sys.exit(main())
