"""How well the bundled model's attention finds things: the figures of the README, per concept and per prompt token.

    python -m tests.benchmarks.miniature --json docs/results/miniature.json

Draws the evaluation scenes (a seed that was never trained on nor labelled), computes the mean attention map of every
token of "a photo of a <concept>" in one pass, cuts the concept's with both mixture rules, and compares with the exact
masks in the paper's protocol. Calls the engine directly: no Ray, no files.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from engine.diffusion.geometry import Placement, image_to_canvas, upsample_mask
from engine.diffusion.model import LatentDiffusion, find_model, load_model
from engine.diffusion.prompt import ConceptPrompt, locate_concept, one_hot
from engine.evaluation.metrics import Auroc, Overlap, fit_to_protocol
from engine.labelling.attend import attend
from engine.labelling.heatmap import scale_to_bytes
from engine.labelling.preliminary import heatmap_to_preliminary
from engine.labelling.spec import LabelSpec
from engine.miniature import model_path
from engine.miniature.scenes import draw_scene
from engine.miniature.things import CONCEPTS

RULES = ("posterior", "midpoint")


def measure(
    model: LatentDiffusion,
    concept: str,
    *,
    count: int,
    seed: int,
    propagation_steps: int = LabelSpec.propagation_steps,
    batch: int = 8,
) -> dict[str, Any]:
    """Figures of one concept on `count` scenes of `seed`."""
    prompt = f"a photo of a {concept}"
    spec = LabelSpec(concept=concept, prompt=prompt, presence_steps=0, propagation_steps=propagation_steps)
    tokens = model.tokenizer.convert_ids_to_tokens(model.tokenizer(prompt).input_ids)
    (own,) = locate_concept(model.tokenizer, prompt, concept)
    length = model.tokenizer.model_max_length
    every = ConceptPrompt(
        text=prompt,
        concepts=tuple(tokens),
        selector=torch.stack([one_hot([position], length) for position in range(len(tokens))]),
    )
    aurocs = [Auroc() for _ in tokens]
    overlaps = {rule: Overlap() for rule in RULES}
    for start in range(0, count, batch):
        scenes = [draw_scene(seed, index, concept=concept) for index in range(start, min(count, start + batch))]
        places = [
            Placement.fit(s.image.shape[1], s.image.shape[0], cells=model.latent_size, factor=model.factor)
            for s in scenes
        ]
        canvases = [image_to_canvas(scene.image, place) for scene, place in zip(scenes, places, strict=True)]
        keys = [f"{index:08d}" for index in range(start, start + len(scenes))]
        maps = attend(model, model.encode(torch.stack(canvases)), keys, every, spec).maps
        valid = torch.ones(len(scenes), model.latent_size, model.latent_size, dtype=torch.bool)
        shades = torch.stack([scale_to_bytes(maps[:, k], valid) for k in range(len(tokens))], 1).numpy()
        cuts = {rule: heatmap_to_preliminary(maps[:, own], valid, rule=rule).mask.numpy() for rule in RULES}
        for index, scene in enumerate(scenes):
            height, width, _ = scene.image.shape
            truth = fit_to_protocol(scene.masks[concept], height, width)
            for k, auroc in enumerate(aurocs):
                auroc.update(fit_to_protocol(np.ascontiguousarray(shades[index, k]), height, width), truth)
            for rule, overlap in overlaps.items():
                mask = upsample_mask(cuts[rule][index], width, height)
                overlap.update(fit_to_protocol(mask, height, width), truth)
    return {
        "images": count,
        **rounded(aurocs[own].result()),
        "preliminary": {rule: rounded(overlap.result()) for rule, overlap in overlaps.items()},
        "auroc_mean_by_token": {
            f"{position} {token}": round(auroc.result()["auroc_mean"], 4)
            for position, (token, auroc) in enumerate(zip(tokens, aurocs, strict=True))
        },
    }


def rounded(values: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 4) for name, value in values.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=str(model_path()), help="folder of the model")
    parser.add_argument("--count", type=int, default=120, help="scenes per concept")
    parser.add_argument("--seed", type=int, default=3, help="of the scenes")
    parser.add_argument("--propagation-steps", type=int, default=LabelSpec.propagation_steps, help="0: M̂ of the paper")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    arguments = parser.parse_args()
    model = load_model(find_model(arguments.model))
    began = time.perf_counter()
    concepts = {}
    for concept in CONCEPTS:
        concepts[concept] = measure(
            model,
            concept,
            count=arguments.count,
            seed=arguments.seed,
            propagation_steps=arguments.propagation_steps,
        )
        print(concept, json.dumps(concepts[concept]), flush=True)
    figures = {
        "command": f"python -m tests.benchmarks.miniature --count {arguments.count} --seed {arguments.seed} "
        f"--propagation-steps {arguments.propagation_steps} --json docs/results/miniature.json",
        "date": time.strftime("%Y-%m-%d"),
        "seed": arguments.seed,
        "seconds": round(time.perf_counter() - began),
        "mean": {
            "auroc_mean": round(math.fsum(c["auroc_mean"] for c in concepts.values()) / len(concepts), 4),
            **{
                f"preliminary_iou_{rule}": round(
                    math.fsum(c["preliminary"][rule]["iou"] for c in concepts.values()) / len(concepts), 4
                )
                for rule in RULES
            },
        },
        "concepts": concepts,
    }
    print(json.dumps(figures["mean"]))
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
