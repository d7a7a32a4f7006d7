"""Fine-tuning on Ray: as many GPUs as can share a batch, or one CPU."""

from __future__ import annotations

from functools import partial

from engine.pipeline.trainer import train_on_ray
from engine.run.concept import ConceptTask, make_concept
from schemas.training import TrainingReceipt


def distil_on_ray(task: ConceptTask) -> TrainingReceipt:
    """Make m′ on the cluster this process is connected to.

    Raises:
        ValueError, TrainingError: as `train_on_ray`.
    """
    task.clear_outgrown()
    train_on_ray(partial(make_concept, task), batch_size=task.distillation.batch_size, folder=task.url("training"))
    receipt = task.find_receipt()
    assert receipt is not None, "the first worker writes it last"
    return receipt
