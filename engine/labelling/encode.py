"""Images as the model sees them: on its canvas, and as latents."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from engine.diffusion.geometry import Placement, image_to_canvas, valid_cells
from engine.diffusion.model import LatentDiffusion
from engine.labelling.for_each import ForEach


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """A batch of B images, on the model's device.

    Attributes:
        keys: of the images; their noise derives from them.
        places: where each lies on its canvas.
        canvases: [B, 3, H, W] in [-1, 1].
        valid: [B, h, w] bool, the cells that belong to the images.
        z0: [B, C, h, w], scaled latents.
    """

    keys: list[str]
    places: list[Placement]
    canvases: Tensor
    valid: Tensor
    z0: Tensor


def encode_images(
    model: LatentDiffusion, images: list[np.ndarray], keys: list[str], *, for_each: ForEach = map
) -> Encoded:
    """Upright RGB images ((H, W, 3) uint8, any sizes, at least one) as the model sees them."""
    places = [
        Placement.fit(image.shape[1], image.shape[0], cells=model.latent_size, factor=model.factor) for image in images
    ]
    canvases = torch.stack(list(for_each(image_to_canvas, images, places))).to(model.device)
    valid = valid_cells(places).to(model.device)
    return Encoded(keys=keys, places=places, canvases=canvases, valid=valid, z0=model.encode(canvases))
