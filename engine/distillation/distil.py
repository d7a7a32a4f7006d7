"""The fine-tuning loop: full-image synthesis under y_f, background inpainting under y_b (paper, Sec. 3.2).

Runs in one process or, with Accelerate, in several: each computes its share of every batch, and the batches do not
depend on their number. All randomness of a step derives from (seed, step), so that a resumed run repeats nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from engine.diffusion.model import LatentDiffusion
from engine.diffusion.noise import add_noise
from engine.diffusion.training import Checkpoint, Progress, batch_generator, warmup_cosine
from engine.distillation.examples import Examples
from engine.distillation.objective import masked_loss
from engine.distillation.regions import draw_region
from engine.distillation.spec import DistillationSpec
from engine.distillation.weights import ConceptModel, copy_into

CLIP = 1.0
"""Largest norm of a gradient."""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """One step's examples, drawn on the CPU.

    Attributes:
        z0, noise: [n, C, h, w]; t: [n] timesteps.
        synthesis: [n] bool, whether an example is full-image synthesis (y_f) or background inpainting (y_b).
        region: [n, h, w] bool, where the loss applies.
    """

    z0: Tensor
    noise: Tensor
    t: Tensor
    synthesis: Tensor
    region: Tensor


def draw_batch(examples: Examples, spec: DistillationSpec, *, timesteps: int, seed: int, step: int) -> Batch:
    """The whole batch of a step: a function of (examples, spec, seed, step) alone."""
    g = batch_generator(seed, step)
    n, variants = spec.batch_size, examples.latents.shape[1]
    index = torch.randint(len(examples), (n,), generator=g)
    variant = torch.randint(variants, (n,), generator=g)
    z0, masks = examples.latents[index, variant], examples.masks[index, variant]
    synthesis = torch.rand(n, generator=g) < spec.synthesis
    t = torch.randint(timesteps, (n,), generator=g)
    noise = torch.randn(z0.shape, generator=g)
    regions = []
    for k in range(n):
        rows, columns = examples.sizes[index[k]].tolist()
        # In a mirrored variant the image still begins at the left: it is mirrored before it is placed.
        region = draw_region(masks[k], rows, columns, g)
        if synthesis[k]:
            region = torch.zeros_like(region)
            region[:rows, :columns] = True
        regions.append(region)
    return Batch(z0=z0, noise=noise, t=t, synthesis=synthesis, region=torch.stack(regions))


def distil(
    model: LatentDiffusion,
    examples: Examples,
    prompts: tuple[str, str],
    spec: DistillationSpec,
    *,
    seed: int,
    checkpoint: str,
    checkpoint_every: int = 100,
    micro_batch: int = 16,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    on_checkpoint: Callable[[int, list[float], LatentDiffusion], None] = lambda step, losses, model: None,
) -> tuple[ConceptModel, list[float]]:
    """Fine-tune m to m′, resuming from the checkpoint if there is one.

    Args:
        model: m, on the device to train on; with adapters its U-Net gets them, with ``full`` it stays as it is.
        prompts: y_f and y_b.
        checkpoint: URL of the training state.
        micro_batch: largest number of examples of one forward pass; gradients are accumulated.
        on_checkpoint: called in the first process with the steps done, all losses, and m′ as it would be.

    Returns:
        m and m′ (averaged weights), and the loss of every step.

    Raises:
        ValueError: a batch size that the processes cannot share.
        FloatingPointError: the loss is no number any more.
    """
    accelerator = Accelerator(
        cpu=model.device.type == "cpu", mixed_precision="bf16" if spec.precision == "bfloat16" else "no"
    )
    ranks, rank = accelerator.num_processes, accelerator.process_index
    if spec.batch_size % ranks:
        raise ValueError(
            f"a batch of {spec.batch_size} cannot be shared by {ranks} processes; change --train-batch-size"
        )
    torch.manual_seed(seed)
    concept = ConceptModel(model, spec.method, rank=spec.rank)
    tuned = concept.distilled()
    tuned.unet.train()
    weights = concept.trainable()
    optimizer: Any = torch.optim.AdamW(weights.values(), lr=spec.peak_rate, weight_decay=0.01)
    found = Checkpoint.load(checkpoint, optimizer)
    if found.step:
        copy_into(weights, dict(found.weights["weights"]))
    average = {name: value.detach().clone() for name, value in weights.items()}
    average.update({name: value.to(tuned.device) for name, value in found.weights.get("average", {}).items()})
    losses = found.losses
    unet, optimizer = accelerator.prepare(tuned.unet, optimizer)
    context = model.encode_text(list(prompts))
    alphas = model.scheduler.alphas_cumprod

    def backward(batch: Batch, own: slice, share: float) -> Tensor:
        z0, noise, t = (value[own].to(tuned.device) for value in (batch.z0, batch.noise, batch.t))
        zt = add_noise(z0, noise, alphas[batch.t[own]])
        y = context[(~batch.synthesis[own]).long().to(tuned.device)]
        with accelerator.autocast():
            prediction = unet(zt.to(tuned.unet.dtype), t, y).sample
        velocity = model.scheduler.config.prediction_type == "v_prediction"
        target = model.scheduler.get_velocity(z0, noise, t) if velocity else noise
        loss = masked_loss(prediction.float(), target, batch.region[own].to(tuned.device)) * share
        accelerator.backward(loss)
        return loss.detach()

    def swap() -> dict[str, Tensor]:
        kept = {name: value.detach().clone() for name, value in weights.items()}
        copy_into(weights, average)
        return kept

    for step in range(found.step, spec.steps):
        rate = warmup_cosine(step, spec.steps, peak=spec.peak_rate, warmup=spec.warmup)
        for group in optimizer.param_groups:
            group["lr"] = rate
        batch = draw_batch(examples, spec, timesteps=model.scheduler.config.num_train_timesteps, seed=seed, step=step)
        mine = spec.batch_size // ranks
        parts = [slice(rank * mine + k, rank * mine + min(k + micro_batch, mine)) for k in range(0, mine, micro_batch)]
        total = torch.zeros((), device=tuned.device)
        for part in parts[:-1]:
            with accelerator.no_sync(unet):
                total += backward(batch, part, (part.stop - part.start) / mine)
        total += backward(batch, parts[-1], (parts[-1].stop - parts[-1].start) / mine)
        accelerator.clip_grad_norm_(weights.values(), CLIP)
        optimizer.step()
        optimizer.zero_grad()
        decay = min(spec.ema_decay, (step + 1) / (step + 10))
        torch._foreach_lerp_(list(average.values()), [p.detach() for p in weights.values()], 1 - decay)
        losses.append(float(accelerator.reduce(total, "mean")))
        if not math.isfinite(losses[-1]):
            raise FloatingPointError(f"the loss is {losses[-1]} at step {step}; lower the learning rate")
        done = step + 1
        on_progress(Progress(step=done, steps=spec.steps, loss=sum(losses[-50:]) / len(losses[-50:])))
        if accelerator.is_main_process and (done % checkpoint_every == 0 or done == spec.steps):
            # First told of: a training that is killed in between is not told again of what its checkpoint has.
            kept = swap()
            tuned.unet.eval()
            on_checkpoint(done, losses, tuned)
            tuned.unet.train()
            copy_into(weights, kept)
            state = {"weights": weights, "average": average}
            Checkpoint(step=done, losses=losses, weights=state).save(checkpoint, optimizer)
    accelerator.wait_for_everyone()
    copy_into(weights, average)
    tuned.unet.eval().requires_grad_(False)
    return concept, losses
