"""What tests of the whole flow run with, and what they compare of run directories."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq

STEPS = 6
# A sample this large takes all of the corpus, and a rate this high makes m′ paint something else than m.
SETTINGS = f"--steps {STEPS} --sample 512 --train-batch-size 2 --rank 2 --learning-rate 0.02 --timesteps 4".split()
SETTINGS += ["--attention-steps", "2", "--presence-steps", "1", "--presence-threshold", "-1"]
SETTINGS += ["--solver", "dpm++", "--inpaint-steps", "2"]
EXECUTION = ["--batch-size", "2", "--workers", "1", "--max-failures", "1"]

Job = Callable[..., int]


def products(run: Path) -> dict[str, object]:
    """What a run must yield whatever happened to it: labels, preliminary and refined, quarantine, weights."""
    found: dict[str, object] = {str(path.relative_to(run)): path.read_bytes() for path in run.rglob("*.parquet")}
    found["weights"] = (run / "concept" / "weights.safetensors").read_bytes()
    return found


def rows(run: Path) -> dict[tuple[str, str], dict]:
    """The refined labels by (shard, key); an image with two is an error."""
    tables = [pq.read_table(path) for path in (run / "labels").glob("*.parquet")]
    listed = [row for table in tables for row in table.to_pylist()]
    found = {(row["shard"], row["key"]): row for row in listed}
    assert len(found) == len(listed)
    return found


def settings_of(run: Path) -> dict[str, object]:
    return json.loads((run / "run.json").read_text())["fingerprint"]


def copy_preliminary(run: Path, to: Path) -> None:
    """A run whose sample has its masks, and nothing more."""
    to.mkdir()
    shutil.copy(run / "run.json", to)
    shutil.copytree(run / "preliminary", to / "preliminary")
