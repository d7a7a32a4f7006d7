"""Write a corpus of miniature scenes: WebDataset tars of images, captions, and the exact masks for evaluation."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

# Where the project is not installed (a job's working directory), it is found beside this file.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from engine.miniature.corpus import write_corpus


@dataclass(frozen=True, kw_only=True)
class MiniatureJob:
    """Draw procedural scenes with birds, cars, dogs and humans, and write them as WebDataset tars.

    Example: python jobs/miniature.py --output scenes --count 400 --seed 3 --concept bird
    """

    output: Path
    """Folder for 000000.tar, 000001.tar, …"""
    count: int = 400
    """Number of scenes."""
    seed: int = 0
    """Scene i depends on the seed and i alone. The bundled model was trained on seed 1; use another to evaluate."""
    concept: Annotated[str | None, tyro.conf.arg(metavar="{bird,car,dog,human}")] = None
    """Only scenes of this concept; without it, all concepts and object-free scenes."""
    shard_size: int = 100
    """Scenes per tar."""
    width: int = 128
    """Image width in pixels."""
    height: int = 128
    """Image height in pixels."""


def main() -> int:
    job = tyro.cli(MiniatureJob, description=MiniatureJob.__doc__)
    try:
        shards = list(
            write_corpus(
                job.output,
                count=job.count,
                seed=job.seed,
                concept=job.concept,
                width=job.width,
                height=job.height,
                shard_size=job.shard_size,
            )
        )
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"wrote {job.count} scenes in {len(shards)} shards to {job.output.resolve()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
