"""The paper's protocol and its measures, accumulated over a test set in constant memory.

Heatmaps and masks are brought to the size of the image, then resized so that the short side is 128 pixels,
and cropped to the central 128 x 128. IoU and accuracy pool the pixels of all images; they are not means over
images.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image

SIDE = 128
"""Side of the square that is compared, pixels."""
LONGEST = 32
"""Longer sides, in short ones, lose their ends before they are resized: what is compared is in the middle, and the
whole of an image of 20,000 pixels by one would fill the memory."""


def fit_to_protocol(array: np.ndarray, height: int, width: int) -> np.ndarray:
    """Bring a map or mask of an image of height x width to what the protocol compares.

    Args:
        array: (h, w) of any size that covers the whole image; bool is resized by nearest neighbour, uint8
            bilinearly.

    Returns:
        (128, 128) of the same type.
    """
    assert array.dtype in (np.bool_, np.uint8) and array.ndim == 2, (array.dtype, array.shape)
    resample = Image.Resampling.NEAREST if array.dtype == np.bool_ else Image.Resampling.BILINEAR
    picture = Image.fromarray(array.astype(np.uint8))
    if picture.size != (width, height):
        picture = picture.resize((width, height), resample)
    short = min(height, width)
    picture = _crop(picture, min(width, LONGEST * short), min(height, LONGEST * short))
    scale = SIDE / short
    columns, rows = (max(SIDE, round(side * scale)) for side in picture.size)
    if picture.size != (columns, rows):
        picture = picture.resize((columns, rows), resample)
    return np.asarray(_crop(picture, SIDE, SIDE)).astype(array.dtype)


def _crop(picture: Image.Image, width: int, height: int) -> Image.Image:
    """The centre of a picture, pixels."""
    left, top = (picture.width - width) // 2, (picture.height - height) // 2
    return picture.crop((left, top, left + width, top + height))


class Overlap:
    """Accuracy, foreground IoU, and mIoU (mean of foreground and background IoU), over all pixels."""

    def __init__(self) -> None:
        self._confusion = np.zeros((2, 2), dtype=np.int64)  # [truth, mask]

    def update(self, mask: np.ndarray, truth: np.ndarray) -> None:
        """Add one image: two bool arrays of one shape."""
        assert mask.dtype == truth.dtype == np.bool_ and mask.shape == truth.shape
        cells = 2 * truth.ravel().astype(np.int64) + mask.ravel()
        self._confusion += np.bincount(cells, minlength=4).reshape(2, 2)

    def result(self) -> dict[str, float]:
        """``acc``, ``iou``, ``miou`` in 0..1; NaN where the union of a class is empty in all images."""
        hits = self._confusion.diagonal()
        union = self._confusion.sum(0) + self._confusion.sum(1) - hits
        background, foreground = (_ratio(hits[k], union[k]) for k in (0, 1))
        accuracy = _ratio(hits.sum(), self._confusion.sum())
        return {"acc": accuracy, "iou": foreground, "miou": (foreground + background) / 2}


class Auroc:
    """Area under the ROC curve of 8-bit heatmaps: exact (ties count half), from counts per grey value.

    ``auroc_mean`` is the mean over the images that show both classes, ``auroc_pooled`` ranks the pixels of
    all images together.
    """

    def __init__(self) -> None:
        self._counts = np.zeros((2, 256), dtype=np.int64)  # [truth, grey value]
        self._sum, self._images = 0.0, 0

    def update(self, heatmap: np.ndarray, truth: np.ndarray) -> None:
        """Add one image: a uint8 heatmap and a bool truth of one shape."""
        assert heatmap.dtype == np.uint8 and truth.dtype == np.bool_ and heatmap.shape == truth.shape
        cells = 256 * truth.ravel().astype(np.int64) + heatmap.ravel()
        counts = np.bincount(cells, minlength=512).reshape(2, 256)
        self._counts += counts
        area = _area_under_roc(counts)
        if not math.isnan(area):
            self._sum, self._images = self._sum + area, self._images + 1

    def result(self) -> dict[str, float]:
        """``auroc_mean`` and ``auroc_pooled`` in 0..1; NaN without an image, or a set, of both classes."""
        return {"auroc_mean": _ratio(self._sum, self._images), "auroc_pooled": _area_under_roc(self._counts)}


class BoxIou:
    """Mean over images of the IoU of two boxes (x, y, width, height), as the paper compares where boxes are known."""

    def __init__(self) -> None:
        self._sum, self.images = 0.0, 0

    def update(self, box: Sequence[float], truth: Sequence[float]) -> None:
        """Add one image; a box without area has an IoU of 0."""
        sides = (
            min(a + w, b + v) - max(a, b) for a, w, b, v in zip(box[:2], box[2:], truth[:2], truth[2:], strict=True)
        )
        common = math.prod(max(0.0, side) for side in sides)
        union = math.prod(box[2:]) + math.prod(truth[2:]) - common
        self._sum += common / union if union > 0 else 0.0
        self.images += 1

    def result(self) -> float:
        """In 0..1; NaN without an image."""
        return _ratio(self._sum, self.images)


def _area_under_roc(counts: np.ndarray) -> float:
    """P(foreground > background) + P(equal) / 2, from counts [truth, grey value]; NaN without a class."""
    background, foreground = counts.astype(np.float64)
    below = background.cumsum() - background
    return _ratio((foreground * (below + background / 2)).sum(), background.sum() * foreground.sum())


def _ratio(part: float, whole: float) -> float:
    return float(part) / float(whole) if whole else math.nan
