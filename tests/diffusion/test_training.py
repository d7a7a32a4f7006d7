"""Checkpoints: whole whenever a training is killed, and never all of them in memory at once."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from engine import storage
from engine.diffusion import training
from engine.diffusion.training import Checkpoint


def make_state(step: int) -> tuple[Checkpoint, torch.optim.Optimizer]:
    """Of a convolution in channels-last layout after so many steps, which are told apart by their tensors."""
    weight = torch.nn.Parameter(torch.full((4, 2, 3, 3), float(step)).to(memory_format=torch.channels_last))
    bias = torch.nn.Parameter(torch.zeros(4))
    optimizer = torch.optim.AdamW([weight, bias], lr=0.1)
    for _ in range(step):
        (weight.square().sum() + bias.sum()).backward()
        optimizer.step()
    weights = {"weights": {"w": weight, "b": bias}, "average": {"w": weight.detach() / 2}}
    return Checkpoint(step=step, losses=[0.5] * step, weights=weights), optimizer


def check_loaded(url: str, expected: Checkpoint, trained: torch.optim.Optimizer) -> None:
    _, optimizer = make_state(0)
    found = Checkpoint.load(url, optimizer)
    assert (found.step, found.losses) == (expected.step, expected.losses)
    assert set(found.weights) == {"weights", "average"}
    for group, tensors in expected.weights.items():
        own = found.weights[group]
        assert own.keys() == tensors.keys() and all(torch.equal(own[name], tensors[name]) for name in tensors)
    for parameter, other in zip(*(own.param_groups[0]["params"] for own in (optimizer, trained)), strict=True):
        state, wanted = optimizer.state[parameter], trained.state[other]
        assert state.keys() == wanted.keys() and all(torch.equal(state[name], wanted[name]) for name in wanted)
        assert state["exp_avg"].stride() == parameter.stride(), "the layout of the parameter"


class Killed(BaseException):
    pass


@pytest.mark.parametrize("at", range(9))
def test_killed_at_any_write_the_checkpoint_before_or_the_new_one_is_whole(
    at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three groups of moments and two of weights are five files; then comes the one that names them; old ones go."""
    url = str(tmp_path / "state.safetensors")
    states = [make_state(step) for step in (1, 2, 3)]
    (first, its_optimizer), (second, optimizer), (third, last_optimizer) = states
    first.save(url, its_optimizer)
    done = 0

    def count(name: str) -> None:
        real = getattr(storage, name)

        def killed(*arguments: object, **options: object) -> None:
            nonlocal done
            if done == at:
                raise Killed
            done += 1
            real(*arguments, **options)

        monkeypatch.setattr(storage, name, killed)

    count("atomic_put")
    count("remove")
    with pytest.raises(Killed):
        second.save(url, optimizer)
    monkeypatch.undo()
    check_loaded(url, *states[0 if at < 6 else 1])
    third.save(url, last_optimizer)
    check_loaded(url, *states[2])
    names = sorted(path.name for path in tmp_path.iterdir())
    assert len(names) == 6 and all(re.fullmatch(r"state(-000003-.+)?\.safetensors", name) for name in names)


def test_one_group_at_a_time_is_copied_and_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state, optimizer = make_state(2)
    sizes = []

    def watched(tensors: dict[str, torch.Tensor]) -> bytes:
        sizes.append(sum(value.numel() for value in tensors.values()))
        return real(tensors)

    real = training.save
    monkeypatch.setattr(training, "save", watched)
    (tmp_path / "latents-letterbox.safetensors").touch()
    (tmp_path / "state-of-others").touch()
    state.save(str(tmp_path / "state"), optimizer)
    whole = sum(parameter.numel() for parameter in optimizer.param_groups[0]["params"])
    assert sorted(sizes)[:1] == [2] and sorted(sizes)[1:5] == [72, whole, whole, whole]
    assert (tmp_path / "latents-letterbox.safetensors").exists() and (tmp_path / "state-of-others").exists()
    read = []
    monkeypatch.setattr(storage, "read_bytes", lambda url: read.append(url) or Path(url).read_bytes())
    found = Checkpoint.load(str(tmp_path / "state"), make_state(0)[1])
    assert not any("weights" in url or "average" in url for url in read), "only when they are asked for"
    assert len(found.weights["weights"]) == 2 and read[-1].endswith("state-000002-weights")


@pytest.mark.parametrize("former", [False, True])
def test_without_a_file_or_with_one_of_an_earlier_version_a_training_begins(former: bool, tmp_path: Path) -> None:
    if former:
        notes = torch.frombuffer(bytearray(b'{"step": 1, "losses": [1.0]}'), dtype=torch.uint8)
        save_file({"notes": notes, "weights/w": torch.zeros(4)}, tmp_path / "state")
    found = Checkpoint.load(str(tmp_path / "state"), make_state(0)[1])
    assert (found.step, found.losses, dict(found.weights)) == (0, [], {})


def test_a_checkpoint_of_which_a_file_is_gone_is_none(tmp_path: Path) -> None:
    url = str(tmp_path / "state.safetensors")
    checkpoint, optimizer = make_state(2)
    checkpoint.save(url, optimizer)
    (tmp_path / "state-000002-average.safetensors").unlink()
    assert Checkpoint.load(url, make_state(0)[1]) == Checkpoint()


def test_who_is_late_leaves_the_files_of_a_later_checkpoint(tmp_path: Path) -> None:
    url = str(tmp_path / "state.safetensors")
    (late, its_optimizer), (later, optimizer) = make_state(1), make_state(2)
    later.save(url, optimizer)
    before = {path.name for path in tmp_path.glob("state-000002-*")}
    late.save(url, its_optimizer)
    assert before and before == {path.name for path in tmp_path.glob("state-000002-*")}
