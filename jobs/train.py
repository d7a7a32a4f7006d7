"""Trains a segmenter on the masks of a run."""

from __future__ import annotations

import dataclasses
import functools
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

# Where the project is not installed (a job's working directory), it is found beside this file.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from engine.run.command import run_command
from engine.run.later_options import Segmentation, segmenter_spec
from engine.run.options import Int
from engine.run.segmenter import SegmenterTask, plan_training
from engine.run.what_next import describe_next


@dataclass(frozen=True, kw_only=True)
class Learn:
    """What to learn from, and where to keep the result."""

    run: Annotated[str | None, tyro.conf.arg(metavar="DIR")] = None
    """The run directory, a folder or URL, with labels in it. Not needed for --labels truth."""
    concept: Annotated[tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="NAME")] = ()
    """Without --run: whose masks (KEY.NAME.mask.png, or KEY.mask.png) to learn from; given more than once, each is a
    class. With a run of several concepts: only some of them, into RUN/segmenter-NAME. Default: all of the run."""
    input: Annotated[str | None, tyro.conf.arg(metavar="CORPUS")] = None
    """The images that the labels are of. Default: where they were when they were labelled."""
    output: Annotated[str | None, tyro.conf.arg(metavar="DIR")] = None
    """Where to keep the segmenter. The same command with the same folder resumes. Default: RUN/segmenter."""
    review: Annotated[str | None, tyro.conf.arg(metavar="CSV")] = None
    """Decisions of a person, with the columns shard, key, decision: accept (learn from it whatever its quality and
    flags), reject, unsure (no decision)."""


@dataclass(frozen=True, kw_only=True)
class Train:
    """All settings of the job."""

    learn: Learn
    segmentation: Segmentation
    workers: Int = None
    """Processes that share every batch. Default: one per GPU of the cluster, without GPUs one per CPU but one."""
    dry_run: bool = False
    """Check everything, print the plan, and stop."""

    def __post_init__(self) -> None:
        if self.workers is not None and self.workers < 1:
            raise ValueError(f"--workers is {self.workers}; it must be at least 1")


DESCRIPTION = """Trains a segmenter, a plain U-Net, on the masks that a run has mined.

It needs no diffusion model any more: jobs/predict.py segments any number of images with it, jobs/export.py makes an
ONNX file of it. Look at RUN/segmenter: loss.png, metrics.jsonl, and progress.png with images, labels and predictions.

Examples:
  python jobs/train.py --run runs/car
  python jobs/train.py --run runs/car --synthetic
  python jobs/train.py --labels truth --concept horse --input masked-photos --output supervised
  python jobs/train.py --run runs/street
  python jobs/train.py --run runs/car --labels preliminary --output runs/car/segmenter-coarse --steps 2000

Interrupt at any time: the same command resumes. Exit code: 0 done, 1 stopped, 2 wrong usage."""


def main(arguments: list[str] | None = None) -> int:
    """Parses, plans, trains; returns the exit code."""

    def run(options: Train) -> int:
        task = _plan(options)
        print(task.describe(), flush=True)
        if options.dry_run:
            return 0
        # Imported here because Ray takes seconds, and many calls end before they need it.
        from engine.pipeline.train import run_training

        receipt = run_training(task, workers=options.workers, tell=functools.partial(print, flush=True))
        print(f"loss        {receipt.first_loss:.4f} -> {receipt.last_loss:.4f} in {receipt.steps} steps")
        print(describe_next("train", model=task.url, concept="-".join(task.concepts) or task.concept))
        return 0

    return run_command(Train, run, job="train", description=DESCRIPTION, arguments=arguments)


def _plan(options: Train) -> SegmenterTask:
    learn = options.learn
    return plan_training(
        run_url=learn.run,
        spec=segmenter_spec(options.segmentation),
        concept=learn.concept,
        input_url=learn.input,
        output_url=learn.output,
        review_url=learn.review,
        config=dataclasses.asdict(options),
    )


if __name__ == "__main__":
    sys.exit(main())
