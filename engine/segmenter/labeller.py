"""A segmenter in the labeller's place: the same rows, without a diffusion model."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from engine.diffusion.geometry import bounding_box
from engine.labelling.label import USELESS, Label
from engine.labelling.preliminary import mask_flags
from engine.segmenter.segmenter import Segmenter, enlarge_probability, probability_to_mask


class SegmenterLabeller:
    """Labels batches of images with a segmenter.

    The heatmap is its probability and the preliminary mask where that is above one half, both at the size that the
    network sees. The quality is the IoU to be expected if the probability is right, and 0 of a mask that is empty or
    everything. Of several concepts each has its own label; its masks are where it is more probable than the others and
    the background, and one that is so nowhere is absent: all pixels are something else's. Of one concept alone an empty
    mask is no more than that.
    """

    def __init__(self, segmenter: Segmenter) -> None:
        self.segmenter = segmenter

    def __call__(self, images: list[np.ndarray], keys: list[str]) -> list[Label] | list[list[Label]]:
        """Label upright RGB images ((H, W, 3) uint8, any sizes); one label per image and concept, in order."""
        assert len(images) == len(keys)
        pairs = list(zip(self.segmenter.predict_small(images), images, strict=True))
        if self.segmenter.config.concepts:
            return [self._label_each(small, image.shape[0], image.shape[1]) for small, image in pairs]
        return [self._label_one(small, image.shape[0], image.shape[1]) for small, image in pairs]

    def _label_one(self, small: np.ndarray, height: int, width: int) -> Label:
        mask = probability_to_mask(enlarge_probability(small, height, width))
        return self._label(small, probability_to_mask(small), mask)

    def _label_each(self, small: np.ndarray, height: int, width: int) -> list[Label]:
        coarse, classes = probability_to_mask(small), probability_to_mask(enlarge_probability(small, height, width))
        found = [
            replace(self._label(small[number], coarse == number, classes == number), concept=concept)
            for number, concept in enumerate(self.segmenter.concepts, 1)
        ]
        return [label if label.mask.any() else replace(label, flags=["absent"]) for label in found]

    def _label(self, probability: np.ndarray, coarse: np.ndarray, mask: np.ndarray) -> Label:
        flags = mask_flags(mask, one_mode=False)
        return Label(
            heatmap=(probability * 255).round().astype(np.uint8),
            preliminary_mask=coarse,
            mask=mask,
            bbox=bounding_box(mask),
            area=float(mask.mean()),
            separation=float("nan"),
            refined_separation=float("nan"),
            presence=float("nan"),
            quality=0.0 if USELESS & set(flags) else expected_iou(probability, coarse),
            flags=flags,
        )


def expected_iou(probability: np.ndarray, mask: np.ndarray) -> float:
    """Σ p m / Σ max(p, m) of a map p in 0..1 and its mask m; 0 where the mask is empty."""
    return float(probability[mask].sum() / max(np.maximum(probability, mask).sum(), 1e-12))
