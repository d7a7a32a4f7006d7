"""The labeller's twin without a model: same constructor, same outputs, from the image's brightness.

For tests of everything around the labeller, and for runs that measure that machinery.
"""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from engine.labelling.label import Label
from engine.labelling.spec import LabelSpec

LATENT_FACTOR = 8


class FakeLabeller:
    """Calls the brighter part of an image the object. `delay` is in seconds per image."""

    def __init__(
        self,
        model: object,
        spec: LabelSpec,
        *,
        batch_size: int = 64,
        delay: float = 0.0,
    ) -> None:
        self.spec = spec
        self.delay = delay

    def __call__(self, images: list[np.ndarray], keys: list[str]) -> list[Label]:
        """Labels of upright images (H, W, 3) uint8; they depend on the image, its key, and the seed only."""
        assert len(images) == len(keys)
        time.sleep(self.delay * len(images))
        return [self._label(image, key) for image, key in zip(images, keys, strict=True)]

    def _label(self, image: np.ndarray, key: str) -> Label:
        digest = hashlib.sha256(f"{self.spec.seed}/{key}".encode()).digest()
        grey = image.mean(axis=2)
        threshold = float(grey.mean()) + digest[0] / 64
        mask = grey > threshold
        heat = grey[::LATENT_FACTOR, ::LATENT_FACTOR]
        span = max(float(heat.max() - heat.min()), 1e-6)
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        empty = not mask.any()
        x, y = (0, 0) if empty else (int(columns[0]), int(rows[0]))
        bbox = (0, 0, 0, 0) if empty else (x, y, int(columns[-1]) - x + 1, int(rows[-1]) - y + 1)
        return Label(
            heatmap=((heat - heat.min()) / span * 255).astype(np.uint8),
            preliminary_mask=heat > threshold,
            mask=mask,
            bbox=bbox,
            area=float(mask.mean()),
            separation=digest[1] / 255,
            refined_separation=digest[1] / 255 if self.spec.stage == "refined" else float("nan"),
            presence=1.0,
            quality=digest[2] / 255,
            flags=["empty"] if empty else [],
        )


@dataclass(frozen=True, kw_only=True)
class FakeSource:
    """Where fake labellers come from (see `engine.run.source`)."""

    model: str = "fake"
    revision: str | None = None
    delay: float = 0.0

    def check(self, spec: LabelSpec) -> dict[str, Any]:
        """Fingerprint fields of the model; there is nothing to go wrong."""
        return {"model_weights": self.model}

    def build(
        self, spec: LabelSpec, *, device: str, threads: int | None = None, weights: bytes | None = None
    ) -> FakeLabeller:
        """A labeller for one worker."""
        return FakeLabeller(self.model, spec, delay=self.delay)

    def load(self, *, device: str) -> Any:
        """There is no model to be fine-tuned."""
        raise NotImplementedError("fake labellers have no model; label with --method none")
