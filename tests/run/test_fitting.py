from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from engine.corpus.catalogue import list_shards
from engine.corpus.lease import Lease, plan_leases
from engine.labelling.label import Label
from engine.memory import is_out_of_memory
from engine.run.fake import FakeLabeller
from engine.run.fitting import Fitting
from engine.run.shard import label_lease
from tests.corpus.hostile import make_corpus_tar
from tests.run.test_shard import SPEC, files, make_run


class Small(FakeLabeller):
    """Has memory for `room` images, or for `passes` of what it does with one."""

    def __init__(self, *, room: int = 3, passes: int = 64) -> None:
        super().__init__("fake", SPEC)
        self.room, self.passes = room, passes
        self.batch_size = 64
        self.calls: list[int] = []

    def __call__(self, images: list[np.ndarray], keys: list[str]) -> list[Label]:
        self.calls.append(len(images))
        if len(images) > self.room or self.batch_size > self.passes:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nAnd more")
        return super().__call__(images, keys)


def pictures(count: int) -> tuple[list[np.ndarray], list[str]]:
    images = [np.random.default_rng(n).integers(0, 255, (16, 24, 3), np.uint8) for n in range(count)]
    return images, [f"{n:03d}" for n in range(count)]


def test_batches_are_halved_until_they_fit_and_the_size_is_remembered() -> None:
    labeller, (images, keys) = Small(room=3), pictures(8)
    fitting = Fitting(labeller)
    expected = FakeLabeller("fake", SPEC)(images, keys)
    for _ in range(2):
        labels = fitting(images, keys)
        assert [label.bbox for label in labels] == [label.bbox for label in expected]
    assert labeller.calls == [8, 4, 2, 2, 2, 2, *[2] * 4]


def test_what_the_labeller_does_with_one_image_is_halved_as_well() -> None:
    labeller, (images, keys) = Small(room=8, passes=5), pictures(2)
    fitting = Fitting(labeller)
    assert len(fitting(images, keys)) == 2
    assert labeller.batch_size == 4
    assert len(fitting(images, keys)) == 2 and labeller.batch_size == 4


def test_one_image_that_is_too_large_does_not_make_the_others_slow() -> None:
    labeller, (images, keys) = Small(), pictures(2)
    fitting = Fitting(labeller)
    fitting(images, keys)
    labeller.room = 0
    with pytest.raises(torch.OutOfMemoryError):
        fitting(images[:1], keys[:1])
    labeller.room = 3
    fitting(images, keys)
    assert (labeller.calls[-1], labeller.batch_size) == (2, 64)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 4 bytes"),
            True,
        ),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("GET was unable to find an engine to execute this computation"), True),
        (RuntimeError("shapes differ"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_running_out_of_memory_is_recognised(error: Exception, expected: bool) -> None:
    assert is_out_of_memory(error) is expected


@pytest.fixture
def lease(tmp_path: Path) -> Lease:
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "000000.tar").write_bytes(make_corpus_tar(range(20)))
    (lease,) = plan_leases(list_shards(str(tmp_path / "corpus")))
    return lease


def test_a_lease_on_a_small_device_yields_the_same_labels(lease: Lease, tmp_path: Path) -> None:
    label_lease(lease, FakeLabeller("fake", SPEC), make_run(tmp_path / "large", batch_size=8))
    receipt = label_lease(lease, Fitting(Small(room=3)), make_run(tmp_path / "small", batch_size=8))
    assert receipt.failed == 0
    assert files(tmp_path / "small")["000000.parquet"] == files(tmp_path / "large")["000000.parquet"]


def test_an_image_that_never_fits_is_quarantined_for_that_reason(lease: Lease, tmp_path: Path) -> None:
    class Huge(Small):
        def __call__(self, images: list[np.ndarray], keys: list[str]) -> list[Label]:
            self.room = 0 if "000007" in keys else 8
            return super().__call__(images, keys)

    run = make_run(tmp_path / "run", batch_size=8)
    receipt = label_lease(lease, Fitting(Huge()), run)
    assert (receipt.labelled, receipt.quarantined) == (19, {"out_of_memory": 1})
    assert [row["key"] for row in pq.read_table(run.quarantine_url(lease.id)).to_pylist()] == ["000007"]
