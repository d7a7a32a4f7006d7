"""Captioned images of a corpus, in memory, as the trainers want them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from engine.corpus import Sample, list_shards, open_lease, plan_leases
from engine.corpus.decode import DecodeError, decode_image
from engine.diffusion.geometry import Placement, image_to_canvas

Framing = Literal["crop", "letterbox"]


@dataclass(frozen=True, kw_only=True)
class CaptionedImages:
    """N square images and their captions.

    Attributes:
        images: [N, 3, R, R] uint8.
        captions: N texts.
        skipped: number of corpus items without a caption or a readable image.
    """

    images: Tensor
    captions: list[str]
    skipped: int


def load_captioned_images(
    url: str, *, resolution: int, limit: int | None = None, framing: Framing = "crop"
) -> CaptionedImages:
    """Read a captioned corpus.

    Args:
        framing: how an image becomes a square: its short side resized to `resolution` and its centre cropped, or its
            long side, and what is missing left grey, as labelling has it.

    Raises:
        ValueError: an unreadable corpus, or one without a single captioned image.
    """
    images: list[Tensor] = []
    captions: list[str] = []
    skipped = 0
    for lease in plan_leases(list_shards(url), limit=limit):
        for item in open_lease(lease):
            try:
                if not isinstance(item, Sample) or not (item.caption or "").strip():
                    raise DecodeError("no_caption", "no caption")
                images.append(FRAMINGS[framing](decode_image(item.image), resolution))
                captions.append(" ".join((item.caption or "").split()))
            except DecodeError:
                skipped += 1
    if not images:
        raise ValueError(f"{url} has no captioned image ({skipped} items without); each key needs an image and a .txt")
    return CaptionedImages(images=torch.stack(images), captions=captions, skipped=skipped)


def _crop(image: np.ndarray, resolution: int) -> Tensor:
    height, width = image.shape[:2]
    scale = resolution / min(height, width)
    picture = Image.fromarray(image)
    if scale != 1:
        size = (max(resolution, round(width * scale)), max(resolution, round(height * scale)))
        picture = picture.resize(size, Image.Resampling.LANCZOS)
    left, top = (picture.width - resolution) // 2, (picture.height - resolution) // 2
    picture = picture.crop((left, top, left + resolution, top + resolution))
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)


def _letterbox(image: np.ndarray, resolution: int) -> Tensor:
    place = Placement.fit(image.shape[1], image.shape[0], cells=resolution, factor=1)
    return ((image_to_canvas(image, place).clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


FRAMINGS: dict[Framing, Callable[[np.ndarray, int], Tensor]] = {"crop": _crop, "letterbox": _letterbox}


def to_model_range(images: Tensor) -> Tensor:
    """uint8 [..., 3, H, W] -> float32 in [-1, 1]."""
    return images.float() / 127.5 - 1


def halve(images: Tensor, *, batch_size: int = 256) -> Tensor:
    """[N, 3, R, R] uint8 -> [N, 3, R/2, R/2] uint8: the mean of each 2×2 pixels."""
    parts = [nn.functional.avg_pool2d(part.float(), 2).round().to(torch.uint8) for part in images.split(batch_size)]
    return torch.cat(parts)
