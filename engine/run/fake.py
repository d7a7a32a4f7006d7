"""The twins without a model of labeller and synthesizer: called alike, with like outputs, from brightness and noise.

For tests of everything around the labeller, and for runs that measure that machinery.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from engine.labelling.label import Label
from engine.labelling.spec import LabelSpec, SeveralSpec
from engine.synthesis.sample import Start, SyntheticSample, without_object
from engine.synthesis.spec import SynthesisSpec, key_of

LATENT_FACTOR = 8


class FakeLabeller:
    """Calls the brighter part of an image the object. `delay` is in seconds per image."""

    def __init__(
        self,
        model: object,
        spec: LabelSpec,
        *,
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


class FakeSeveralLabeller:
    """The same for several concepts, which see all the same object: the first keeps what the others claim as well."""

    def __init__(self, model: object, spec: SeveralSpec, *, delay: float = 0.0) -> None:
        self.spec = spec
        self._each = [FakeLabeller(model, own, delay=delay) for own in spec.specs]

    def __call__(self, images: list[np.ndarray], keys: list[str]) -> list[list[Label]]:
        """Labels of each image, one for each concept."""
        from engine.labelling.overlap import share_pixels  # torch takes seconds, and the others need none of it

        return share_pixels(self.spec.concepts, [label(images, keys) for label in self._each])


class FakeSynthesizer:
    """Makes images of nothing, dark where they are pure backgrounds. `delay` is in seconds per sample."""

    SIDE = 64

    def __init__(
        self,
        model: object,
        spec: LabelSpec,
        settings: SynthesisSpec,
        *,
        weights: bytes | None = None,
        delay: float = 0.0,
    ) -> None:
        self.spec, self.settings = spec, settings
        self._label = FakeLabeller(model, spec, delay=delay)

    def __call__(self, indices: Sequence[int], starts: Sequence[Start | None]) -> list[SyntheticSample]:
        """The samples of these indices; those that begin from an image are its negative."""
        return [self._make(index, start) for index, start in zip(indices, starts, strict=True)]

    def _make(self, index: int, start: Start | None) -> SyntheticSample:
        settings, pure = self.settings, self.settings.is_background(index)
        assert (start is None) == (pure or not settings.begins_from_images), index
        noise = np.random.default_rng((settings.seed, index))
        image = noise.integers(0, 64 if pure else 256, (self.SIDE, self.SIDE, 3), dtype=np.uint8)
        if start:
            image = 255 - start.image
        (label,) = self._label([image], [key_of(index)])
        if pure:
            label = without_object(replace(label, presence=-1.0, flags=["absent"]))
        return SyntheticSample(
            index=index,
            pure=pure,
            prompt=self.spec.background_prompt if pure else self.spec.prompt,
            guidance=settings.background_guidance if pure else settings.guidance,
            image=image,
            label=label if pure else replace(label, background=image // 2),
            start=start.name if start else None,
        )


@dataclass(frozen=True, kw_only=True)
class FakeSource:
    """Where fake labellers and synthesizers come from (see `engine.run.source`)."""

    model: str = "fake"
    revision: str | None = None
    delay: float = 0.0

    def check(self, spec: LabelSpec) -> dict[str, Any]:
        """Fingerprint fields of the model; there is nothing to go wrong."""
        return {"model_weights": self.model}

    def check_synthesis(self, settings: SynthesisSpec) -> None:
        """There is nothing to go wrong."""

    def build(
        self,
        spec: LabelSpec | SeveralSpec,
        *,
        device: str,
        threads: int | None = None,
        weights: Sequence[bytes] = (),
    ) -> FakeLabeller | FakeSeveralLabeller:
        """A labeller for one worker."""
        kind: Any = FakeSeveralLabeller if isinstance(spec, SeveralSpec) else FakeLabeller
        return kind(self.model, spec, delay=self.delay)

    def build_synthesizer(
        self,
        spec: LabelSpec,
        settings: SynthesisSpec,
        *,
        device: str,
        threads: int | None = None,
        weights: bytes | None = None,
    ) -> FakeSynthesizer:
        """A synthesizer for one worker."""
        return FakeSynthesizer(self.model, spec, settings, weights=weights, delay=self.delay)

    def load(self, *, device: str) -> Any:
        """There is no model to be fine-tuned."""
        raise NotImplementedError("fake labellers have no model; label with --method none")
