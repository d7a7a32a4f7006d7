"""Mines masks of a concept from a corpus of images that nobody has labelled."""

from __future__ import annotations

import dataclasses
import functools
import logging
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

# Where the project is not installed (a job's working directory), it is found beside this file.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from engine import storage
from engine.run.command import run_command
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
)
from engine.run.plan import LabelPlan, default_run_url, plan_labelling
from engine.run.source import LabellerSource, ModelSource
from engine.run.summary import Outcome

logger = logging.getLogger(__name__)


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


@dataclass(frozen=True, kw_only=True)
class Status:
    """How a run stands, from its run directory alone."""

    status: Annotated[str, tyro.conf.arg(metavar="RUN")]
    """The run directory, a folder or URL."""
    json: bool = False
    """Print JSON."""


DESCRIPTION = """Mines pixel masks of a concept from images that nobody has labelled.

Coarse masks of a sample of the images come from the attention that the model pays to the word. On these the model
is fine-tuned to paint background where the object is. Then every image is compared with itself without the object.

Examples:
  python jobs/label.py --concept car
  python jobs/label.py --concept car --profile fast
  python jobs/label.py --concept bird --input 'tars/{000000..000003}.tar' --run runs/bird
  python jobs/label.py --concept car --retry-quarantined
  python jobs/label.py --concept "fire truck" --model OWNER/MODEL --revision COMMIT --input s3://bucket/images
  ray job submit --working-dir . -- python jobs/label.py --concept car

  python jobs/label.py --status runs/bird               how far that run is, whoever works on it; --json for programs

Without a running Ray cluster one is started for as long as this takes. Interrupt at any time: the same
command resumes. Exit code: 0 done, 1 finished with more failures than --max-failures (or stopped), 2 wrong
usage."""


def main(arguments: list[str] | None = None, *, source: LabellerSource | None = None) -> int:
    """Parses, plans, labels, and sums up; returns the exit code. Tests pass another `source` of labellers."""

    def run(options: Label) -> int:
        plan = _plan(options, source or ModelSource.named(options.model.model, options.model.revision))
        print(plan.describe(), flush=True)
        if options.execution.dry_run:
            return 0
        outcome = _label(plan, options.execution.workers)
        print(outcome.describe(contact_sheet=_draw(plan, outcome)))
        return int(outcome.failed(options.execution.max_failures))

    given = sys.argv[1:] if arguments is None else arguments
    if any(argument.partition("=")[0] == "--status" for argument in given):
        # Options of its own: what a run is to be labelled with is for the run to tell.
        return run_command(Status, _show, job="label", description="Tells how a run stands.", arguments=arguments)
    return run_command(Label, run, job="label", description=DESCRIPTION, arguments=arguments)


def _show(options: Status) -> int:
    from engine.run.status import read_status
    from engine.run.status_text import describe_status, status_to_json

    status = read_status(options.status)
    print(status_to_json(status) if options.json else describe_status(status))
    return 0


def _plan(options: Label, source: LabellerSource) -> LabelPlan:
    what, where = options.what, options.where
    return plan_labelling(
        spec=label_spec(what, options.method, options.refinement, options.stage.stage),
        source=source,
        input_url=find_input(where.input, what.concept),
        run_url=where.run or default_run_url(what.concept),
        distillation=distillation_spec(options.distillation),
        adapter=options.stage.adapter,
        limit=where.limit,
        batch_size=options.execution.batch_size,
        retry=options.execution.retry_quarantined,
        config=dataclasses.asdict(options),
    )


def _label(plan: LabelPlan, workers: int | None) -> Outcome:
    if not plan.remaining:
        return Outcome(plan=plan, receipts=plan.receipts, failed_leases={})
    # Imported here because Ray takes seconds, and many calls end before they need it.
    from engine.pipeline.driver import run_plan

    return run_plan(plan, workers=workers, tell=functools.partial(print, flush=True))


def _draw(plan: LabelPlan, outcome: Outcome) -> str | None:
    """The contact sheet of a run that has something to show; a run is no failure for want of a picture."""
    from engine.evaluation.contact_sheet import write_contact_sheet

    run = plan.run.url
    path = storage.join(run, "contact_sheet.png")
    try:
        if outcome.new or not storage.exists(path):
            write_contact_sheet(run, plan.input_url, path)
    except Exception as error:
        logger.warning("no contact sheet: %s", error, exc_info=logger.isEnabledFor(logging.DEBUG))
        return None
    return storage.redact(path)


if __name__ == "__main__":
    sys.exit(main())
