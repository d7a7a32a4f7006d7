"""How good the labels are on the miniature: the figures of the README, with and without fine-tuning, both profiles.

    python -m tests.benchmarks.labelling --json docs/results/labelling.json

For each concept: preliminary masks of the bundled corpus, fine-tuning on them, then labels of scenes of a seed that was
never trained on nor labelled, against their exact masks. A fifth as many scenes without the concept (empty ones, and
such of other concepts) tell how well presence is recognised. The quality's ρ is that of all concepts' images together
("pooled") and of each concept's. Calls the engine as a worker does: no Ray, no files.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score

from engine.diffusion.geometry import upsample_mask
from engine.diffusion.model import find_model, load_model
from engine.distillation.spec import DistillationSpec
from engine.labelling.labeller import Labeller
from engine.miniature import model_path
from engine.miniature.scenes import Scene, draw_scene
from engine.miniature.things import CONCEPTS
from engine.run.options import Method, Refinement, What, label_spec
from tests.benchmarks.fine_tuning import fine_tuned, label


def draw_without(concept: str, seed: int, count: int) -> list[Scene]:
    """Scenes in which the concept does not occur, as the miniature world has them."""
    scenes: list[Scene] = []
    index = 0
    while len(scenes) < count:
        scene = draw_scene(seed, 500_000 + index)
        index += 1
        if concept not in scene.masks:
            scenes.append(scene)
    return scenes


def overlap(masks: list[np.ndarray], truths: list[np.ndarray]) -> tuple[float, np.ndarray]:
    """Pooled IoU, and that of every image."""
    both = np.array([(m & t).sum() for m, t in zip(masks, truths, strict=True)])
    either = np.array([(m | t).sum() for m, t in zip(masks, truths, strict=True)])
    return float(both.sum() / max(either.sum(), 1)), both / np.maximum(either, 1)


PAPERS_REFINEMENT = Refinement(
    inpaintings=1,
    dilate=0,
    colour="rgb",
    difference_power=1,
    heatmap_power=0,
    fit="region",
    refined_mixture_rule="posterior",
    smoothing=0,
    fill_holes=False,
    opening=0,
    component_heat=0,
)
"""Eq. 5 and nothing else."""


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One way to label: settings, as a job's options, and whether it is m′ that paints or m."""

    method: Method
    refinement: Refinement = field(default_factory=Refinement)
    tuned: bool = True
    presence: bool = True


FAST = Method(profile="fast")
SURE = replace(FAST, presence_steps=0)  # all images have the concept
KINDS = {
    "paper": Kind(method=Method(profile="paper")),
    "fast": Kind(method=FAST),
    "fast, m for m′": Kind(method=FAST, tuned=False, presence=False),
    "fast, paper's refinement": Kind(method=SURE, refinement=PAPERS_REFINEMENT, presence=False),
    "fast, paper's refinement, m for m′": Kind(method=SURE, refinement=PAPERS_REFINEMENT, tuned=False, presence=False),
}
"""What is measured; how well presence is told does not depend on m′."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Figures of one kind, its masks, and the quality and IoU of each."""

    figures: dict[str, Any]
    masks: list[np.ndarray]
    quality: np.ndarray
    iou: np.ndarray


def measure_kind(kind: Kind, labeller: Labeller, concept: str, scenes: list[Scene], without: list[Scene]) -> Measured:
    """The scenes labelled, and, if presence is asked for, those without the concept."""
    truths = [scene.masks[concept] for scene in scenes]
    labels, seconds = label(labeller, [scene.image for scene in scenes], "with")
    masks = [x.mask for x in labels]
    coarse = [upsample_mask(x.preliminary_mask, *x.mask.shape[::-1]) for x in labels]
    iou, each = overlap(masks, truths)
    quality = np.array([x.quality for x in labels])
    better = np.argsort(-quality, kind="stable")[: len(labels) // 2]
    figures: dict[str, Any] = {
        "iou": round(iou, 4),
        "preliminary_iou": round(overlap(coarse, truths)[0], 4),
        "iou_better_half_by_quality": round(overlap([masks[i] for i in better], [truths[i] for i in better])[0], 4),
        "spearman_quality_iou": round(float(spearmanr(quality, each).statistic), 4),
        "images_per_cpu_second": round(len(scenes) / seconds, 3),
    }
    if kind.presence:
        absent, _ = label(labeller, [scene.image for scene in without], "without")
        scores = [x.presence for x in labels] + [x.presence for x in absent]
        auroc = roc_auc_score([1] * len(labels) + [0] * len(absent), scores)
        called = {"with": sum("absent" in x.flags for x in labels), "without": sum("absent" in x.flags for x in absent)}
        figures.update(presence_auroc=round(float(auroc), 4), called_absent=called)
    figures["flags"] = dict(sorted(Counter(flag for x in labels for flag in x.flags).items()))
    return Measured(figures=figures, masks=masks, quality=quality, iou=each)


def measure(concept: str, arguments: argparse.Namespace) -> tuple[dict[str, Any], dict[str, Measured]]:
    """All figures of one concept, and what they were made from."""
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    specs = {name: label_spec(What(concept=concept), k.method, k.refinement, "refined") for name, k in KINDS.items()}
    began = time.perf_counter()
    weights = fine_tuned(concept, DistillationSpec(steps=arguments.steps), specs["fast"], arguments)
    fine_tuning = time.perf_counter() - began
    scenes = [draw_scene(arguments.seed, index, concept=concept) for index in range(arguments.count)]
    without = draw_without(concept, arguments.seed, arguments.count // 5)
    found = {}
    for name, kind in KINDS.items():
        model = load_model(find_model(arguments.model))
        labeller = Labeller(model, specs[name], weights=weights if kind.tuned else None)
        found[name] = measure_kind(kind, labeller, concept, scenes, without)
        print(f"{concept}, {name}: {found[name].figures}", file=sys.stderr, flush=True)
    fast, paper = found["fast"], found["paper"]
    speeds = [m.figures["images_per_cpu_second"] for m in (fast, paper)]
    figures = {
        "images": len(scenes),
        "without": len(without),
        "seconds_of_fine_tuning": round(fine_tuning),
        **{name: one.figures for name, one in found.items()},
        "iou_fast_against_paper": round(overlap(fast.masks, paper.masks)[0], 4),
        "speed_fast_over_paper": round(speeds[0] / speeds[1], 2),
    }
    return figures, found


def add_options(parser: argparse.ArgumentParser, *, count: int, seed: int) -> None:
    """What the benchmarks that fine-tune have in common."""
    parser.add_argument("--model", default=str(model_path()), help="folder of the model")
    parser.add_argument("--concepts", default=",".join(CONCEPTS))
    parser.add_argument("--count", type=int, default=count, help="scenes per concept")
    parser.add_argument("--seed", type=int, default=seed, help="of the scenes")
    parser.add_argument("--steps", type=int, default=DistillationSpec.steps, help="of the fine-tuning")
    parser.add_argument("--weights", type=Path, help="folder in which fine-tuned weights are kept and found")
    parser.add_argument("--processes", type=int, default=2, help="concepts measured at once, one thread each")
    parser.add_argument("--pictures", type=Path, default=Path("progress"), help="folder for what m′ paints")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")


def map_concepts(measure: Callable[[str, argparse.Namespace], Any], arguments: argparse.Namespace) -> dict[str, Any]:
    """`measure` of every concept, several at once."""
    names = arguments.concepts.split(",")
    with ProcessPoolExecutor(arguments.processes, mp_context=get_context("spawn")) as pool:
        return dict(zip(names, pool.map(measure, names, [arguments] * len(names)), strict=True))


def command_of(name: str, arguments: argparse.Namespace) -> str:
    """The command that gives these figures again with the bundled model."""
    options = f"--concepts {arguments.concepts} --count {arguments.count} --seed {arguments.seed}"
    return f"python -m tests.benchmarks.{name} {options} --steps {arguments.steps} --json docs/results/{name}.json"


def show(figures: dict[str, Any], path: Path | None) -> None:
    """Print, and write to `path`."""
    text = json.dumps(figures, indent=1, ensure_ascii=False)
    print(text)
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")


def pooled(measured: list[dict[str, Measured]]) -> dict[str, Any]:
    """Figures of all concepts' images together."""
    ranks = {}
    for name in KINDS:
        quality, iou = (np.concatenate([getattr(m[name], of) for m in measured]) for of in ("quality", "iou"))
        ranks[name] = round(float(spearmanr(quality, iou).statistic), 4)
    fast, paper = ([mask for m in measured for mask in m[name].masks] for name in ("fast", "paper"))
    return {"spearman_quality_iou": ranks, "iou_fast_against_paper": round(overlap(fast, paper)[0], 4)}


def mean(found: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean over concepts of every figure that is a number."""

    def of(rows: list[dict[str, Any]]) -> dict[str, Any]:
        names = [name for name, value in rows[0].items() if isinstance(value, float)]
        return {name: round(float(np.mean([row[name] for row in rows])), 4) for name in names}

    return {**{kind: of([row[kind] for row in found]) for kind in KINDS}, **of(found)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser, count=100, seed=3)
    arguments = parser.parse_args()
    began = time.perf_counter()
    measured = map_concepts(measure, arguments)
    figures = {
        "command": command_of("labelling", arguments),
        "date": time.strftime("%Y-%m-%d"),
        "seed": arguments.seed,
        "steps": arguments.steps,
        "weights": "found in --weights" if arguments.weights else "fine-tuned on the bundled scenes",
        "seconds": round(time.perf_counter() - began),
        "pooled": pooled([kinds for _, kinds in measured.values()]),
        "mean": mean([concept for concept, _ in measured.values()]),
        "concepts": {name: concept for name, (concept, _) in measured.items()},
    }
    show(figures, arguments.json)


if __name__ == "__main__":
    main()
