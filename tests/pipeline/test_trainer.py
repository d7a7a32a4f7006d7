"""When a training is given up, and what is said then, without a cluster."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import ray
from ray.train import ControllerError, WorkerGroupError

from engine.gpu import GpuError
from engine.pipeline.trainer import Notice, TrainingError, check_gpu, lead_on

CUDA = """rank 0:
torch.AcceleratorError: CUDA error: an illegal memory access was encountered
Search for `cudaErrorIllegalAddress' for more information.
Device-side assertion tracking was not enabled by user."""
LOST = WorkerGroupError("rank 0:\nThe actor died unexpectedly.", {})


def script(notice: Notice, *attempts: tuple[int, Exception | None]) -> Callable[[], None]:
    """What comes to a step, and then to an error, attempt by attempt."""
    left = list(attempts)

    def lead() -> None:
        step, error = left.pop(0)
        notice.tell(f"step {step}", step)
        if error:
            raise error

    return lead


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (LOST, "the training failed 4 times: The actor died unexpectedly."),
        (
            WorkerGroupError(CUDA, {}),
            "the training failed 4 times: torch.AcceleratorError: CUDA error: an illegal memory access",
        ),
        (ControllerError(OSError("no answer")), "Ray Train could not go on: no answer"),
        (ray.exceptions.WorkerCrashedError(), "the process that leads the training failed: The worker died"),
        (
            ray.exceptions.RayTaskError("_fit", "traceback\nno answer", ControllerError(OSError("no answer"))),
            "Ray Train could not go on: no answer",
        ),
    ],
)
def test_what_has_failed_is_told_and_only_workers_fail_four_times(error: Exception, told: str) -> None:
    notice = Notice("")
    with pytest.raises(TrainingError) as raised:
        lead_on(script(notice, (0, error)), notice.state, alone=True)
    assert str(raised.value).startswith(told)


def test_lost_workers_do_not_end_a_training_that_gets_further() -> None:
    notice = Notice("")
    lead_on(
        script(notice, (100, LOST), (300, ray.exceptions.WorkerCrashedError()), (301, LOST), (500, None)),
        notice.state,
        alone=True,
    )
    with pytest.raises(TrainingError, match="failed 4 times"):
        lead_on(script(notice, (600, LOST), (599, LOST)), notice.state, alone=True)


def test_an_error_that_no_repetition_heals_ends_a_training_at_once() -> None:
    notice = Notice("")
    notice.tell("step 9", 9)
    notice.fail("nothing to learn from")
    with pytest.raises(ValueError, match="nothing to learn from"):
        lead_on(script(notice, (9, LOST)), notice.state, alone=True)


def test_an_error_that_was_got_over_is_not_told_of_a_later_loss() -> None:
    notice = Notice("")
    notice.fail("no model for a moment")
    with pytest.raises(TrainingError, match="failed 4 times"):
        lead_on(script(notice, (9, LOST), (9, LOST)), notice.state, alone=False)


def test_several_workers_may_get_over_an_error_that_one_of_them_has_told_of() -> None:
    notice = Notice("")
    notice.fail("no model for a moment")
    lead_on(script(notice, (0, None)), notice.state, alone=False)
    with pytest.raises(ValueError, match="no model for a moment"):
        lead_on(script(notice, (0, None)), notice.state, alone=True)


@pytest.mark.parametrize(
    ("error", "kind", "told"),
    [
        (GpuError("torch cannot use the GPU"), GpuError, "torch cannot use the GPU"),
        (
            ray.exceptions.WorkerCrashedError(),
            TrainingError,
            "a GPU could not be tried before the training: The worker",
        ),
    ],
)
def test_a_gpu_that_could_not_be_tried_is_no_training_that_failed(error: Exception, kind: type, told: str) -> None:
    def attempt() -> None:
        raise error

    with pytest.raises(kind, match=told):
        check_gpu(attempt)
