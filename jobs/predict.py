"""Segments a corpus of images with a trained segmenter."""

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
from engine.run.directory import find_moved
from engine.run.options import Execution, Int
from engine.run.plan import LabelPlan
from engine.run.predict import plan_prediction
from engine.run.what_next import describe_next


@dataclass(frozen=True, kw_only=True)
class Predict:
    """All settings of the job."""

    model: Annotated[str, tyro.conf.arg(metavar="DIR")]
    """The segmenter: a folder or URL that jobs/train.py wrote."""
    input: Annotated[str, tyro.conf.arg(metavar="CORPUS")]
    """The images, of any size: a folder or URL of WebDataset tars, one tar, or a folder of images. miniature: the
    small corpus that comes with the project."""
    output: Annotated[str, tyro.conf.arg(metavar="DIR")]
    """A folder or URL for the masks, laid out as a run directory. The same command with the same folder resumes."""
    png: bool = False
    """Also write every mask as OUTPUT/masks/SHARD/KEY.png; of several concepts with 8 bits: 0 background, 1 the first
    concept, 2 the second."""
    window: int = 0
    """Look at the images through overlapping windows of this side, as large as the crops of the training, say; 0 looks
    at each at once."""
    short_side: Int = None
    """Short side of the images as the network sees them. Default: that of its training."""
    limit: Int = None
    """Segment only the first so many images."""
    execution: Execution


DESCRIPTION = """Segments a corpus of images with a trained segmenter.

OUTPUT/labels/*.parquet holds a row for each image and concept as jobs/label.py writes them, with the probability in
place of the heatmap; what cannot be read is in OUTPUT/quarantine. jobs/evaluate.py takes OUTPUT for a run.

Examples:
  python jobs/predict.py --model runs/car/segmenter --input photos --output masks --png
  python jobs/predict.py --model s3://bucket/car/segmenter --input s3://bucket/images --output s3://bucket/masks

Interrupt at any time: the same command resumes. Exit code: 0 done, 1 finished with more failures than
--max-failures (or stopped), 2 wrong usage."""


def main(arguments: list[str] | None = None) -> int:
    """Parses, plans, segments, and sums up; returns the exit code."""

    def run(options: Predict) -> int:
        plan = _plan(options)
        print(plan.describe(), flush=True)
        if options.execution.dry_run:
            return 0
        # Imported here because Ray takes seconds, and many calls end before they need it.
        from engine.pipeline.predict import run_prediction

        tell = functools.partial(print, flush=True)
        outcome = run_prediction(plan, workers=options.execution.workers, png=options.png, tell=tell)
        print(outcome.describe())
        if outcome.labelled and not outcome.failed_leases:
            several = getattr(plan.spec, "concepts", ())
            moved = find_moved(plan.run.url, plan.input_url)
            print(describe_next("predict", run=plan.run.url, one_of=several[0] if several else None, input_url=moved))
        return int(outcome.failed(options.execution.max_failures))

    return run_command(Predict, run, job="predict", description=DESCRIPTION, arguments=arguments)


def _plan(options: Predict) -> LabelPlan:
    return plan_prediction(
        model=options.model,
        input_url=options.input,
        output_url=options.output,
        short_side=options.short_side,
        window=options.window,
        limit=options.limit,
        batch_size=options.execution.batch_size,
        config=dataclasses.asdict(options),
    )


if __name__ == "__main__":
    sys.exit(main())
