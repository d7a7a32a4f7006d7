"""Several concepts in one pass: every image is encoded once, and what is asked for one concept tells of the others.

n concepts take n first looks, or as many as there are prompts, one second look and n inpaintings (see
`engine.labelling.attend`), where a labeller of each would take n second looks, and n − 1 distractors in each of them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from engine.diffusion.model import LatentDiffusion
from engine.labelling.attend import attend_each
from engine.labelling.batch import fit_batch
from engine.labelling.encode import encode_images
from engine.labelling.for_each import for_each_on
from engine.labelling.label import Label
from engine.labelling.labeller import Labeller
from engine.labelling.overlap import share_pixels
from engine.labelling.spec import SeveralSpec, Stage
from engine.labelling.stopwatch import Stopwatch


class SeveralLabeller:
    """Labels batches of images with one model, for several concepts that share the pixels.

    Args:
        model: m, on the device it shall run on.
        spec: what to label and how.
        weights: m′ of each concept, in their order; without, m stands in for all of them.
        batch_size, compiled: as of a `Labeller`.

    Raises:
        PromptError: the model cannot be asked for a concept.
        ModelError: the weights are not of this model.
    """

    def __init__(
        self,
        model: LatentDiffusion,
        spec: SeveralSpec,
        *,
        weights: Sequence[bytes] = (),
        batch_size: int | None = None,
        compiled: bool = False,
    ) -> None:
        given: Sequence[bytes | None] = weights or [None] * len(spec.specs)
        pairs = zip(map(spec.of, spec.concepts), given, strict=True)
        # How much fits is asked once all of m′ is there.
        self.each = [Labeller(model, own, weights=data, batch_size=1) for own, data in pairs]
        self.batch_size = batch_size or fit_batch(self.each[-1].distilled())
        self.spec = spec
        self.stopwatch, self.for_each = Stopwatch(model.device), for_each_on(model.device)
        for labeller in self.each:
            labeller.stopwatch, labeller.for_each = self.stopwatch, self.for_each
        if compiled:
            for unet in {own.unet for one in self.each for own in (one.original(), one.distilled())}:
                unet.compile()

    @property
    def batch_size(self) -> int:
        """Latents per forward pass of a U-Net."""
        return self.each[0].batch_size

    @batch_size.setter
    def batch_size(self, size: int) -> None:
        for labeller in self.each:
            labeller.batch_size = size

    @torch.no_grad()
    def __call__(self, images: list[np.ndarray], keys: list[str], *, stage: Stage | None = None) -> list[list[Label]]:
        """Label upright RGB images ((H, W, 3) uint8, any sizes): for each image a label of each concept, in order.

        Args:
            stage: how far to go with these images, instead of as far as the spec says.
        """
        assert len(images) == len(keys)
        if not images:
            return []
        model, watch = self.each[0].original(), self.stopwatch
        watch.start()
        batch = encode_images(model, images, keys, for_each=self.for_each)
        watch.lap("encode")
        prompts, shared = [one.prompt for one in self.each], self.spec.specs[0]
        attentions = attend_each(model, batch.z0, keys, prompts, shared, valid=batch.valid, batch_size=self.batch_size)
        watch.lap("attention")
        found = [one.label(batch, own, stage) for one, own in zip(self.each, attentions, strict=True)]
        labels = share_pixels(self.spec.concepts, found, for_each=self.for_each)
        watch.lap("overlap")
        return labels
