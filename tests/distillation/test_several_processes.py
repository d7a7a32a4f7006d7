"""Fine-tuning in several processes: what does not fit the memory of one is learned in parts by all."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file

from engine.distillation.distil import _FineTuning
from tests.distillation.test_distil import make_spec, run
from tests.distillation.together import SPEC


def start_together(folder: Path, rooms: list[int]) -> list[dict]:
    """What processes tell that have learned together, each with memory for so many examples at once."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    count = str(len(rooms))
    common = {"WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    common |= {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.distillation.together", str(folder), *map(str, rooms)],
            env={**os.environ, **common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            cwd=Path(__file__).resolve().parents[2],
        )
        for rank in range(len(rooms))
    ]
    assert [process.wait(timeout=240) for process in processes] == [0] * len(rooms)
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(len(rooms))]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rooms", "sizes"),
    [
        # Accelerate takes a CPU worker of Ray Train for one of several, even where it is alone.
        ([2], [[6, 3, 2, 2, 2, 2, 2, 2]]),
        # Both go by the one with less memory, which has tried three and then two at a time.
        ([3, 2], [[3, 2, 1, 2, 1], [3, 2, 1, 2, 1, 2, 1]]),
    ],
    ids=["alone", "two"],
)
def test_processes_learn_in_parts_what_does_not_fit_the_memory_of_one(rooms, sizes, tmp_path):
    expected, expected_losses = run(SPEC, tmp_path / "undisturbed")
    told = start_together(tmp_path, rooms)
    assert [one["sizes"] for one in told] == sizes
    for rank, one in enumerate(told):
        np.testing.assert_allclose(one["losses"], expected_losses, rtol=1e-3)
        found = load_file(tmp_path / f"{rank}.safetensors")
        apart = torch.cat([(found[name] - value).abs().flatten() for name, value in expected.items()])
        assert float((apart > 1e-4).float().mean()) < 0.01


@pytest.fixture
def another_process(monkeypatch):
    """As if there were a second process, whose memory holds two examples at a time; each has half of every batch."""
    monkeypatch.setattr(Accelerator, "num_processes", 2)
    monkeypatch.setattr(Accelerator, "gather", lambda self, value: torch.cat([value, torch.tensor([2])]))


def test_several_processes_try_a_batch_before_the_first_step_and_nothing_comes_of_it(
    another_process, tmp_path, monkeypatch
):
    spec = make_spec(steps=2, batch_size=8, method="full")
    with monkeypatch.context() as patch:
        patch.setattr(_FineTuning, "_try", lambda self, batch: None)
        expected, expected_losses = run(spec, tmp_path / "parts", micro_batch=2)
    whole, sizes, drawn = _FineTuning._backward, [], []

    def watched(self, batch, part):
        sizes.append(len(part))
        if len(part) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        drawn.append(float(torch.rand(1)))  # as dropout would
        return whole(self, batch, part)

    monkeypatch.setattr(_FineTuning, "_backward", watched)
    found, losses = run(spec, tmp_path / "tried")
    assert sizes == [4, 2, 2, 2, 2, 2, 2], "tried whole and in halves, then two steps in parts that fit everywhere"
    assert losses == expected_losses and all(torch.equal(found[name], value) for name, value in expected.items())
    assert drawn[:2] == drawn[2:4] and len({*drawn}) == 4


def test_a_process_that_others_wait_for_does_not_try_again(another_process, tmp_path, monkeypatch):
    whole, sizes = _FineTuning._backward, []

    def later(self, batch, part):
        sizes.append(len(part))
        if len(sizes) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return whole(self, batch, part)

    monkeypatch.setattr(_FineTuning, "_backward", later)
    with pytest.raises(torch.OutOfMemoryError):
        run(make_spec(steps=3, batch_size=4), tmp_path / "state")
    assert sizes == [2, 2, 2, 2], "a trial and two steps, and the third ends the training"
