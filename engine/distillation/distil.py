"""The fine-tuning loop: full-image synthesis under y_f, background inpainting under y_b (paper, Sec. 3.2).

Runs in one process or, with Accelerate, in several: each computes its share of every batch, and the batches do not
depend on their number. All randomness of a step derives from (seed, step), so that a resumed run repeats nothing.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
from engine.memory import free_memory, is_out_of_memory

logger = logging.getLogger(__name__)

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


class _FineTuning:
    """m′ while it learns: its weights, their moving average, the optimizer, and how far it is.

    Args:
        model: m; prompts: y_f and y_b.
        checkpoint: URL of the state to go on from, if there is one.
        micro_batch: largest number of examples of one forward pass.

    Attributes:
        losses: of the steps done.

    Raises:
        ValueError: a batch size that the processes cannot share.
    """

    def __init__(
        self,
        model: LatentDiffusion,
        prompts: tuple[str, str],
        spec: DistillationSpec,
        *,
        seed: int,
        checkpoint: str,
        micro_batch: int,
    ) -> None:
        self.accelerator = Accelerator(
            cpu=model.device.type == "cpu", mixed_precision="bf16" if spec.precision == "bfloat16" else "no"
        )
        ranks, rank = self.accelerator.num_processes, self.accelerator.process_index
        if spec.batch_size % ranks:
            raise ValueError(
                f"a batch of {spec.batch_size} cannot be shared by {ranks} processes; change --train-batch-size"
            )
        torch.manual_seed(seed)
        self.spec, self.micro_batch = spec, micro_batch
        mine = spec.batch_size // ranks
        self.own = range(rank * mine, (rank + 1) * mine)
        self.concept = ConceptModel(model, spec.method, rank=spec.rank)
        self.tuned = self.concept.distilled()
        self.tuned.unet.train()
        self.weights = self.concept.trainable()
        self.average = {name: value.detach().clone() for name, value in self.weights.items()}
        optimizer = torch.optim.AdamW(self.weights.values(), lr=spec.peak_rate, weight_decay=0.01)
        found = Checkpoint.load(checkpoint, optimizer)
        if found.step:
            copy_into(self.weights, dict(found.weights["weights"]))
            copy_into(self.average, dict(found.weights["average"]))
        self.losses = found.losses
        self.unet: Any = self.tuned.unet
        self.optimizer: Any = self.accelerator.prepare_optimizer(optimizer)
        self.ready = False
        self.context = model.encode_text(list(prompts))

    def learn(self, batch: Batch) -> None:
        """One step of all processes.

        Raises:
            FloatingPointError: the loss is no number any more.
        """
        if not self.ready:
            self._get_ready(batch)
        step = len(self.losses)
        rate = warmup_cosine(step, self.spec.steps, peak=self.spec.peak_rate, warmup=self.spec.warmup)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        total = self._fit_gradients(batch)
        self.accelerator.clip_grad_norm_(self.weights.values(), CLIP)
        self.optimizer.step()
        self.optimizer.zero_grad()
        decay = min(self.spec.ema_decay, (step + 1) / (step + 10))
        now = [parameter.detach() for parameter in self.weights.values()]
        torch._foreach_lerp_(list(self.average.values()), now, 1 - decay)
        self.losses.append(float(self.accelerator.reduce(total, "mean")))
        if not math.isfinite(self.losses[-1]):
            raise FloatingPointError(f"the loss is {self.losses[-1]} at step {step}; lower the learning rate")

    def _get_ready(self, batch: Batch) -> None:
        """Before the first step: have the U-Net's gradients exchanged, where there is somebody to exchange them with.

        From then on a process that runs out of memory cannot try again while others wait for its gradients. So all try
        this batch alone first, and go on with as many examples at a time as fit everywhere.
        """
        if self.accelerator.num_processes > 1:
            self._try(batch)
            fitting = torch.tensor([self.micro_batch], device=self.accelerator.device)
            self.micro_batch = int(self.accelerator.gather(fitting).min())
            self.unet = self.accelerator.prepare_model(self.unet)
        else:
            # As if to evaluate, but for bfloat16 the same: on CPUs Accelerate would wrap the U-Net even of one process.
            self.unet = self.accelerator.prepare_model(self.unet, evaluation_mode=True)
        self.ready = True

    def _try(self, batch: Batch) -> None:
        """Find out how many examples fit, and leave everything else as it was."""
        place = self.tuned.device
        # What the first step adds: the moments, unless they have been read, and the buckets that gradients travel in.
        copies = 1 if self.optimizer.state else 3
        held = [torch.empty_like(value) for value in self.weights.values() for _ in range(copies)]
        with torch.random.fork_rng([place] if place.type == "cuda" else []):
            self._fit_gradients(batch)
        self.optimizer.zero_grad()
        del held
        free_memory()

    def _fit_gradients(self, batch: Batch) -> Tensor:
        """Gradients of this process' examples, fewer at a time once the memory has not sufficed; their loss."""
        while True:
            try:
                return self._accumulate(batch)
            except Exception as error:
                waited_for = self.ready and self.accelerator.num_processes > 1
                if not is_out_of_memory(error) or self.micro_batch == 1 or waited_for:
                    raise
            self.optimizer.zero_grad()
            free_memory()
            self.micro_batch = -(-min(self.micro_batch, len(self.own)) // 2)
            logger.warning("the memory does not suffice; from now on %d examples at a time", self.micro_batch)

    def _accumulate(self, batch: Batch) -> Tensor:
        *parts, last = (self.own[k : k + self.micro_batch] for k in range(0, len(self.own), self.micro_batch))
        total = torch.zeros((), device=self.tuned.device)
        for part in parts:
            with self.accelerator.no_sync(self.unet):
                total += self._backward(batch, part)
        return total + self._backward(batch, last)

    def _backward(self, batch: Batch, part: range) -> Tensor:
        """Gradients of some examples; their share of this process' loss."""
        own, model = slice(part.start, part.stop), self.tuned
        z0, noise, t = (value[own].to(model.device) for value in (batch.z0, batch.noise, batch.t))
        zt = add_noise(z0, noise, model.scheduler.alphas_cumprod[batch.t[own]])
        y = self.context[(~batch.synthesis[own]).long().to(model.device)]
        with self.accelerator.autocast():
            prediction = self.unet(zt.to(model.unet.dtype), t, y).sample
        velocity = model.scheduler.config.prediction_type == "v_prediction"
        target = model.scheduler.get_velocity(z0, noise, t) if velocity else noise
        share = len(part) / len(self.own)
        loss = masked_loss(prediction.float(), target, batch.region[own].to(model.device)) * share
        self.accelerator.backward(loss)
        return loss.detach()

    @contextmanager
    def averaged(self) -> Iterator[LatentDiffusion]:
        """m′ as it would be if training ended here."""
        kept = {name: value.detach().clone() for name, value in self.weights.items()}
        copy_into(self.weights, self.average)
        self.tuned.unet.eval()
        try:
            yield self.tuned
        finally:
            self.tuned.unet.train()
            copy_into(self.weights, kept)

    def save(self, checkpoint: str) -> None:
        """Keep the state, to go on from."""
        state = {"weights": self.weights, "average": self.average}
        Checkpoint(step=len(self.losses), losses=self.losses, weights=state).save(checkpoint, self.optimizer)

    def end(self) -> ConceptModel:
        """m and m′, of averaged weights."""
        self.accelerator.wait_for_everyone()
        copy_into(self.weights, self.average)
        self.tuned.unet.eval().requires_grad_(False)
        return self.concept


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
        micro_batch: largest number of examples of one forward pass; gradients are accumulated. Halved where the memory
            does not suffice: by a process that is alone whenever that happens, by several before the first step.
        on_checkpoint: called in the first process with the steps done, all losses, and m′ as it would be.

    Returns:
        m and m′ (averaged weights), and the loss of every step.

    Raises:
        ValueError: a batch size that the processes cannot share.
        FloatingPointError: the loss is no number any more.
    """
    tuning = _FineTuning(model, prompts, spec, seed=seed, checkpoint=checkpoint, micro_batch=micro_batch)
    losses, timesteps = tuning.losses, model.scheduler.config.num_train_timesteps
    for step in range(len(losses), spec.steps):
        tuning.learn(draw_batch(examples, spec, timesteps=timesteps, seed=seed, step=step))
        done = step + 1
        on_progress(Progress(step=done, steps=spec.steps, loss=sum(losses[-50:]) / len(losses[-50:])))
        if tuning.accelerator.is_main_process and (done % checkpoint_every == 0 or done == spec.steps):
            # First told of: a training that is killed in between is not told again of what its checkpoint has.
            with tuning.averaged() as tuned:
                on_checkpoint(done, losses, tuned)
            tuning.save(checkpoint)
    return tuning.end(), losses
