"""The synthesizer: indices in, samples out. It samples with m′, from noise or from noised images of the corpus, and
labels what it has made as any other image.

Shapes: B samples, C latent channels, h × w latent cells, H × W pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from engine.diffusion.geometry import Placement, canvas_to_image
from engine.diffusion.model import LatentDiffusion
from engine.diffusion.noise import draw_noise
from engine.diffusion.sampling import Known, guide, sample
from engine.labelling.encode import encode_images
from engine.labelling.labeller import Labeller
from engine.labelling.spec import LabelSpec
from engine.labelling.stopwatch import Stopwatch
from engine.synthesis.sample import Start, SyntheticSample, without_object
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
    def __call__(self, indices: Sequence[int], starts: Sequence[Start | None]) -> list[SyntheticSample]:
        """The samples of these indices, in order; each begins from its start, or from noise.

        Raises:
            FloatingPointError: what the model yields are no numbers.
        """
        assert all(
            (start is None) == self._begins_from_noise(index) for index, start in zip(indices, starts, strict=True)
        )
        pure = [index for index in indices if self.settings.is_background(index)]
        others = [index for index in indices if not self.settings.is_background(index)]
        begun = dict(zip(indices, starts, strict=True))
        made = {sample.index: sample for sample in (*self._make(others, begun), *self._make(pure, begun))}
        return [made[index] for index in indices]

    def _begins_from_noise(self, index: int) -> bool:
        return self.settings.is_background(index) or not self.settings.begins_from_images

    def _make(self, indices: list[int], begun: Mapping[int, Start | None]) -> list[SyntheticSample]:
        """Samples of one kind, objects or pure backgrounds."""
        if not indices:
            return []
        spec, settings, pure = self.spec, self.settings, self.settings.is_background(indices[0])
        guidance = settings.background_guidance if pure else settings.guidance
        starts = [begun[index] for index in indices]
        images = self._draw(indices, [start for start in starts if start], guidance)
        labels = self.labeller(images, [key_of(index) for index in indices], stage="preliminary" if pure else None)
        return [
            SyntheticSample(
                index=index,
                pure=pure,
                prompt=spec.background_prompt if pure else spec.prompt,
                guidance=guidance,
                image=image,
                label=without_object(label) if pure else label,
                start=start.name if start else None,
            )
            for index, start, image, label in zip(indices, starts, images, labels, strict=True)
        ]

    def _draw(self, indices: list[int], starts: list[Start], guidance: float) -> list[np.ndarray]:
        """Images (H, W, 3) uint8 of the model's own size, or of that at which it sees the starts, if there are any."""
        model, settings = self.labeller.distilled(), self.settings
        self.stopwatch.start()
        shape = (model.unet.config.in_channels, model.latent_size, model.latent_size)
        noise = torch.stack([draw_noise(settings.seed, key_of(index), STAGE, shape) for index in indices])
        noise, known = noise.to(model.device), None
        square = Placement.fit(model.resolution, model.resolution, cells=model.latent_size, factor=model.factor)
        places = [square] * len(indices)
        if starts:
            images, keys = [start.image for start in starts], [start.key for start in starts]
            begun = encode_images(model, images, keys, for_each=self.labeller.for_each)
            # What lies beside an image on the canvas stays as it is.
            known = Known(z0=begun.z0.float(), region=begun.valid, noise=noise)
            places = begun.places
        foreground, background = model.encode_text([self.spec.prompt, self.spec.background_prompt]).split(1)
        predict = guide(model, foreground, background, guidance)
        strength = settings.strength if known else 1.0
        z0 = sample(model, noise, predict, settings.steps, solver=settings.solver, known=known, strength=strength)
        pixels = model.decode(z0).float()
        if not pixels.isfinite().all():
            raise FloatingPointError(f"the model makes no image of finite numbers with guidance {guidance:g}")
        self.stopwatch.lap("draw")
        return [canvas_to_image(canvas, place.unscaled()) for canvas, place in zip(pixels, places, strict=True)]
