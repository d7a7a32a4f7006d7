"""Synthesises images of a concept with their masks: the images are made by the fine-tuned model of a run."""

from __future__ import annotations

import dataclasses
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
from engine.run.classes import explain_synthetic
from engine.run.command import run_command
from engine.run.directory import read_manifest
from engine.run.later_options import Synthesis, synthesis_spec
from engine.run.options import Moved, Running
from engine.run.origin import find_origin
from engine.run.source import SynthesizerSource
from engine.run.summary import Outcome
from engine.run.synthesis import FOLDER, SynthesisPlan, plan_synthesis
from engine.run.what_next import describe_next

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Source:
    """The run to build on; concept, prompts, model and settings of the masks are its own."""

    run: Annotated[str, tyro.conf.arg(metavar="DIR")]
    """The run directory of jobs/label.py."""
    output: Annotated[str | None, tyro.conf.arg(metavar="DIR")] = None
    """Where the samples go, a folder or URL. Default: RUN/synthetic, where jobs/train.py finds them."""
    input: Annotated[str | None, tyro.conf.arg(metavar="CORPUS")] = None
    """Where the images of the run lie now, if not where it found them: samples begin from them."""


@dataclass(frozen=True, kw_only=True)
class Synthesize:
    """All settings of the job."""

    origin: Source
    moved: Moved
    samples: Synthesis
    execution: Running


DESCRIPTION = """Synthesises images of a concept with pixel masks, cut-outs and backgrounds, to train on.

The model that jobs/label.py fine-tuned makes the images, from noised ones of the corpus that are labelled already or
(--strength 1) from noise alone; they are then labelled as those of the corpus were. Some are pure backgrounds, which a
segmentation model learns from, too. RUN/synthetic/images holds them as WebDataset tars, RUN/synthetic/labels the same
rows as for any image; look at RUN/synthetic/contact_sheet.png.

Examples:
  python jobs/label.py --concept car --run runs/car
  python jobs/synthesize.py --run runs/car --count 1000
  python jobs/synthesize.py --run runs/car --count 200 --guidance 6 --output runs/car/vivid

Interrupt at any time: the same command resumes, and a larger --count adds to what is there. Exit code: 0 done,
1 stopped or with failures, 2 wrong usage."""


def main(arguments: list[str] | None = None, *, source: SynthesizerSource | None = None) -> int:
    """Parses, plans, synthesises, and sums up; returns the exit code. Tests pass another `source`."""

    def run(options: Synthesize) -> int:
        plan = _plan(options, source)
        print(plan.describe(), flush=True)
        if options.execution.dry_run:
            return 0
        outcome = _synthesize(plan, options.execution.workers)
        print(f"samples      {storage.redact(storage.join(plan.run.url, 'images'))}/*.tar")
        print(outcome.describe(contact_sheet=_draw(plan, outcome)))
        if outcome.labelled and not outcome.failed_leases:
            print(_next(plan, options.origin.input))
        return int(outcome.failed(options.execution.max_failures))

    return run_command(Synthesize, run, job="synthesize", description=DESCRIPTION, arguments=arguments)


def _plan(options: Synthesize, source: SynthesizerSource | None) -> SynthesisPlan:
    where = options.origin
    manifest = read_manifest(storage.absolute(where.run))
    if manifest.kind == "labels" and (several := manifest.fingerprint.get("concepts")):
        raise ValueError(explain_synthetic(where.run, several))
    settings = synthesis_spec(options.samples)
    if where.input is not None and not settings.begins_from_images:
        raise ValueError(
            f"--input {storage.redact(where.input)} names the images that objects begin from, and with --strength "
            f"{settings.strength:g} and --backgrounds {settings.backgrounds:g} none does; leave it out"
        )
    origin = find_origin(where.run, source=source, **vars(options.moved))
    return plan_synthesis(
        origin, settings, output=where.output, input_url=where.input, config=dataclasses.asdict(options)
    )


def _synthesize(plan: SynthesisPlan, workers: int | None) -> Outcome:
    if not plan.remaining:
        return Outcome(plan=plan, receipts=plan.receipts, failed_leases={})
    # Imported here because Ray takes seconds, and many calls end before they need it.
    from engine.pipeline.synthesize import run_synthesis

    return run_synthesis(plan, workers=workers, tell=functools.partial(print, flush=True))


def _next(plan: SynthesisPlan, input_url: str | None) -> str:
    if plan.run.url == storage.join(plan.origin.url, FOLDER):
        return describe_next("synthesize", run=plan.origin.url, input_url=input_url)
    return describe_next("synthesize --output", run=plan.run.url)


def _draw(plan: SynthesisPlan, outcome: Outcome) -> str | None:
    """The contact sheet; samples are no failure for want of a picture."""
    from engine.synthesis.contact_sheet import write_contact_sheet

    path = storage.join(plan.run.url, "contact_sheet.png")
    try:
        if outcome.new or not storage.exists(path):
            write_contact_sheet([lease.shard.url for lease in plan.leases], plan.origin.spec.concept, path)
    except Exception as error:
        logger.warning("no contact sheet: %s", error, exc_info=logger.isEnabledFor(logging.DEBUG))
        return None
    return storage.redact(path)


if __name__ == "__main__":
    sys.exit(main())
