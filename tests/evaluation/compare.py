"""Labels of the small world of `conftest.py` that are right, and their evaluation."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image

from engine.evaluation.evaluate import evaluate_run


def evaluate(world: Any, concept: str | None = None) -> dict[str, Any]:
    return evaluate_run(str(world.run), str(world.corpus), concept)


def write_truth_as_rows(world: Any, folder: str = "preliminary") -> None:
    for shard in ("000000.tar", "000001.tar"):
        rows = [world.row(name, key, truth) for (name, key), truth in world.truths.items() if name == shard]
        world.write_rows(f"{folder}/{shard[:-4]}.parquet", rows)


def png(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, format="PNG")
    return buffer.getvalue()
