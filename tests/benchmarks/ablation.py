"""The paper's ablation on the miniature (Table 2): labels and the U-Nets that learned from them, mean over concepts.

    python -m tests.benchmarks.ablation --json docs/results/ablation.json

For each concept, with the jobs a user would type: scenes without labels, labels by the fast profile, synthetic images,
and the study `ablation` on scenes of a seed that nothing was learned from. The supervised U-Net then judges the
synthetic objects (see `tests.benchmarks.synthetic`; pure backgrounds it cannot judge, as all that it has seen shows the
concept). Below --strength 1 these began from images whose true masks it has learned from. All is kept in --folder and
resumed from there. A CPU affords a narrower U-Net, smaller crops and fewer steps than the paper's; they are the same
for every row, and named in the result.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from engine.miniature.things import CONCEPTS
from engine.segmenter.segmenter import Segmenter
from engine.synthesis.spec import SynthesisSpec
from tests.benchmarks.labelling import show
from tests.benchmarks.synthetic import judge

ROOT = Path(__file__).resolve().parents[2]
TRAIN_SEED, TEST_SEED = 5, 3
MEASURES = ("acc", "iou", "miou")
JUDGED = ("objects", "iou_with_judge", "of_quality_0.7", "iou_with_judge_of_these")


def call(job: str, *options: object, log: Path) -> None:
    """Run a job of the project with one thread; its output goes to the log."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    with log.open("ab") as file:
        command = [sys.executable, str(ROOT / "jobs" / f"{job}.py"), *map(str, options)]
        subprocess.run(command, check=True, stdout=file, stderr=subprocess.STDOUT, env=environment)


def measure(concept: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """The study's figures for one concept."""
    folder = arguments.folder / concept
    folder.mkdir(parents=True, exist_ok=True)
    log, run = folder / "log.txt", folder / "run"
    scenes = {"train": (TRAIN_SEED, arguments.images), "test": (TEST_SEED, arguments.test)}
    for name, (seed, count) in scenes.items():
        options = ("--output", folder / name, "--concept", concept, "--seed", seed, "--count", count)
        call("miniature", *options, "--shard-size", 50, log=log)
    options = ("--concept", concept, "--input", folder / "train", "--run", run, "--profile", "fast")
    call("label", *options, "--workers", 1, "--max-failures", 1, log=log)
    call("synthesize", "--run", run, *synthesis_options(arguments), log=log)
    options = study_options(folder / "test", arguments.test, arguments)
    call("evaluate", "--run", run, *options, "--json", folder / "ablation.json", log=log)
    figures = json.loads((folder / "ablation.json").read_text())
    supervised = figures["folders"]["U-Net, supervised"]
    judged = judge(run, Segmenter.from_pretrained(run / "studies" / "ablation" / supervised))
    return {**figures, "synthetic": {name: judged[name] for name in JUDGED}}


def synthesis_options(arguments: argparse.Namespace) -> tuple[object, ...]:
    """Of `jobs/synthesize.py`."""
    return ("--count", arguments.synthetic, "--strength", arguments.strength, "--workers", 1)


def study_options(test: Path, images: int, arguments: argparse.Namespace) -> tuple[object, ...]:
    """Of `jobs/evaluate.py`, for the study on these held-out images."""
    options = ("--study", "ablation", "--test", test, "--limit", images, "--steps", arguments.steps)
    options += ("--train-batch-size", arguments.batch_size, "--width", arguments.width)
    options += ("--crop", arguments.crop, "--short-side", arguments.side, "--scale", arguments.scale)
    return (*options, "--min-quality", arguments.min_quality)


def add_options(parser: argparse.ArgumentParser, *, folder: str, steps: int, synthetic: int) -> None:
    """What every benchmark of U-Nets takes: their settings, and where and how to work."""
    parser.add_argument("--synthetic", type=int, default=synthetic, help="synthetic images, a concept")
    strength = "synthetic objects begin from noise (1) or images that are noised so far"
    parser.add_argument("--strength", type=float, default=SynthesisSpec.strength, help=strength)
    parser.add_argument("--steps", type=int, default=steps, help="of each U-Net")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--width", type=int, default=16, help="channels of a U-Net's first level (the default has 32)")
    parser.add_argument("--side", type=int, default=128, help="short side of the images as a U-Net sees them, pixels")
    parser.add_argument("--crop", type=int, default=64, help="side of the crops that it learns from, pixels")
    parser.add_argument("--scale", type=float, default=1.0, help="crops show up to so many times more or less")
    parser.add_argument("--min-quality", type=float, default=0.0, help="labels of less are not learned from")
    parser.add_argument("--folder", type=Path, default=Path(folder), help="for everything that is made")
    parser.add_argument("--processes", type=int, default=2, help="concepts at once, one thread each")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")


def written(arguments: argparse.Namespace, *names: str) -> str:
    """These of the options, and those of `add_options` that figures depend on, as one types them."""
    names += ("synthetic", "strength", "steps", "batch_size", "width", "side", "crop", "scale", "min_quality")
    return " ".join(f"--{name.replace('_', '-')} {getattr(arguments, name)}" for name in names)


def measure_each(
    measure: Callable[[str, argparse.Namespace], dict[str, Any]], arguments: argparse.Namespace
) -> dict[str, dict[str, Any]]:
    """The figures of every concept, several at once."""
    names = arguments.concepts.split(",")
    with ThreadPoolExecutor(arguments.processes) as pool:
        return dict(zip(names, pool.map(lambda name: measure(name, arguments), names), strict=True))


def mean_of(values: Iterable[float]) -> float:
    return round(float(np.mean(list(values))), 4)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--concepts", default=",".join(CONCEPTS))
    parser.add_argument("--images", type=int, default=400, help="scenes to label and learn from, a concept")
    parser.add_argument("--test", type=int, default=100, help="scenes held out, a concept")
    add_options(parser, folder="ablation", steps=400, synthetic=192)
    arguments = parser.parse_args()
    began = time.perf_counter()
    found = measure_each(measure, arguments)
    tables = [{row["row"]: row for row in study["rows"]} for study in found.values()]
    if any(table.keys() != tables[0].keys() for table in tables):
        raise SystemExit(f"the concepts have different rows: {[study['left_out'] for study in found.values()]}")
    mean = {row: {name: mean_of(table[row][name] for table in tables) for name in MEASURES} for row in tables[0]}
    judged = [study["synthetic"] for study in found.values()]
    options = written(arguments, "concepts", "images", "test")
    figures = {
        "command": f"python -m tests.benchmarks.ablation {options} --json docs/results/ablation.json",
        "date": time.strftime("%Y-%m-%d"),
        "seconds": round(time.perf_counter() - began),
        "mean": mean,
        "synthetic": {name: mean_of(each[name] for each in judged) for name in JUDGED if name.startswith("iou")},
        "of_supervised": round(mean["U-Net on D_s ∪ D′_s"]["iou"] / mean["U-Net, supervised"]["iou"], 4),
        "concepts": found,
    }
    show(figures, arguments.json)


if __name__ == "__main__":
    main()
