"""Writes a page to look at the labels of a run with, and to decide about them."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

# Where the project is not installed (a job's working directory), it is found beside this file.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from engine import storage
from engine.run.command import run_command
from engine.run.options import Moved
from engine.run.what_next import describe_next

if TYPE_CHECKING:
    from engine.report.report import Painter


@dataclass(frozen=True, kw_only=True)
class ReportJob:
    """All settings of the job."""

    run: Annotated[str, tyro.conf.arg(metavar="DIR")]
    """The run directory, a folder or URL, with labels in it: of jobs/label.py or jobs/predict.py, or of
    jobs/synthesize.py (RUN/synthetic)."""
    input: Annotated[str | None, tyro.conf.arg(metavar="CORPUS")] = None
    """The images that the labels are of. Default: where they were when they were labelled."""
    output: Annotated[str | None, tyro.conf.arg(metavar="DIR")] = None
    """Folder or URL for the page and its pictures. Default: RUN/report."""
    concept: Annotated[str | None, tyro.conf.arg(metavar="WORD")] = None
    """Of a run of several concepts, the one whose labels to show. Default page: RUN/report-WORD."""
    rows: int = 10_000
    """Labels in the gallery, at most: those of least quality. Numbers and histograms are of all."""
    side: int = 256
    """Longer side of the pictures, pixels; at most 4083, and 3263 with --backgrounds."""
    backgrounds: int = 0
    """Paint the background once more for so many labels of jobs/label.py, the worst ones: labels do not hold it. Takes
    the run's model, and as long as labelling them did."""
    moved: Moved


DESCRIPTION = """Writes RUN/report/index.html: numbers, histograms, and all labels, the worst first, to look at and to
decide about with the keyboard. It opens from disk, without a server and without a network.

Decisions stay in the browser. Save them as review.csv from the page, and give them to jobs/train.py --review and
jobs/export.py --review. Run it again after labelling more: only new pictures are drawn, and decisions stay.

Examples:
  python jobs/report.py --run runs/car
  python jobs/report.py --run runs/car --rows 500 --backgrounds 100

Exit code: 0 done, 1 stopped, 2 wrong usage."""


def main(arguments: list[str] | None = None) -> int:
    """Parses, draws, writes; returns the exit code."""

    def run(job: ReportJob) -> int:
        from engine.report.report import ReportOptions, write_report

        options = ReportOptions(rows=job.rows, side=job.side, backgrounds=job.backgrounds)
        if job.moved != Moved() and not job.backgrounds:
            raise ValueError("--model, --revision and --adapter are for --backgrounds; give it, too, or leave them out")
        painter = _painter(job) if job.backgrounds else None
        report = write_report(
            job.run, options, input_url=job.input, output=job.output, concept=job.concept, painter=painter
        )
        print(report.extent.describe())
        print(f"labels      {report.labels}, the worst {report.shown} of them in the gallery")
        for reason, count in sorted(report.missing.items()):
            if count:
                print(f"no picture  {count}: {reason.replace('_', ' ')}")
        print(f"to open     {storage.redact(report.url)}")
        after, run = f"report of {report.kind} labels", storage.absolute(job.run)
        print(describe_next(after, run=run, one_of=job.concept, input_url=job.input))
        return 0

    return run_command(ReportJob, run, job="report", description=DESCRIPTION, arguments=arguments, resumes=False)


def _painter(job: ReportJob) -> Painter:
    # Imported here because most reports need no model.
    import torch

    from engine.report.backgrounds import make_painter

    device = "cuda" if torch.cuda.is_available() else "cpu"
    return make_painter(job.run, concept=job.concept, device=device, **vars(job.moved))


if __name__ == "__main__":
    sys.exit(main())
