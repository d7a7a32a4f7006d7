"""Batches of random crops. Order and crops derive from (seed, position) alone, where position p is that of the p-th
crop ever drawn: a resumed run repeats nothing, and an epoch is a permutation of all examples.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from engine.segmenter.examples import Example
from engine.segmenter.resize import resize_classes, resize_image
from engine.segmenter.spec import SegmenterSpec
from engine.segmenter.unet import images_to_tensor


@lru_cache(maxsize=4)
def permutation(seed: int, epoch: int, count: int) -> np.ndarray:
    """The order of an epoch."""
    return np.random.default_rng((seed, 0, epoch)).permutation(count)


def draw_batch(
    examples: Sequence[Example], spec: SegmenterSpec, *, step: int, own: slice = slice(None)
) -> tuple[Tensor, Tensor]:
    """The crops of a step, or of its part `own`: a function of (examples, spec, step) alone.

    Returns:
        images [n, 3, crop, crop] in [-1, 1], masks [n, 1, crop, crop] of 0 and 1; of several concepts classes
        [n, crop, crop] instead, int64.
    """
    count, first = len(examples), step * spec.batch_size
    images, masks = [], []
    for position in range(first, first + spec.batch_size)[own]:
        example = examples[permutation(spec.seed, position // count, count)[position % count]]
        image, mask = _draw_crop(example, spec, np.random.default_rng((spec.seed, 1, position)))
        images.append(image)
        masks.append(mask)
    truth = torch.from_numpy(np.stack(masks))
    return images_to_tensor(np.stack(images)), truth[:, None].float() if truth.dtype == torch.bool else truth.long()


def _draw_crop(example: Example, spec: SegmenterSpec, g: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    height, width = example.mask.shape
    # As often larger by a factor as smaller by it; what does not fit is as large as fits.
    side = min(round(spec.crop * math.exp(math.log(spec.scale) * g.uniform(-1, 1))), height, width)
    top, left = (int(g.integers(0, length - side + 1)) for length in (height, width))
    window = slice(top, top + side), slice(left, left + side)
    image = resize_image(example.image[window], spec.crop, spec.crop)
    mask = resize_classes(example.mask[window], spec.crop, spec.crop)
    if spec.flip and g.random() < 0.5:
        return image[:, ::-1], mask[:, ::-1]
    return image, mask
