"""Several concepts in one run, against each one's own labels in it, on scenes with one thing and with two.

    python -m tests.benchmarks.several --json docs/results/several-concepts.json

All four concepts are asked for in every scene, each with the others for distractors, by m alone and with the profile
`fast`; an image that does not show one counts as one without it. IoU is pooled over the images of a concept, then
averaged over the concepts.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

from engine.evaluation.evaluate import evaluate_run
from engine.miniature.corpus import write_corpus
from engine.miniature.things import CONCEPTS
from engine.run.names import concept_run_url
from jobs import label
from tests.benchmarks.labelling import show


def measure(objects: int, count: int, seed: int, folder: Path) -> dict[str, Any]:
    """IoU of each concept and their means, of runs of their own and of the joined one."""
    corpus, run = folder / "scenes", folder / "run"
    list(write_corpus(corpus, count=count, seed=seed, objects=objects))
    named = [word for concept in CONCEPTS for word in ("--concept", concept)]
    options = ["--input", str(corpus), "--run", str(run), "--profile", "fast", "--method", "none"]
    began = time.monotonic()
    if label.main([*named, *options]):
        raise RuntimeError(f"labelling {corpus} failed")
    seconds = time.monotonic() - began
    where = {"own": lambda concept: concept_run_url(str(run), concept), "joined": lambda concept: str(run)}
    found: dict[str, Any] = {"scenes": count, "seconds": round(seconds, 1)}
    for kind, url in where.items():
        iou = {
            concept: evaluate_run(url(concept), str(corpus), concept, negatives=True)["refined"]["iou"]
            for concept in CONCEPTS
        }
        found[kind] = {"mean": sum(iou.values()) / len(iou), **iou}
    return found


def main() -> None:
    """Measures and shows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100, help="scenes with one thing, and with two")
    parser.add_argument("--seed", type=int, default=3, help="of the scenes")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    arguments = parser.parse_args()
    figures: dict[str, Any] = {
        "command": f"python -m tests.benchmarks.several --count {arguments.count} --seed {arguments.seed}"
    }
    for name, objects in (("one thing", 1), ("two things", 2)):
        with tempfile.TemporaryDirectory() as folder:
            figures[name] = measure(objects, arguments.count, arguments.seed, Path(folder))
    show(figures, arguments.json)


if __name__ == "__main__":
    main()
