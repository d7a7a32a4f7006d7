"""A segmenter in the labeller's place: the same rows, without a diffusion model."""

from __future__ import annotations

import numpy as np
import torch

from engine.labelling.label import Label
from engine.labelling.labeller import bounding_box
from engine.labelling.preliminary import mask_flags
from engine.segmenter.resize import resize_map
from engine.segmenter.segmenter import THRESHOLD, Segmenter


class SegmenterLabeller:
    """Labels batches of images with a segmenter.

    The heatmap is its probability and the preliminary mask where that is above one half, both at the size that the
    network sees. The quality is the IoU to be expected if the probability is right.
    """

    def __init__(self, segmenter: Segmenter) -> None:
        self.segmenter = segmenter

    def __call__(self, images: list[np.ndarray], keys: list[str]) -> list[Label]:
        """Label upright RGB images ((H, W, 3) uint8, any sizes); one label per image, in order."""
        assert len(images) == len(keys)
        maps = self.segmenter.predict_small(images)
        return [self._label(small, image.shape[0], image.shape[1]) for small, image in zip(maps, images, strict=True)]

    def _label(self, probability: np.ndarray, height: int, width: int) -> Label:
        mask = resize_map(probability, height, width) >= THRESHOLD
        return Label(
            heatmap=(probability * 255).round().astype(np.uint8),
            preliminary_mask=probability >= THRESHOLD,
            mask=mask,
            bbox=bounding_box(mask),
            area=float(mask.mean()),
            separation=float("nan"),
            refined_separation=float("nan"),
            presence=float("nan"),
            quality=expected_iou(probability),
            flags=mask_flags(torch.from_numpy(mask), one_mode=False),
        )


def expected_iou(probability: np.ndarray) -> float:
    """Σ p m / Σ max(p, m) of a map p in 0..1 and its mask m = [p ≥ ½]; 0 where the mask is empty."""
    mask = probability >= THRESHOLD
    return float(probability[mask].sum() / max(np.maximum(probability, mask).sum(), 1e-12))
