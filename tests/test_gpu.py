"""A GPU that torch cannot use."""

from __future__ import annotations

import pytest
import torch

from engine.diffusion.model import load_model
from engine.gpu import GpuError, prepare_device
from engine.miniature import model_path


def test_a_cpu_is_always_fine() -> None:
    prepare_device("cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU that torch can use")
def test_without_one_the_model_says_why_and_what_to_do() -> None:
    with pytest.raises(
        GpuError, match=r"torch .* cannot use the GPU \((Torch not compiled|Found no NVIDIA|The NVIDIA)"
    ) as raised:
        load_model(model_path(), device="cuda")
    assert "deploy/README.md" in str(raised.value) and "CUDA_VISIBLE_DEVICES=" in str(raised.value)


def test_a_driver_that_is_too_old_is_told_of_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise RuntimeError("The NVIDIA driver on your system is too old (found version 12080). Please update.\nmore")

    monkeypatch.setattr(torch.cuda, "init", fail)
    with pytest.raises(
        GpuError, match=r"\(The NVIDIA driver on your system is too old \(found version 12080\)\); install"
    ):
        prepare_device("cuda:1")


def test_a_gpu_that_this_torch_has_no_kernels_for_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*size: int, device: str) -> None:
        raise RuntimeError("CUDA error: no kernel image is available for execution on the device\nSearch for it")

    monkeypatch.setattr(torch.cuda, "init", lambda: None)
    monkeypatch.setattr(torch, "zeros", fail)
    with pytest.raises(GpuError, match=r"\(CUDA error: no kernel image is available for execution on the device\)"):
        prepare_device("cuda")


def test_a_gpu_rounds_products_as_it_rounds_convolutions(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    zeros = torch.zeros
    monkeypatch.setattr(torch.cuda, "init", lambda: None)
    monkeypatch.setattr(torch, "zeros", lambda *size, device: zeros(*size))
    monkeypatch.setattr(torch, "set_float32_matmul_precision", asked.append)
    prepare_device("cpu")
    assert asked == []
    prepare_device("cuda")
    assert asked == ["high"]
