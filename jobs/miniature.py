"""Write a corpus of miniature scenes: WebDataset tars of images, captions, and the exact masks for evaluation."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

# Where the project is not installed (a job's working directory), it is found beside this file.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from engine import storage
from engine.miniature.corpus import write_corpus
from engine.run.command import run_command
from engine.run.quantities import format_count
from engine.run.what_next import describe_next


@dataclass(frozen=True, kw_only=True)
class MiniatureJob:
    """All settings of the job."""

    output: Annotated[str, tyro.conf.arg(metavar="DIR")]
    """Local folder for 000000.tar, 000001.tar, …"""
    count: int = 400
    """Number of scenes."""
    seed: int = 0
    """Scene i depends on the seed and i alone. The bundled model was trained on seed 1; use another to evaluate."""
    concept: Annotated[str | None, tyro.conf.arg(metavar="{bird,car,dog,human}")] = None
    """Only scenes of this concept; without it, all concepts and object-free scenes."""
    objects: Annotated[int | None, tyro.conf.arg(metavar="{1,2}")] = None
    """Things in every scene: 2 shows two of different concepts, each with a mask of its own (KEY.NAME.mask.png).
    Default: as it comes, one in most of the scenes."""
    shard_size: int = 100
    """Scenes per tar."""
    width: int = 128
    """Image width in pixels."""
    height: int = 128
    """Image height in pixels."""


DESCRIPTION = """Draws procedural scenes with birds, cars, dogs and humans, and writes them as WebDataset tars.

Examples:
  python jobs/miniature.py --output scenes --count 400 --seed 3 --concept bird
  python jobs/miniature.py --output two --count 100 --seed 7 --objects 2

Exit code: 0 done, 1 stopped, 2 wrong usage."""


def main(arguments: list[str] | None = None) -> int:
    """Parses, draws, writes; returns the exit code."""

    def run(job: MiniatureJob) -> int:
        output = storage.local_path(job.output, "--output")
        shards = list(
            write_corpus(
                output,
                count=job.count,
                seed=job.seed,
                concept=job.concept,
                width=job.width,
                height=job.height,
                shard_size=job.shard_size,
                objects=job.objects,
            )
        )
        scenes, tars = format_count(job.count, "scene"), format_count(len(shards), "shard")
        print(f"wrote {scenes} in {tars} to {output.resolve()}")
        print(describe_next("miniature", concept=job.concept or "car", output=str(output.resolve())))
        return 0

    return run_command(MiniatureJob, run, job="miniature", description=DESCRIPTION, arguments=arguments, resumes=False)


if __name__ == "__main__":
    sys.exit(main())
