"""Trains the small feature network of miniature scenes, in which FID and KID are measured."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

# Where the project is not installed (a job's working directory), it is found beside this file.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from engine import storage
from engine.extras import require
from engine.run.command import run_command
from engine.run.what_next import describe_next


@dataclass(frozen=True, kw_only=True)
class FeaturesJob:
    """All settings of the job."""

    output: str
    """File or URL to write."""
    count: int = 4000
    """Scenes to learn from; a tenth as many of the next seed tell what was learned."""
    epochs: int = 10
    """How often each is seen."""
    seed: int = 11
    """Of the scenes, and of the training."""


DESCRIPTION = """Draws miniature scenes, trains a network to say what they hold, and writes its features as ONNX.

Example:
  python jobs/features.py --output features.onnx

Exit code: 0 done, 1 stopped, 2 wrong usage."""


def main(arguments: list[str] | None = None) -> int:
    """Parses, draws, trains, writes; returns the exit code."""

    def run(job: FeaturesJob) -> int:
        if job.count < 20 or job.epochs < 1:
            raise ValueError("--count must be at least 20 and --epochs at least 1")
        for name in ("onnx", "onnxscript"):  # asked for now rather than after the training
            require(name, extra="onnx", purpose="jobs/features.py")
        from engine.miniature.features import Scenes, features_to_onnx, measure_features, train_features

        network = train_features(Scenes.draw(job.count, seed=job.seed), epochs=job.epochs, seed=job.seed)
        data = features_to_onnx(network)
        url = storage.absolute(job.output)
        storage.atomic_put(data, url)
        right = measure_features(network, Scenes.draw(job.count // 10, seed=job.seed + 1))
        print(f"{storage.redact(url)}: {len(data)} bytes; right of new scenes: {right}")
        print(describe_next("features", output=url))
        return 0

    return run_command(FeaturesJob, run, job="features", description=DESCRIPTION, arguments=arguments, resumes=False)


if __name__ == "__main__":
    sys.exit(main())
