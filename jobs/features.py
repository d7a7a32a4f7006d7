"""Trains the small feature network of miniature scenes, in which FID and KID are measured."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import tyro

# Where the project is not installed (a job's working directory), it is found beside this file.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from engine import storage


@dataclass(frozen=True, kw_only=True)
class FeaturesJob:
    """Draw miniature scenes, train a network to say what they hold, and write its features as an ONNX file.

    Example: python jobs/features.py --output features.onnx
    """

    output: str
    """File or URL to write."""
    count: int = 4000
    """Scenes to learn from; a tenth as many of the next seed tell what was learned."""
    epochs: int = 10
    """How often each is seen."""
    seed: int = 11
    """Of the scenes, and of the training."""


def main(arguments: list[str] | None = None) -> int:
    job = tyro.cli(FeaturesJob, args=arguments, description=FeaturesJob.__doc__)
    if job.count < 20 or job.epochs < 1:
        print("error: --count must be at least 20 and --epochs at least 1", file=sys.stderr)
        return 2
    from engine.miniature.features import Scenes, features_to_onnx, measure_features, train_features

    network = train_features(Scenes.draw(job.count, seed=job.seed), epochs=job.epochs, seed=job.seed)
    try:
        data = features_to_onnx(network)
    except ImportError as error:
        print(f"error: {error}; pip install 'maskmine[onnx]'", file=sys.stderr)
        return 2
    storage.atomic_put(data, storage.absolute(job.output))
    right = measure_features(network, Scenes.draw(job.count // 10, seed=job.seed + 1))
    print(f"{job.output}: {len(data)} bytes; right of new scenes: {right}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
