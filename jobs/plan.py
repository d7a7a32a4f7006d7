"""Predicts what a labelling run will take, from a short probe of its model on its images."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

# Where the project is not installed (a job's working directory), it is found beside this file.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from engine.run.command import run_command
from engine.run.forecast import make_forecast
from engine.run.labelling import Label, make_plan
from engine.run.options import Float
from engine.run.source import LabellerSource
from engine.run.what_next import describe_go_on


@dataclass(frozen=True, kw_only=True)
class Probing:
    """The probe, and what the devices cost."""

    probe: int = 16
    """Images of the corpus that are labelled, on this machine; it should be like the workers'."""
    device: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """cpu, cuda ... Default: cuda where there is one."""
    price_per_hour: Float = None
    """Of one worker's device."""

    def __post_init__(self) -> None:
        if self.probe < 1:
            raise ValueError(f"--probe is {self.probe}; it must be at least 1")
        if self.price_per_hour is not None and not 0 <= self.price_per_hour < math.inf:
            raise ValueError(f"--price-per-hour is {self.price_per_hour}; it must be 0 or more")


@dataclass(frozen=True, kw_only=True)
class Plan(Label):
    """All settings of the job."""

    probing: Probing


PROBING = ("--probe", "--device", "--price-per-hour")
"""What jobs/label.py does not have."""

DESCRIPTION = """Predicts what jobs/label.py with the same options will take: images per second, hours, disk, price.

Some images of the corpus are labelled here and now, with nothing kept. The prediction is written to RUN/plan.json, and
jobs/label.py says at its end how its own rate compares.

Examples:
  python jobs/plan.py --concept car
  python jobs/plan.py --concept bird --input s3://bucket/tars --workers 64 --price-per-hour 2.5

Exit code: 0 done, 1 stopped, 2 wrong usage."""


def main(arguments: list[str] | None = None, *, source: LabellerSource | None = None) -> int:
    """Parses, plans, probes, predicts; returns the exit code. Tests pass another `source` of labellers."""

    given = sys.argv[1:] if arguments is None else arguments

    def run(options: Plan) -> int:
        if options.probing.device is not None:
            from engine.gpu import check_device  # which imports torch, and most plans need not wait for it

            check_device(options.probing.device)
        plan = make_plan(options, source)
        print(plan.describe(), flush=True)
        if options.execution.dry_run or not plan.remaining:
            return 0
        forecast = make_forecast(
            plan,
            images=options.probing.probe,
            device=options.probing.device,
            workers=options.execution.workers or 1,
            limit=options.where.limit,
            price_per_hour=options.probing.price_per_hour,
        )
        print(f"\n{forecast.describe()}")
        forecast.write(plan.run)
        print(describe_go_on("label", given, without=PROBING, run=plan.run.url))
        return 0

    return run_command(Plan, run, job="plan", description=DESCRIPTION, arguments=arguments, resumes=False)


if __name__ == "__main__":
    sys.exit(main())
