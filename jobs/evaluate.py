"""Compares a run's labels with the ground truth of its corpus."""

from __future__ import annotations

import json
import logging
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

# Where the project is not installed (a job's working directory), it is found beside this file.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from engine import storage
from engine.evaluation.evaluate import evaluate_run
from engine.evaluation.report import format_report
from engine.evaluation.rows import find_labels


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """Compares a run's labels with ground truth: AUROC of the heatmaps, accuracy, IoU and mIoU of the masks.

    In the paper's protocol: everything is brought to the size of the image, its short side resized to 128
    pixels, and the central 128 x 128 compared; accuracy and IoU pool the pixels of all images.

    Example: python jobs/evaluate.py --run runs/bird --input 'tars/{000000..000003}.tar' --json bird.json

    Exit code: 0 done, 2 wrong usage.
    """

    run: str
    """The run directory, a folder or URL, with labels in it."""
    input: str
    """The corpus that was labelled, with ground truth: KEY.mask.png, or KEY.CONCEPT.mask.png. miniature: the
    small corpus that comes with the project."""
    concept: str | None = None
    """Name of the ground truth. Default: the concept of the run."""
    json: Path | None = None
    """Also write the result to this file."""


def main(arguments: list[str] | None = None) -> int:
    """Parses, compares, prints; returns the exit code."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    job = tyro.cli(Evaluate, args=arguments)
    try:
        run = storage.absolute(job.run)
        concept = job.concept or find_labels(run)[0].concept
        result = evaluate_run(run, _corpus(job.input, concept), concept)
        if job.json:
            _write(result, job.json)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(format_report(result))
    return 0


def _corpus(name: str, concept: str) -> str:
    if name != "miniature":
        return name
    from engine.miniature import corpus_url

    return corpus_url(concept)


def _write(result: dict[str, Any], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    sys.exit(main())
