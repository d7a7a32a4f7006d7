"""Mines masks of a concept from a corpus of images that nobody has labelled."""

from __future__ import annotations

import functools
import logging
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

# Where the project is not installed (a job's working directory), it is found beside this file.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from engine import storage
from engine.labelling.spec import SeveralSpec
from engine.run.command import run_command
from engine.run.directory import find_moved
from engine.run.forecast import read_rate
from engine.run.labelling import Label, make_plan
from engine.run.plan import LabelPlan
from engine.run.source import LabellerSource
from engine.run.summary import Outcome
from engine.run.what_next import describe_next

logger = logging.getLogger(__name__)


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
  python jobs/label.py --concept car --concept dog --input scenes --run runs/street
  python jobs/label.py --concept car --retry-quarantined
  python jobs/label.py --concept "fire truck" --model OWNER/MODEL --revision COMMIT --input s3://bucket/images
  ray job submit --working-dir . -- python jobs/label.py --concept car

  python jobs/label.py --status runs/bird               # how far that run is, whoever works on it
  python jobs/label.py --status runs/bird --json        # the same for programs

--status takes no other options but --json, and --json goes with --status only.

Without a running Ray cluster one is started for as long as this takes. Interrupt at any time: the same
command resumes. Exit code: 0 done, 1 finished with more failures than --max-failures (or stopped), 2 wrong
usage."""


def main(arguments: list[str] | None = None, *, source: LabellerSource | None = None) -> int:
    """Parses, plans, labels, and sums up; returns the exit code. Tests pass another `source` of labellers."""

    def run(options: Label) -> int:
        plan = make_plan(options, source)
        print(plan.describe(), flush=True)
        if options.execution.dry_run:
            return 0
        outcome = _label(plan, options.execution.workers)
        print(outcome.describe(contact_sheet=_draw(plan, outcome), predicted=read_rate(plan.run)))
        if outcome.labelled and not outcome.failed_leases:
            job = "label" if plan.run.stage == "refined" else "label --stage preliminary"
            one_of = plan.spec.concepts[0] if isinstance(plan.spec, SeveralSpec) else None
            moved = find_moved(plan.run.url, plan.input_url)
            print(describe_next(job, run=plan.run.url, one_of=one_of, input_url=moved))
        return int(outcome.failed(options.execution.max_failures))

    given = {argument.partition("=")[0] for argument in (sys.argv[1:] if arguments is None else arguments)}
    if wrong := _refuse_mixture(given):
        print(f"error: {wrong}", file=sys.stderr)
        return 2
    if "--status" in given:
        # Options of its own: what a run is to be labelled with is for the run to tell.
        return run_command(
            Status, _show, job="label", description="Tells how a run stands.", arguments=arguments, resumes=False
        )
    return run_command(Label, run, job="label", description=DESCRIPTION, arguments=arguments)


def _refuse_mixture(given: set[str]) -> str:
    """What is wrong with options of labelling beside those of --status; "" if nothing is."""
    if given & {"--help", "-h"}:
        return ""
    others = sorted(name for name in given if name.startswith("--") and name not in ("--status", "--json"))
    if "--status" in given and others:
        return f"--status takes no other options but --json; leave out {', '.join(others)}"
    if "--json" in given and "--status" not in given:
        return "--json goes with --status RUN, and no other options"
    return ""


def _show(options: Status) -> int:
    from engine.run.status import read_status
    from engine.run.status_text import describe_status, status_to_json

    status = read_status(options.status)
    print(status_to_json(status) if options.json else describe_status(status))
    return 0


def _label(plan: LabelPlan, workers: int | None) -> Outcome:
    if plan.done:
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
            write_contact_sheet(run, dict.fromkeys(lease.shard for lease in plan.leases), path)
    except Exception as error:
        logger.warning("no contact sheet: %s", error, exc_info=logger.isEnabledFor(logging.DEBUG))
        return None
    return storage.redact(path)


if __name__ == "__main__":
    sys.exit(main())
