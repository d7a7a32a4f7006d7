"""Mines masks of a concept from a corpus of images that nobody has labelled."""

from __future__ import annotations

import dataclasses
import logging
import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

# Where the project is not installed (a job's working directory), it is found beside this file.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from engine import storage
from engine.labelling.spec import LabelSpec
from engine.run.plan import LabelPlan, default_run_url, plan_labelling
from engine.run.source import LabellerSource, ModelSource
from engine.run.summary import Outcome

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class What:
    """What to look for."""

    concept: str
    """The word or phrase whose pixels are wanted: car, "fire truck"."""
    prompt: str = "a photo of a {concept}"
    """The text the model is asked with, {concept} standing for the concept. Other words in it share the
    attention: --concept arms --prompt "a photo of a human with arms and legs"."""
    stage: Literal["preliminary"] = "preliminary"
    """How far to go. preliminary: masks from the model's attention alone."""


@dataclass(frozen=True, kw_only=True)
class Where:
    """Images and labels."""

    input: str = "miniature"
    """The images: a folder or URL of WebDataset tars (DIR, 'DIR/{000000..000099}.tar', s3://bucket/corpus),
    one tar, or a folder of images. miniature: the small corpus that comes with the project."""
    run: Annotated[str | None, tyro.conf.arg(metavar="DIR")] = None
    """The run directory, a folder or URL, for labels and all that belongs to them. The same command with the
    same run directory resumes: nothing is lost and nothing is done twice. Default:
    $MASKMINE_HOME/runs/CONCEPT, where MASKMINE_HOME is ~/.maskmine unless set."""
    limit: Annotated[int | None, tyro.conf.arg(metavar="INT")] = None
    """Label only the first so many images."""


@dataclass(frozen=True, kw_only=True)
class Model:
    """The text-to-image diffusion model that knows the concept."""

    model: str = "miniature"
    """A local folder in diffusers format (Stable Diffusion 1.x or 2.x, safetensors), or a hub id, which needs
    --revision. miniature: the small model that comes with the project."""
    revision: Annotated[str | None, tyro.conf.arg(metavar="REV")] = None
    """Branch, tag or commit of a hub id."""


@dataclass(frozen=True, kw_only=True)
class Method:
    """Settings that change the labels; they are part of the run's fingerprint."""

    seed: int = 0
    """An image's noise depends on this and its key only, not on batches or workers."""
    timesteps: int = 50
    """T: steps of the sampler's schedule."""
    attention_steps: int = 40
    """T0: how many of them, least noise first, the attention is averaged over. Time is proportional to it."""
    draws: int = 1
    """N: noise draws per timestep. Time is proportional to it."""
    mixture_rule: Literal["posterior", "midpoint"] = "posterior"
    """Where the threshold lies: where object and background are as likely, or midway between their means."""


@dataclass(frozen=True, kw_only=True)
class Execution:
    """How to run; nothing of this changes the labels."""

    workers: Annotated[int | None, tyro.conf.arg(metavar="INT")] = None
    """Labelling processes. Default: one per GPU of the cluster, without GPUs one per CPU."""
    batch_size: int = 8
    """Images labelled at once by a worker."""
    max_failures: float = 0.01
    """Largest fraction of images that may end in quarantine for the exit code to be 0."""
    dry_run: bool = False
    """Check everything, print the plan, and stop."""

    def __post_init__(self) -> None:
        if self.workers is not None and self.workers < 1:
            raise ValueError(f"--workers is {self.workers}; it must be at least 1")
        if self.batch_size < 1:
            raise ValueError(f"--batch-size is {self.batch_size}; it must be at least 1")
        if not 0 <= self.max_failures <= 1:
            raise ValueError(f"--max-failures is {self.max_failures}; it is a fraction between 0 and 1")


@dataclass(frozen=True, kw_only=True)
class Label:
    """All settings of the job."""

    what: What
    where: Where
    model: Model
    method: Method
    execution: Execution


DESCRIPTION = """Mines pixel masks of a concept from images that nobody has labelled.

Examples:
  python jobs/label.py --concept car
  python jobs/label.py --concept bird --input 'tars/{000000..000003}.tar' --run runs/bird
  python jobs/label.py --concept "fire truck" --model OWNER/MODEL --revision COMMIT --input s3://bucket/images
  ray job submit --working-dir . -- python jobs/label.py --concept car

Without a running Ray cluster one is started for as long as this takes. Interrupt at any time: the same
command resumes. Exit code: 0 done, 1 finished with more failures than --max-failures (or stopped), 2 wrong
usage."""


def main(arguments: list[str] | None = None, *, source: LabellerSource | None = None) -> int:
    """Parses, plans, labels, and sums up; returns the exit code. Tests pass another `source` of labellers."""
    # Their warnings are about parts that labelling does not use.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    try:
        options = tyro.cli(
            Label,
            args=arguments,
            prog="python jobs/label.py",
            description=DESCRIPTION,
            config=(tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff),
        )
        plan = _plan(options, source or ModelSource.named(options.model.model, options.model.revision))
        print(plan.describe(), flush=True)
        if options.execution.dry_run:
            return 0
        outcome = _label(plan, options.execution.workers)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except (RuntimeError, OSError) as error:
        print(f"stopped: {error}\nWhat is done is kept; run the same command to resume.", file=sys.stderr)
        return 1
    except KeyboardInterrupt as interrupt:
        print("\nInterrupted. What is done is kept; run the same command to resume.", file=sys.stderr)
        return 128 + (signal.SIGTERM if type(interrupt) is not KeyboardInterrupt else signal.SIGINT)
    print(outcome.describe(contact_sheet=_draw(outcome)))
    return int(outcome.failed(options.execution.max_failures))


def _plan(options: Label, source: LabellerSource) -> LabelPlan:
    what, where, method = options.what, options.where, options.method
    spec = LabelSpec(
        concept=what.concept,
        prompt=what.prompt.replace("{concept}", what.concept),
        stage=what.stage,
        timesteps=method.timesteps,
        attention_steps=method.attention_steps,
        draws=method.draws,
        seed=method.seed,
        mixture_rule=method.mixture_rule,
    )
    return plan_labelling(
        spec=spec,
        source=source,
        input_url=_find_input(where.input, what.concept),
        run_url=where.run or default_run_url(what.concept),
        limit=where.limit,
        batch_size=options.execution.batch_size,
        config=dataclasses.asdict(options),
    )


def _find_input(name: str, concept: str) -> str:
    if name != "miniature":
        return name
    from engine.miniature import corpus_url

    return corpus_url(concept)


def _label(plan: LabelPlan, workers: int | None) -> Outcome:
    if not plan.remaining:
        return Outcome(plan=plan, receipts=plan.receipts, failed_leases={})
    # Imported here because Ray takes seconds, and many calls end before they need it.
    from engine.pipeline.driver import drive

    return drive(plan, workers=workers)


def _draw(outcome: Outcome) -> str | None:
    """The contact sheet of a run that has something to show; a run is no failure for want of a picture."""
    from engine.evaluation.contact_sheet import write_contact_sheet

    run = outcome.plan.run.url
    path = storage.join(run, "contact_sheet.png")
    try:
        if outcome.new or not storage.exists(path):
            write_contact_sheet(run, outcome.plan.input_url, path)
    except Exception as error:
        logger.warning("no contact sheet: %s", error, exc_info=logger.isEnabledFor(logging.DEBUG))
        return None
    return storage.redact(path)


if __name__ == "__main__":
    sys.exit(main())
