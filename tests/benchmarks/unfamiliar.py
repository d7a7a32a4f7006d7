"""What fine-tuning is worth where images look unlike those that the model has learned from.

    python -m tests.benchmarks.unfamiliar --json docs/results/unfamiliar.json

The miniature's model has learned from scenes like those that the other benchmarks label, so that fine-tuning has little
left to teach it. Here red and blue change places in every image, as in those of another camera, or in false colours:
m′ is fine-tuned on some such scenes, with their own preliminary masks, and m and m′ paint the backgrounds of others.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from engine.diffusion.model import find_model, load_model
from engine.distillation.spec import DistillationSpec
from engine.labelling.labeller import Labeller
from engine.miniature.scenes import Scene, draw_scene
from engine.run.options import Refinement, What, label_spec
from tests.benchmarks.fine_tuning import fine_tune
from tests.benchmarks.labelling import SURE, Kind, add_options, command_of, map_concepts, measure_kind, show

LEARNED_SEED, LEARNED = 5, 100
"""Scenes that m′ learns from, of each concept."""


def recolour(scene: Scene) -> Scene:
    """The scene with red and blue in each other's place."""
    return replace(scene, image=np.ascontiguousarray(scene.image[:, :, ::-1]))


def measure(concept: str, arguments: argparse.Namespace) -> dict[str, float]:
    """Pooled IoU of M_pre, and of M with the background painted by m and by m′."""
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    spec = label_spec(What(concept=concept), SURE, Refinement(), "refined")
    learned = [recolour(draw_scene(LEARNED_SEED, index, concept=concept)).image for index in range(LEARNED)]
    settings = DistillationSpec(steps=arguments.steps)
    weights = fine_tune(learned, settings, spec, arguments.model, arguments.pictures / "unfamiliar")
    scenes = [recolour(draw_scene(arguments.seed, index, concept=concept)) for index in range(arguments.count)]
    found = {}
    for name, painter in (("m", None), ("m′", weights)):
        labeller = Labeller(load_model(find_model(arguments.model)), spec, weights=painter)
        figures = measure_kind(Kind(method=SURE, presence=False), labeller, concept, scenes, []).figures
        found["M_pre"], found[f"M, painted by {name}"] = figures["preliminary_iou"], figures["iou"]
    return found


def main() -> None:
    """Measures and shows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser, count=100, seed=3)
    arguments = parser.parse_args()
    began = time.perf_counter()
    found = map_concepts(measure, arguments)
    rows = list(found.values())
    figures: dict[str, Any] = {
        "command": command_of("unfamiliar", arguments),
        "date": time.strftime("%Y-%m-%d"),
        "seconds": round(time.perf_counter() - began),
        "mean": {name: round(float(np.mean([row[name] for row in rows])), 4) for name in rows[0]},
        "concepts": found,
    }
    show(figures, arguments.json)


if __name__ == "__main__":
    main()
