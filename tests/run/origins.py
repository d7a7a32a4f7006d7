"""Labelled runs without a model, for what builds on them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from engine.distillation.spec import DistillationSpec
from engine.labelling.spec import LabelSpec
from engine.run.directory import start_run
from engine.run.fake import FakeLabeller, FakeSource
from engine.run.plan import LabelPlan, plan_labelling
from engine.run.shard import label_lease
from tests.corpus.hostile import make_corpus_tar

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
