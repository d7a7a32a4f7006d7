from __future__ import annotations

import pytest

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
