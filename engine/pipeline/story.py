"""Drawing a run's story where a model can run: on a GPU of the cluster, if it has any."""

from __future__ import annotations

from typing import Any

import ray

from engine.evaluation.story import write_story
from engine.run.origin import Origin


def write_story_on_ray(origin: Origin, segmenter: str, corpus: str, path: str) -> None:
    """As `engine.evaluation.story.write_story`, in a worker of the cluster this process is connected to."""
    gpu = ray.cluster_resources().get("GPU", 0) >= 1
    work: Any = ray.remote(num_cpus=0, num_gpus=int(gpu), max_retries=0)(write_story)
    device, threads = ("cuda", None) if gpu else ("cpu", 1)
    ray.get(work.remote(origin, segmenter, corpus, path, device=device, threads=threads))
