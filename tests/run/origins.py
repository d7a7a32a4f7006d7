"""Labelled runs without a model, for what builds on them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from engine.distillation.spec import DistillationSpec
from engine.labelling.spec import LabelSpec
from engine.run.directory import start_run
from engine.run.fake import FakeLabeller, FakeSource
from engine.run.origin import Origin, find_origin
from engine.run.plan import LabelPlan, plan_labelling
from engine.run.shard import label_lease
from tests.corpus.hostile import make_corpus_tar

SHARDS = (range(6), range(6, 9), range(9, 14))
"""Numbers of the images of each shard."""
SPEC = LabelSpec(concept="car", prompt="a photo of a car", seed=5, timesteps=7, attention_steps=3)


def start_origin(
    folder: Path,
    *,
    method: str = "none",
    config: dict | None = None,
    labelled: bool = False,
    shards: Sequence[Sequence[int]] = ((0, 1),),
) -> LabelPlan:
    """A run in `folder`/run as the labelling job starts one; with method none that is all that many need of it.

    Args:
        labelled: make its labels as well.
        shards: numbers of the images of each shard.
    """
    (folder / "corpus").mkdir(parents=True, exist_ok=True)
    for place, numbers in enumerate(shards):
        (folder / "corpus" / f"{place:06d}.tar").write_bytes(make_corpus_tar(numbers))
    plan = plan_labelling(
        spec=SPEC,
        source=FakeSource(),
        input_url=str(folder / "corpus"),
        run_url=str(folder / "run"),
        distillation=DistillationSpec(method=method),  # type: ignore[arg-type]
        config=config,
    )
    start_run(plan.run.url, plan.manifest)
    for lease in plan.leases if labelled else ():
        label_lease(lease, FakeLabeller("fake", SPEC), plan.run)
    return plan


def start_labelled(folder: Path) -> Origin:
    """A run with the labels of `SHARDS`, none of them flagged."""
    start_origin(folder, labelled=True, shards=SHARDS)
    clear_flags(folder / "run")
    return find_origin(str(folder / "run"), source=FakeSource())


def change_labels(run: Path, lease: str, flags: dict[str, list[str]]) -> None:
    """Gives the labels of a lease the flags by key, the others none."""
    path = run / "labels" / f"{lease}.parquet"
    table = pq.read_table(path)
    column = [flags.get(key, []) for key in table["key"].to_pylist()]
    place = table.schema.get_field_index("flags")
    pq.write_table(
        table.set_column(place, table.schema.field(place), pa.array(column, table.schema.field(place).type)), path
    )


def clear_flags(run: Path) -> None:
    for place in range(len(SHARDS)):
        change_labels(run, f"{place:06d}", {})
