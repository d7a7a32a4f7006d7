"""The synthesizer: indices in, samples out. It samples with m′ and labels what it has made as any other image.

Shapes: B samples, C latent channels, h × w latent cells, H × W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from engine.diffusion.geometry import Placement, canvas_to_image
from engine.diffusion.model import LatentDiffusion
from engine.diffusion.noise import draw_noise
from engine.diffusion.sampling import guide, sample
from engine.labelling.labeller import Labeller
from engine.labelling.spec import LabelSpec
from engine.labelling.stopwatch import Stopwatch
from engine.synthesis.sample import SyntheticSample, without_object
from engine.synthesis.spec import SynthesisSpec, key_of

STAGE = "synthesis"


class Synthesizer:
    """Makes samples with one model, which stays on its device.

    Args:
        model: m, on the device it shall run on.
        spec: of the labels.
        settings: of the samples.
        weights: m′ as `engine.distillation` packs it; without, m stands in for it.

    Raises:
        PromptError, ModelError: as `Labeller`.
    """

    def __init__(
        self, model: LatentDiffusion, spec: LabelSpec, settings: SynthesisSpec, *, weights: bytes | None = None
    ) -> None:
        self.spec = spec
        self.settings = settings
        self.labeller = Labeller(model, spec, weights=weights, keep_backgrounds=True)

    @property
    def stopwatch(self) -> Stopwatch:
        return self.labeller.stopwatch

    @property
    def batch_size(self) -> int:
        """Latents per forward pass of the labeller's U-Net."""
        return self.labeller.batch_size

    @batch_size.setter
    def batch_size(self, size: int) -> None:
        self.labeller.batch_size = size

    @torch.no_grad()
    def __call__(self, indices: Sequence[int]) -> list[SyntheticSample]:
        """The samples of these indices, in order.

        Raises:
            FloatingPointError: what the model yields are no numbers.
        """
        pure = [index for index in indices if self.settings.is_background(index)]
        others = [index for index in indices if not self.settings.is_background(index)]
        made = {sample.index: sample for sample in (*self._objects(others), *self._backgrounds(pure))}
        return [made[index] for index in indices]

    def _objects(self, indices: list[int]) -> list[SyntheticSample]:
        images = self._draw(indices, self.settings.guidance)
        labels = self.labeller(images, [key_of(index) for index in indices])
        return [
            SyntheticSample(
                index=index,
                pure=False,
                prompt=self.spec.prompt,
                guidance=self.settings.guidance,
                image=image,
                label=label,
            )
            for index, image, label in zip(indices, images, labels, strict=True)
        ]

    def _backgrounds(self, indices: list[int]) -> list[SyntheticSample]:
        images = self._draw(indices, self.settings.background_guidance)
        labels = self.labeller(images, [key_of(index) for index in indices], stage="preliminary")
        return [
            SyntheticSample(
                index=index,
                pure=True,
                prompt=self.spec.background_prompt,
                guidance=self.settings.background_guidance,
                image=image,
                label=without_object(label),
            )
            for index, image, label in zip(indices, images, labels, strict=True)
        ]

    def _draw(self, indices: list[int], guidance: float) -> list[np.ndarray]:
        """Images (H, W, 3) uint8 of the model's own size."""
        if not indices:
            return []
        model, settings = self.labeller.distilled(), self.settings
        self.stopwatch.start()
        shape = (model.unet.config.in_channels, model.latent_size, model.latent_size)
        noise = torch.stack([draw_noise(settings.seed, key_of(index), STAGE, shape) for index in indices])
        foreground, background = model.encode_text([self.spec.prompt, self.spec.background_prompt]).split(1)
        predict = guide(model, foreground, background, guidance)
        z0 = sample(model, noise.to(model.device), predict, settings.steps, solver=settings.solver)
        pixels = model.decode(z0).float()
        if not pixels.isfinite().all():
            raise FloatingPointError(f"the model makes no image of finite numbers with guidance {guidance:g}")
        self.stopwatch.lap("draw")
        side = model.resolution
        whole = Placement.fit(side, side, cells=model.latent_size, factor=model.factor)
        return [canvas_to_image(canvas, whole) for canvas in pixels]
