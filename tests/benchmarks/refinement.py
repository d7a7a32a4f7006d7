"""Which settings of the refinement give the better masks, and at what price: the choice of its defaults.

    python -m tests.benchmarks.refinement --json docs/results/refinement.json

Fine-tunes on the bundled corpus, paints four backgrounds into scenes of a seed that serves for nothing else, and cuts
the same paintings with every setting. The price of a setting is in U-Net passes per image.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch

from engine.diffusion.geometry import Placement, image_to_canvas
from engine.diffusion.model import find_model, load_model
from engine.diffusion.prompt import ConceptPrompt
from engine.distillation.spec import DistillationSpec
from engine.distillation.weights import ConceptModel
from engine.labelling.attend import attend
from engine.labelling.difference import difference
from engine.labelling.heatmap import enlarge, weigh
from engine.labelling.inpainting import grow, remove_object
from engine.labelling.preliminary import heatmap_to_preliminary
from engine.labelling.refinement import refine
from engine.labelling.spec import RefinementSpec
from engine.miniature.scenes import draw_scene
from engine.run.options import Method, Refinement, What, label_spec
from tests.benchmarks.fine_tuning import fine_tuned
from tests.benchmarks.labelling import PAPERS_REFINEMENT, add_options, command_of, map_concepts, show

PAINTINGS = 4
COMPARED = {
    "inpaintings": (1, 2, 4),
    "combine": ("median", "mean", "minimum"),
    "colour": ("lab", "rgb"),
    "reference": ("image", "decoded"),
    "difference_power": (0.35, 0.5, 0.7, 1.0),
    "heatmap_power": (0.0, 1.0, 1.5, 2.0, 2.25, 2.5, 3.0),
    "fit": ("image", "region"),
    "refined_mixture_rule": ("midpoint", "posterior"),
    "smoothing": (0, 10, 20, 30),
    "closing": (0, 2),
    "fill_holes": (False, True),
    "opening": (0, 1, 2),
    "component_heat": (0.0, 0.6, 0.7, 0.8, 0.9),
}
PAPER = label_spec(What(concept="any"), Method(profile="fast"), PAPERS_REFINEMENT, "refined").refinement
"""Eq. 5 and nothing else."""


def settings() -> list[RefinementSpec]:
    """All that is compared: the default, the paper's, and every change of one setting of either."""
    found = {}
    for base in (RefinementSpec(solver="dpm++", inpaint_steps=10), PAPER):
        for name, values in COMPARED.items():
            for value in values:
                found[replace(base, **{name: value})] = None
    return [s for s in found if s.inpaintings > 1 or s.combine == "median"]


def pooled_iou(mask: torch.Tensor, truth: torch.Tensor) -> float:
    return float((mask & truth).sum() / (mask | truth).sum())


def measure(concept: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """IoU of M_pre, and of M for every setting with m′ and with m in its place."""
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    spec = label_spec(What(concept=concept), Method(profile="fast"), Refinement(), "refined")
    spec = replace(spec, refinement=replace(spec.refinement, inpaintings=PAINTINGS))
    weights = fine_tuned(concept, DistillationSpec(steps=arguments.steps), spec, arguments)
    concept_model = ConceptModel.load(load_model(find_model(arguments.model)), weights)
    model = concept_model.original()
    scenes = [draw_scene(arguments.seed, index, concept=concept) for index in range(arguments.count)]
    place = Placement.fit(128, 128, cells=model.latent_size, factor=model.factor)
    images = torch.stack([image_to_canvas(scene.image, place) for scene in scenes])
    truth = torch.stack([torch.from_numpy(scene.masks[concept]) for scene in scenes])
    keys = [f"{index:06d}" for index in range(len(scenes))]
    z0 = model.encode(images)
    prompt = ConceptPrompt.parse(model.tokenizer, spec.prompt, [concept])
    valid = torch.ones(len(scenes), *z0.shape[-2:], dtype=torch.bool)
    attention = attend(model, z0, keys, prompt, spec)
    maps = attention.maps[:, 0]
    preliminary = heatmap_to_preliminary(maps, valid, rule=spec.mixture_rule).mask
    region = grow(preliminary, spec.refinement.dilate)
    decoded = model.decode(z0).clamp(-1, 1)
    original = remove_object(concept_model.original(), z0, region, keys, spec)
    distilled = remove_object(concept_model.distilled(), z0, region, keys, spec)

    def cut(inpainted: torch.Tensor, chosen: RefinementSpec) -> float:
        reference = decoded if chosen.reference == "decoded" else images
        apart = difference(reference, inpainted[:, : chosen.inpaintings], chosen)
        heat = weigh(maps, attention.advantage, valid, spec.advantage_power)
        return pooled_iou(refine(images, apart, heat, region, valid, chosen).mask, truth)

    return {
        "preliminary": pooled_iou(enlarge(preliminary, model.factor), truth),
        "refined": [{"m′": cut(distilled, s), "m": cut(original, s)} for s in settings()],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser, count=40, seed=4)
    arguments = parser.parse_args()
    names = arguments.concepts.split(",")
    found = map_concepts(measure, arguments)
    rows = []
    for index, chosen in enumerate(settings()):
        kept = {name: asdict(chosen)[name] for name in COMPARED}
        mean = {m: round(float(np.mean([found[n]["refined"][index][m] for n in names])), 4) for m in ("m′", "m")}
        passes = chosen.inpaintings * chosen.inpaint_steps
        rows.append({**kept, "passes": passes, "iou": mean["m′"], "iou_of_m": mean["m"]})
    figures = {
        "command": command_of("refinement", arguments),
        "date": time.strftime("%Y-%m-%d"),
        "seed": arguments.seed,
        "preliminary_iou": {name: round(found[name]["preliminary"], 4) for name in names},
        "table": sorted(rows, key=lambda row: -row["iou"]),
    }
    show(figures, arguments.json)


if __name__ == "__main__":
    main()
