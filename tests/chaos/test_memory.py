"""A worker's memory over many leases: what it takes in the first few must do for all that come."""

from __future__ import annotations

import ctypes
import gc
import os
from collections.abc import Callable
from pathlib import Path
from statistics import median

import pytest
import torch

from engine.corpus.catalogue import list_shards
from engine.corpus.lease import plan_leases
from engine.diffusion.model import load_model
from engine.labelling.labeller import Labeller
from engine.labelling.spec import LabelSpec, RefinementSpec
from engine.run.fake import FakeLabeller
from engine.run.shard import Labels, label_lease
from tests.corpus.hostile import draw_noise, encode, make_tar
from tests.diffusion.models import make_model
from tests.run.test_shard import make_run

pytestmark = pytest.mark.chaos

LEASES, SOME = 20, 5
MOST = 8 << 20
"""Bytes by which the last leases may differ from the first."""

SPEC = LabelSpec(
    concept="car",
    prompt="a photo of a car",
    stage="refined",
    timesteps=4,
    attention_steps=2,
    presence_steps=1,
    presence_threshold=-1,
    refinement=RefinementSpec(inpaint_steps=2),
)


def fake(folder: Path) -> Labels:
    return FakeLabeller("fake", SPEC)


def real(folder: Path) -> Labels:
    torch.set_num_threads(1)  # as workers do on CPUs
    make_model("sd1").save(folder)
    return Labeller(load_model(folder, device="cpu"), SPEC)


def resident() -> int:
    """Bytes in use; what is free inside the heap goes back to the system first, for its holes come and go."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize(("make", "samples", "side"), [(fake, 100, 128), (real, 2, 128)])
def test_the_memory_of_a_worker_stays_flat(
    make: Callable[[Path], Labels], samples: int, side: int, tmp_path: Path
) -> None:
    (tmp_path / "corpus").mkdir()
    images = [(f"{n:04d}.jpg", encode(draw_noise(n, side, side), "JPEG")) for n in range(samples)]
    for lease in range(LEASES):
        (tmp_path / "corpus" / f"{lease:06d}.tar").write_bytes(make_tar(images))
    labeller, run = make(tmp_path / "model"), make_run(tmp_path / "run", batch_size=8)
    sizes = []
    for lease in plan_leases(list_shards(str(tmp_path / "corpus"))):
        assert label_lease(lease, labeller, run).labelled == samples
        sizes.append(resident())
    assert len(sizes) == LEASES
    early, late = median(sizes[SOME : 2 * SOME]), median(sizes[-SOME:])
    assert late - early < MOST, [size >> 20 for size in sizes]
