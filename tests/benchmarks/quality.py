"""What signals without ground truth say about the IoU of a mask: the fit of the quality's weights.

    python -m tests.benchmarks.quality --json docs/results/quality.json

Labels scenes of a seed that serves for nothing but choices, and fits a logistic regression of IoU on the signals. How
well it ranks is told by fits that leave out one concept each, on the concept left out, and by cross-validation: within
each concept, and over all images together. With --steps 0 it is m that paints, which saves the fine-tuning.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr
from sklearn.linear_model import LogisticRegression

from engine.diffusion.model import find_model, load_model
from engine.distillation.spec import DistillationSpec
from engine.labelling.labeller import Labeller
from engine.labelling.quality import WEIGHTS
from engine.miniature.scenes import draw_scene
from engine.run.options import Method, Refinement, What, label_spec
from tests.benchmarks.fine_tuning import fine_tuned, label
from tests.benchmarks.labelling import add_options, command_of, map_concepts, overlap, show

FOLDS = 5


def measure(concept: str, arguments: argparse.Namespace) -> tuple[np.ndarray, np.ndarray]:
    """Signals ([n, signals]) and IoU ([n]) of the masks of one concept."""
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    spec = label_spec(What(concept=concept), Method(profile="fast"), Refinement(), "refined")
    weights = fine_tuned(concept, DistillationSpec(steps=arguments.steps), spec, arguments) if arguments.steps else None
    labeller = Labeller(load_model(find_model(arguments.model)), spec, weights=weights)
    scenes = [draw_scene(arguments.seed, index, concept=concept) for index in range(arguments.count)]
    labels, _ = label(labeller, [scene.image for scene in scenes], "quality")
    _, iou = overlap([x.mask for x in labels], [scene.masks[concept] for scene in scenes])
    refined = [(x.signals, value) for x, value in zip(labels, iou, strict=True) if x.signals]
    signals = np.array([[asdict(s)[name] for name in WEIGHTS] for s, _ in refined])
    return signals, np.array([value for _, value in refined])


def fit(signals: np.ndarray, iou: np.ndarray) -> tuple[np.ndarray, float]:
    """Weights and bias that maximise Σ iou log q + (1 - iou) log(1 - q), slightly regularised on unit variances."""
    mean, std = signals.mean(0), signals.std(0)
    twice = np.concatenate([(signals - mean) / std] * 2)
    outcome = np.repeat([1, 0], len(iou))
    found = LogisticRegression().fit(twice, outcome, sample_weight=np.concatenate([iou, 1 - iou]))
    weights = found.coef_[0] / std
    return weights, float(found.intercept_[0] - weights @ mean)


def cross_validate(signals: np.ndarray, iou: np.ndarray) -> np.ndarray:
    """Scores [n] of every image by a fit to four fifths of the images that it is not among."""
    fold, scores = np.arange(len(iou)) % FOLDS, np.zeros(len(iou))
    for k in range(FOLDS):
        weights, bias = fit(signals[fold != k], iou[fold != k])
        scores[fold == k] = signals[fold == k] @ weights + bias
    return scores


def rank(scores: np.ndarray, iou: np.ndarray) -> float:
    return round(float(spearmanr(scores, iou).statistic), 4)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser, count=40, seed=4)
    arguments = parser.parse_args()
    found: dict[str, Any] = map_concepts(measure, arguments)
    ranks = {}
    for left_out, (signals, iou) in found.items():
        others = [value for name, value in found.items() if name != left_out]
        weights, _ = fit(np.concatenate([s for s, _ in others]), np.concatenate([i for _, i in others]))
        ranks[left_out] = rank(signals @ weights, iou)
    signals, iou = (np.concatenate(part) for part in zip(*found.values(), strict=True))
    weights, bias = fit(signals, iou)
    scores, ends = cross_validate(signals, iou), np.cumsum([len(i) for _, i in found.values()])
    within = [rank(s, i) for s, i in zip(np.split(scores, ends[:-1]), np.split(iou, ends[:-1]), strict=True)]
    figures = {
        "command": command_of("quality", arguments),
        "date": time.strftime("%Y-%m-%d"),
        "seed": arguments.seed,
        "images": sum(len(iou) for _, iou in found.values()),
        "bias": round(bias, 2),
        "weights": {name: round(float(weight), 2) for name, weight in zip(WEIGHTS, weights, strict=True)},
        "spearman_left_out": {"mean": round(float(np.mean(list(ranks.values()))), 4), **ranks},
        "spearman_cross_validated": {"pooled": rank(scores, iou), "mean": round(float(np.mean(within)), 4)},
    }
    show(figures, arguments.json)


if __name__ == "__main__":
    main()
