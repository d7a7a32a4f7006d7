"""All that one run of the benchmark measures, in order."""

from __future__ import annotations

import platform
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from typing import Any, Literal

import torch

from engine.benchmark.clock import Clock
from engine.benchmark.forward import measure_capture, measure_forward
from engine.benchmark.labelling import measure_labelling
from engine.benchmark.lease import measure_lease
from engine.benchmark.operations import Operations, measure_peak
from engine.benchmark.rows import Report
from engine.benchmark.subject import Shape, make_subject
from engine.gpu import check_device

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True, kw_only=True)
class BenchSpec:
    """What to measure.

    Attributes:
        device: as torch names it.
        batches: latents per pass of the U-Net alone.
        images: labelled at once.
        shorten: divides the profiles' numbers of steps, for a quick try.
        compile: the U-Net alone, to see what that gains (forward), the labellers as well (all), or nothing (none).
        matmul: side of the matrices whose product gives P; None takes what the device needs.
    """

    shape: Shape = "miniature"
    device: str = "cpu"
    precision: Literal["float32", "bfloat16"] = "float32"
    batches: tuple[int, ...] = (1, 8, 32, 128)
    images: int = 6
    repeats: int = 3
    clock: Literal["wall", "cpu"] = "wall"
    shorten: int = 1
    compile: Literal["none", "forward", "all"] = "forward"
    matmul: int | None = None

    def __post_init__(self) -> None:
        for name in ("images", "repeats", "shorten"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name} is {getattr(self, name)}; it must be at least 1")
        if not self.batches or min(self.batches) < 1:
            raise ValueError(f"--batches is {self.batches}; give at least one size of at least 1")


def start_report(spec: BenchSpec, *, command: str) -> Report:
    """A report without a row as yet.

    Raises:
        ValueError: no such device.
    """
    return Report(about=_about(spec, check_device(spec.device), command))


def run_bench(report: Report, spec: BenchSpec, *, tell: Callable[[str], None] = lambda text: None) -> None:
    """Adds all rows but Ray's, each as soon as it is measured.

    Raises:
        ValueError: a clock that the device cannot be measured with.
    """
    device, dtype = torch.device(spec.device), PRECISIONS[spec.precision]
    clock = Clock(device=device, repeats=spec.repeats, kind=spec.clock)
    tell("matmul")
    report.about["P"] = float(f"{measure_peak(clock, dtype, side=spec.matmul):.4g}")
    report.add("P, matmul", report.about["P"] / 1e12, "TFLOP/s")
    tell("model")
    subject = make_subject(spec.shape, images=spec.images, device=device, dtype=dtype)
    operations = Operations.count(subject.model)
    report.add("U-Net, one latent", operations.unet / 1e9, "GFLOP")
    tell("forward")
    measure_forward(report, subject, clock, spec.batches, operations=operations.unet, compiled=spec.compile != "none")
    report.attempt("capture ÷ plain forward, time", lambda: measure_capture(report, subject, clock, spec.batches))
    tell("labelling")
    whole = spec.compile == "all"
    report.attempt(
        "labelling",
        lambda: measure_labelling(report, subject, clock, operations, shorten=spec.shorten, compiled=whole),
    )
    tell("lease")
    report.attempt(
        "lease, share without the labeller",
        lambda: measure_lease(report, subject, repeats=spec.repeats, shorten=spec.shorten),
    )


def _about(spec: BenchSpec, device: torch.device, command: str) -> dict[str, Any]:
    gpu = device.type == "cuda"
    names = ("torch", "diffusers", "transformers", "scikit-learn")
    return {
        "command": command,
        "device": torch.cuda.get_device_name(device) if gpu else f"{platform.machine()} CPU, {_processor()}",
        "kind": device.type,
        "threads": torch.get_num_threads(),
        "shape": spec.shape,
        "precision": spec.precision,
        "clock": spec.clock,
        "repeats": spec.repeats,
        "images": spec.images,
        "versions": {"python": platform.python_version(), **{name: metadata.version(name) for name in names}},
    }


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as lines:
            return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or "unknown"
