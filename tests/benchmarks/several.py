"""Several concepts in one run, against a run of each by itself, on scenes with one thing and with two.

    python -m tests.benchmarks.several --json docs/results/several-concepts.json

All four concepts are asked for in every scene, by m alone and with the profile `fast`: together, and each in a run of
its own that knows nothing of the others. An image that does not show a concept counts as one without it. IoU is pooled
over the images of a concept, then averaged over the concepts. Seconds are those that workers spent labelling; starting
Ray and loading the model, which runs of their own do four times, are not among them.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from engine.evaluation.evaluate import evaluate_run
from engine.miniature.corpus import write_corpus
from engine.miniature.things import CONCEPTS
from engine.run.directory import read_receipts
from jobs import label
from tests.benchmarks.labelling import show


def measure(objects: int, count: int, seed: int, folder: Path) -> dict[str, Any]:
    """IoU of each concept, their mean, and seconds: of a run of each, and of one of all."""
    corpus = folder / "scenes"
    list(write_corpus(corpus, count=count, seed=seed, objects=objects))
    own = {concept: label_scenes(corpus, folder / concept, [concept]) for concept in CONCEPTS}
    together = label_scenes(corpus, folder / "together", CONCEPTS)
    found: dict[str, Any] = {"scenes": count}
    for kind, runs in (("own", own), ("together", dict.fromkeys(CONCEPTS, together))):
        iou = {
            concept: evaluate_run(run, str(corpus), concept, negatives=True)["refined"]["iou"]
            for concept, run in runs.items()
        }
        seconds = sum(
            receipt.seconds["label"] for run in set(runs.values()) for receipt in read_receipts(run, "refined").values()
        )
        found[kind] = {"seconds": round(seconds, 1), "mean": sum(iou.values()) / len(iou), **iou}
    found["seconds, together over own"] = round(found["together"]["seconds"] / found["own"]["seconds"], 3)
    return found


def label_scenes(corpus: Path, run: Path, concepts: Sequence[str]) -> str:
    """The run directory with the labels of these concepts."""
    named = [word for concept in concepts for word in ("--concept", concept)]
    options = ["--input", str(corpus), "--run", str(run), "--profile", "fast", "--method", "none"]
    if label.main([*named, *options]):
        raise RuntimeError(f"labelling {corpus} failed")
    return str(run)


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
