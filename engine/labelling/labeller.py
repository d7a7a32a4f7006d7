"""The labeller: images in, masks out, for one concept and one model."""

from __future__ import annotations

import numpy as np
import torch

from engine.diffusion.geometry import Placement, image_to_canvas, upsample_mask, valid_cells
from engine.diffusion.model import LatentDiffusion
from engine.diffusion.prompt import ConceptPrompt
from engine.labelling.heatmap import mean_attention
from engine.labelling.label import Label
from engine.labelling.preliminary import heatmap_to_preliminary, mask_flags, scale_to_bytes
from engine.labelling.spec import LabelSpec


class Labeller:
    """Labels batches of images with one model, which stays on its device.

    Args:
        model: m, on the device it shall run on.
        spec: what to label and how.
        batch_size: latents per forward pass of the U-Net.

    Raises:
        PromptError: the model cannot be asked for the concept.
    """

    def __init__(self, model: LatentDiffusion, spec: LabelSpec, *, batch_size: int = 64) -> None:
        self.model = model
        self.spec = spec
        self.batch_size = batch_size
        self.prompt = ConceptPrompt.parse(model.tokenizer, spec.prompt, [spec.concept])

    @torch.no_grad()
    def __call__(self, images: list[np.ndarray], keys: list[str]) -> list[Label]:
        """Label upright RGB images ((H, W, 3) uint8, any sizes); one label per image, in order."""
        assert len(images) == len(keys)
        if not images:
            return []
        places = [
            Placement.fit(image.shape[1], image.shape[0], cells=self.model.latent_size, factor=self.model.factor)
            for image in images
        ]
        canvases = torch.stack([image_to_canvas(i, p) for i, p in zip(images, places, strict=True)])
        valid = valid_cells(places).to(self.model.device)
        z0 = self.model.encode(canvases.to(self.model.device))
        maps = mean_attention(self.model, z0, keys, self.prompt, self.spec, batch_size=self.batch_size)
        heatmap = maps[:, 0].float()
        preliminary = heatmap_to_preliminary(heatmap, valid, rule=self.spec.mixture_rule)
        bytes_Bhw = scale_to_bytes(heatmap, valid).cpu()
        masks, mixture = preliminary.mask.cpu(), preliminary.mixture
        separation, one_mode = mixture.separation.tolist(), mixture.one_mode.tolist()
        return [
            self._label(place, bytes_Bhw[i].numpy(), masks[i], separation[i], one_mode[i])
            for i, place in enumerate(places)
        ]

    def _label(
        self, place: Placement, heatmap: np.ndarray, mask: torch.Tensor, separation: float, one_mode: bool
    ) -> Label:
        inside = mask[: place.rows, : place.columns]
        flags = mask_flags(inside, one_mode=one_mode)
        full_size = upsample_mask(inside.numpy(), place.width, place.height)
        usable = not {"one_mode", "empty", "full"} & set(flags)
        return Label(
            heatmap=heatmap[: place.rows, : place.columns],
            preliminary_mask=inside.numpy(),
            mask=full_size,
            bbox=bounding_box(full_size),
            area=float(full_size.mean()),
            separation=separation,
            refined_separation=float("nan"),
            quality=separation if usable else 0.0,
            flags=flags,
        )


def bounding_box(mask: np.ndarray) -> tuple[int, int, int, int]:
    """x, y, width, height in pixels of the smallest box around the mask ((H, W) bool); zeros if it is empty."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return 0, 0, 0, 0
    x, y = int(columns[0]), int(rows[0])
    return x, y, int(columns[-1]) - x + 1, int(rows[-1]) - y + 1
