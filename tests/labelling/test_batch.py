from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from engine.labelling.batch import fit_batch, largest_batch
from tests.diffusion.models import make_model

GB = 10**9


@pytest.mark.parametrize(
    ("free", "fits"),
    [
        (80 * GB, 64),  # 64 take 1 + 64 x 0.5 GB, and 0.7 of what is free may be taken
        (40 * GB, 32),
        (10 * GB, 8),
        (1 * GB, 1),
        (0, 1),
    ],
)
def test_a_batch_is_the_largest_power_of_two_that_fits(free, fits):
    assert largest_batch(lambda batch: GB + batch * GB // 2, free=free) == fits


def test_on_a_cpu_nothing_is_tried(monkeypatch):
    model = make_model()
    monkeypatch.setattr(model.unet, "forward", None)
    assert fit_batch(model) == 64


def test_memory_that_this_process_keeps_unused_is_free(monkeypatch):
    kept = [60 * GB]
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "empty_cache", kept.clear)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (70 * GB - sum(kept), 80 * GB))
    monkeypatch.setattr("engine.labelling.batch.largest_batch", lambda peak, *, free: free)
    assert fit_batch(SimpleNamespace(device=torch.device("cuda"))) == 70 * GB  # type: ignore[arg-type]
