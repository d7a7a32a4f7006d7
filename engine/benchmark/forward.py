"""The U-Net alone: eager and compiled at several batch sizes, and what reading its attention costs on top."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from engine.benchmark.clock import Clock, Work
from engine.benchmark.rows import Report
from engine.benchmark.subject import CONCEPT, Subject
from engine.diffusion.attention import AttentionCapture
from engine.diffusion.prompt import ConceptPrompt

CAPTURED_BATCH = 32


@torch.no_grad()
def measure_forward(
    report: Report, subject: Subject, clock: Clock, batches: tuple[int, ...], *, operations: int, compiled: bool
) -> None:
    """Latents per second, how much compilation gains, and which share of P is reached.

    Args:
        operations: of one latent.
        compiled: measure torch.compile, too; takes minutes.
    """
    unet = subject.model.unet
    quick = torch.compile(unet) if compiled else None

    def measure(batch: int) -> None:
        inputs = make_inputs(subject, batch)
        works: list[Work] = [lambda: unet(*inputs)]
        if quick is not None:
            works.append(lambda: quick(*inputs))
        seconds = clock.seconds(*works)
        report.add(f"forward, batch {batch}", batch / seconds[0], "latents/s")
        report.add(f"forward, batch {batch}, achieved ÷ P", batch * operations / seconds[0] / report.about["P"])
        if compiled:
            report.add(f"compiled ÷ eager, batch {batch}", seconds[0] / seconds[1])
        else:
            report.add(f"compiled ÷ eager, batch {batch}", None, note="not asked for")

    for batch in batches:
        report.attempt(f"forward, batch {batch}", partial(measure, batch))


@torch.no_grad()
def measure_capture(report: Report, subject: Subject, clock: Clock, batches: tuple[int, ...]) -> None:
    """Time and peak memory of a forward pass whose attention to the concept is read, over one without."""
    model = subject.model
    batch = min(max(batches), CAPTURED_BATCH)
    inputs = make_inputs(subject, batch)
    prompt = ConceptPrompt.parse(model.tokenizer, f"a photo of a {CONCEPT}", [CONCEPT])

    def plain() -> None:
        model.unet(*inputs)

    def captured() -> Tensor:
        with AttentionCapture(model.unet, prompt.selector) as capture:
            model.unet(*inputs)
            return capture.read(model.latent_size, model.latent_size)

    times = clock.seconds(plain, captured)
    report.add("capture ÷ plain forward, time", times[1] / times[0], note=f"batch {batch}")
    bytes_ = [clock.peak_bytes(work) for work in (plain, captured)]
    report.add("capture ÷ plain forward, peak memory", bytes_[1] / bytes_[0], note=f"batch {batch}")


def make_inputs(subject: Subject, batch: int) -> tuple[Tensor, Tensor, Tensor]:
    """z_t, t and context, as labelling gives them to the U-Net."""
    model = subject.model
    generator = torch.Generator().manual_seed(0)
    shape = (batch, model.unet.config.in_channels, model.latent_size, model.latent_size)
    zt = torch.randn(shape, generator=generator).to(model.device, model.unet.dtype)
    t = torch.randint(1000, (batch,), generator=generator).to(model.device)
    context = model.encode_text([f"a photo of a {CONCEPT}"]).expand(batch, -1, -1)
    return zt, t, context
