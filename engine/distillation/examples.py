"""What fine-tuning learns from: latents of images, encoded once, and their preliminary masks.

Shapes: N images, V variants of each (as it is, mirrored), C latent channels, h × w latent cells.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from safetensors.torch import load, save
from torch import Tensor

from engine.diffusion.geometry import Placement, image_to_canvas
from engine.diffusion.model import LatentDiffusion
from engine.memory import free_memory, is_out_of_memory


@dataclass(frozen=True, kw_only=True)
class Examples:
    """
    Attributes:
        latents: [N, V, C, h, w] float32, scaled.
        masks: [N, V, h, w] bool, M_pre; False in the letterbox.
        sizes: [N, 2] int64, rows and columns that the image occupies.
    """

    latents: Tensor
    masks: Tensor
    sizes: Tensor

    def __len__(self) -> int:
        return len(self.latents)

    def to_bytes(self) -> bytes:
        """As a safetensors file."""
        return save({"latents": self.latents, "masks": self.masks, "sizes": self.sizes})

    @classmethod
    def from_bytes(cls, data: bytes) -> Examples:
        return cls(**load(data))


def encode_examples(
    model: LatentDiffusion, items: Iterable[tuple[np.ndarray, np.ndarray]], *, flip: bool, batch_size: int = 8
) -> Examples:
    """Encode images with their masks.

    Args:
        items: upright images (H, W, 3) uint8 and their M_pre (rows, columns) bool, which are read one batch at a time.

    Raises:
        ValueError: no images.
    """
    latents, masks, sizes = [], [], []
    for batch in _batches(items, batch_size):
        for _, mask in batch:
            rows, columns = mask.shape
            sizes.append((rows, columns))
            canvas = torch.zeros(model.latent_size, model.latent_size, dtype=torch.bool)
            variants = [mask, mask[:, ::-1]] if flip else [mask]
            filled = [canvas.clone() for _ in variants]
            for place, variant in zip(filled, variants, strict=True):
                place[:rows, :columns] = torch.from_numpy(variant.copy())
            masks.append(torch.stack(filled))
        pictures = [v for image, _ in batch for v in ([image, image[:, ::-1]] if flip else [image])]
        encoded = _encode(torch.stack([_place(picture, model) for picture in pictures]), model)
        latents.append(encoded.unflatten(0, (len(batch), -1)))
    if not latents:
        raise ValueError("there is no image to learn from")
    return Examples(latents=torch.cat(latents).contiguous(), masks=torch.stack(masks), sizes=torch.tensor(sizes))


def _encode(canvases: Tensor, model: LatentDiffusion) -> Tensor:
    """Latents on the CPU; in halves where the memory does not suffice."""
    try:
        return model.encode(canvases.to(model.device)).float().cpu()
    except Exception as error:
        if not is_out_of_memory(error) or len(canvases) == 1:
            raise
    free_memory()
    return torch.cat([_encode(half, model) for half in canvases.chunk(2)])


def _place(image: np.ndarray, model: LatentDiffusion) -> Tensor:
    height, width = image.shape[:2]
    return image_to_canvas(image, Placement.fit(width, height, cells=model.latent_size, factor=model.factor))


def _batches(items: Iterable[tuple[np.ndarray, np.ndarray]], size: int) -> Iterator[list]:
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch
