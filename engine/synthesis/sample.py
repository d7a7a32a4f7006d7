"""A synthetic sample, and samples as a WebDataset tar: the same samples always give the same bytes."""

from __future__ import annotations

import io
import json
import math
import tarfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from PIL import Image

from engine.labelling.label import BACKGROUND, OBJECT_LIKELY, Label
from engine.synthesis.spec import key_of


@dataclass(frozen=True, kw_only=True)
class Start:
    """An image of the corpus that a sample begins from: (H, W, 3) uint8, upright, of any size."""

    shard: str
    key: str
    image: np.ndarray

    @property
    def name(self) -> tuple[str, str]:
        return self.shard, self.key


@dataclass(frozen=True, kw_only=True)
class SyntheticSample:
    """One image that m′ made.

    Attributes:
        index: its place in the set.
        pure: whether it is a pure background.
        prompt, guidance: what it was made with.
        image: (H, W, 3) uint8.
        label: of the image; its `background` is None where there was nothing to paint over.
        start: shard and key of what it began from; None is noise.
    """

    index: int
    pure: bool
    prompt: str
    guidance: float
    image: np.ndarray
    label: Label
    start: tuple[str, str] | None = None

    @property
    def key(self) -> str:
        return key_of(self.index)

    @property
    def foreground(self) -> np.ndarray:
        """(H, W, 4) uint8: the object cut out. What is transparent is black."""
        return np.dstack([self.image, np.full_like(self.image[..., 0], 255)]) * self.label.mask[..., None]

    @property
    def background(self) -> np.ndarray | None:
        """(H, W, 3) uint8: the image without the object; None where it was not painted over."""
        return self.image if self.pure else self.label.background


class Samples(Protocol):
    """What makes samples: `engine.synthesis.synthesizer.Synthesizer` or its fake twin.

    It is given what each of them begins from, None for noise, as pure backgrounds always do.
    """

    def __call__(self, indices: Sequence[int], starts: Sequence[Start | None], /) -> list[SyntheticSample]: ...


def without_object(label: Label) -> Label:
    """The label of a pure background: nothing is masked, and the presence of the concept speaks against it.

    Its quality is 1, or 0 where the model finds the concept, which is flagged.
    """
    likely = math.isfinite(label.presence) and "absent" not in label.flags
    return replace(
        label,
        preliminary_mask=np.zeros_like(label.preliminary_mask),
        mask=np.zeros_like(label.mask),
        bbox=(0, 0, 0, 0),
        area=0.0,
        quality=0.0 if likely else 1.0,
        flags=[BACKGROUND, OBJECT_LIKELY] if likely else [BACKGROUND],
    )


def sample_to_members(sample: SyntheticSample, *, concept: str, seed: int, fingerprint: str) -> dict[str, bytes]:
    """A sample as the members of a tar: suffix -> bytes, sorted. `background.png` is left out where there is none."""
    facts = {
        "concept": concept,
        "prompt": sample.prompt,
        "guidance": sample.guidance,
        "seed": seed,
        "index": sample.index,
        "background": sample.pure,
        "start": dict(zip(("shard", "key"), sample.start, strict=True)) if sample.start else None,
        "fingerprint": fingerprint,
    }
    members = {
        "png": _to_png(sample.image),
        "mask.png": _to_png(sample.label.mask),
        "foreground.png": _to_png(sample.foreground),
        "json": json.dumps(facts, sort_keys=True, ensure_ascii=False).encode(),
        "txt": sample.prompt.encode(),
    }
    if sample.background is not None:
        members["background.png"] = _to_png(sample.background)
    return dict(sorted(members.items()))


def members_to_tar(samples: Iterable[tuple[str, dict[str, bytes]]]) -> bytes:
    """Samples (key, members) as a tar, in the order given; no samples make a valid tar without members."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for key, members in samples:
            for suffix, data in members.items():
                member = tarfile.TarInfo(f"{key}.{suffix}")  # of no owner and no time
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def _to_png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, format="PNG")
    return buffer.getvalue()
