"""A trained segmenter: images in, masks out.

segmenter = Segmenter.from_pretrained("runs/car/segmenter")
mask = segmenter("photo.jpg")  # (H, W) bool; of several concepts uint8: 0 background, 1 segmenter.concepts[0], ...
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from monai.inferers import SlidingWindowInferer
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn
from torch.nn.functional import pad

from engine import storage
from engine.corpus.decode import Picture, to_array
from engine.gpu import prepare_device
from engine.segmenter.files import CONFIG, WEIGHTS, SegmenterConfig, SegmenterError, read_files
from engine.segmenter.resize import resize_image, resize_map, target_size
from engine.segmenter.spec import MULTIPLE, SMALLEST
from engine.segmenter.unet import build_unet, images_to_tensor, layout, logits_to_probability

THRESHOLD = 0.5
OVERLAP = 0.5
"""Share of a window that its neighbour covers as well."""
BATCH_PIXELS = 1 << 20
"""Of images that go through the U-Net at once."""


class Segmenter:
    """Masks of one concept, or of several that share no pixel.

    Args:
        network: as `engine.segmenter.unet` builds it.
        device: where it computes.
        short_side: another than that of the training, for finer masks of larger images.
        window: 0 sees an image at once, else through overlapping square windows of this side.

    Raises:
        ValueError: a window or short side that the network cannot take.
        GpuError: the device is a GPU that torch cannot use.
    """

    def __init__(
        self,
        network: nn.Module,
        config: SegmenterConfig,
        *,
        device: str = "cpu",
        short_side: int | None = None,
        window: int = 0,
    ) -> None:
        if window and (window < SMALLEST or window % MULTIPLE):
            raise ValueError(f"window is {window}; it must be 0, or a multiple of {MULTIPLE} from {SMALLEST} on")
        self.short_side = config.short_side if short_side is None else short_side
        if self.short_side < 1:
            raise ValueError(f"short_side is {self.short_side}; it must be at least 1")
        prepare_device(device)
        self.config = config
        self.device = device
        self.window = window
        self.network = network.to(device, memory_format=layout(device)).eval().requires_grad_(False)  # type: ignore[call-overload]

    @classmethod
    def from_pretrained(cls, url: str | os.PathLike[str], device: str = "cpu", **options: Any) -> Segmenter:
        """The segmenter in a folder, local or of an object store.

        Args:
            options: `short_side` and `window`.

        Raises:
            SegmenterError: none is there, or a damaged one.
        """
        folder = storage.absolute(os.fspath(url))
        config, data = read_files(folder)
        network = build_unet(config.width, channels=config.channels, device=device)
        try:
            network.load_state_dict(load(data))
        except (RuntimeError, SafetensorError) as error:
            raise SegmenterError(f"{storage.redact(storage.join(folder, WEIGHTS))} is damaged: {error}") from error
        return cls(network, config, device=device, **options)

    @property
    def concepts(self) -> tuple[str, ...]:
        """What it finds: of several concepts the one at place i is class i + 1."""
        return self.config.concepts or (self.config.concept,)

    def save_pretrained(self, url: str | os.PathLike[str]) -> bytes:
        """Writes weights and configuration into a folder; returns the bytes of the weights."""
        folder = storage.absolute(os.fspath(url))
        weights = {name: value.cpu().contiguous() for name, value in self.network.state_dict().items()}
        data = save(weights, metadata={"concept": self.config.concept})
        storage.atomic_put(data, storage.join(folder, WEIGHTS))
        storage.atomic_put(self.config.to_json().encode(), storage.join(folder, CONFIG))
        return data

    def __call__(self, image: Picture) -> np.ndarray:
        """The mask (H, W) bool at the image's own size; of several concepts the classes, uint8, 0 being background.

        Args:
            image: path, PIL image (turned upright by its EXIF), or upright (H, W, 3) uint8 RGB array.

        Raises:
            DecodeError: the file is no readable image.
            ValueError: an array of another shape or type.
        """
        (probability,) = self.predict_batch([to_array(image)])
        return probability_to_mask(probability)

    def predict_batch(self, images: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Maps of the probability of the concept, (H, W) float32, one per upright (H, W, 3) uint8 image of any size.

        Of several concepts (C, H, W): background, then each concept.
        """
        maps = self.predict_small(images)
        return [enlarge_probability(small, *image.shape[:2]) for small, image in zip(maps, images, strict=True)]

    @torch.no_grad()
    def predict_small(self, images: Sequence[np.ndarray]) -> list[np.ndarray]:
        """The same at the size the network sees: (h, w) or (C, h, w) float32, short side `short_side`."""
        by_size: defaultdict[tuple[int, int], list[int]] = defaultdict(list)
        for index, image in enumerate(images):
            height, width = image.shape[:2]
            by_size[target_size(height, width, self.short_side)].append(index)
        maps: dict[int, np.ndarray] = {}
        for (height, width), own in by_size.items():
            at_once = max(1, BATCH_PIXELS // (height * width))
            for start in range(0, len(own), at_once):
                part = own[start : start + at_once]
                small = np.stack([resize_image(images[index], height, width) for index in part])
                probability = self._forward(images_to_tensor(small).to(self.device))
                own_maps = probability if self.config.concepts else probability[:, 0]
                maps.update(zip(part, own_maps.float().cpu().numpy(), strict=True))
        return [maps[index] for index in range(len(images))]

    def _forward(self, x: Tensor) -> Tensor:
        """[B, 3, h, w] of any size -> [B, C, h, w] probabilities."""
        height, width = x.shape[-2:]
        x = pad_to_multiple(x).to(memory_format=layout(self.device))
        if self.window:
            # Windows see what the crops of the training showed; blended, their seams do not.
            inferer = SlidingWindowInferer(
                self.window, sw_batch_size=16, overlap=OVERLAP, mode="gaussian", padding_mode="replicate"
            )
            logits = inferer(x, self.network)
            assert isinstance(logits, Tensor)
        else:
            logits = self.network(x)
        return logits_to_probability(logits[..., :height, :width])


def enlarge_probability(probability: np.ndarray, height: int, width: int) -> np.ndarray:
    """(h, w) or (C, h, w) float32 at another size."""
    if probability.ndim == 2:
        return resize_map(probability, height, width)
    return np.stack([resize_map(own, height, width) for own in probability])


def probability_to_mask(probability: np.ndarray) -> np.ndarray:
    """(H, W) -> bool, whether it is at least one half; (C, H, W) -> uint8, the most probable class."""
    return probability >= THRESHOLD if probability.ndim == 2 else probability.argmax(0).astype(np.uint8)


def pad_to_multiple(x: Tensor) -> Tensor:
    """[B, C, h, w] with the last row and column repeated until the U-Net can take it."""
    bottom, right = (max(SMALLEST, -(-side // MULTIPLE) * MULTIPLE) - side for side in x.shape[-2:])
    return pad(x, (0, right, 0, bottom), mode="replicate") if bottom or right else x
