"""Images with ground truth, lease by lease, as the model sees them and as the protocol compares them."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from engine import storage
from engine.corpus import Lease, Sample, list_shards, open_lease, plan_leases
from engine.corpus.decode import DecodeError, decode_image
from engine.diffusion.geometry import Placement, image_to_canvas, valid_cells
from engine.diffusion.model import LatentDiffusion
from engine.evaluation.metrics import fit_to_protocol
from engine.evaluation.rows import EvaluationError
from engine.evaluation.truth import find_mask
from engine.labelling.heatmap import scale_to_bytes

logger = logging.getLogger(__name__)

BATCH = 8
"""Images encoded at once."""


@dataclass(frozen=True, kw_only=True)
class Specimen:
    """One image (H, W, 3) and what is known of it: masks (H, W) bool by concept."""

    shard: str
    key: str
    image: np.ndarray
    truths: dict[str, np.ndarray]

    def truth(self, concept: str) -> np.ndarray:
        """(128, 128) bool, in the protocol."""
        return self.fit(self.truths[concept])

    def fit(self, array: np.ndarray) -> np.ndarray:
        """A map or mask of this image in the protocol."""
        return fit_to_protocol(np.ascontiguousarray(array), *self.image.shape[:2])

    def fit_image(self) -> np.ndarray:
        """The image itself, (128, 128, 3) uint8."""
        return np.stack([self.fit(self.image[..., channel]) for channel in range(3)], -1)


def read_specimens(
    corpus: str | Sequence[Lease],
    concepts: Sequence[str],
    limit: int | None,
    *,
    owner: str | None,
    bare: bool = False,
) -> Iterator[Specimen]:
    """The first `limit` images of a corpus with a mask of any of the concepts; with `bare` also those without.

    Args:
        corpus: its URL, or leases of it.
        owner: whose masks without a name are, unless the JSON says so; None: nobody's.

    Raises:
        EvaluationError: there is none in a whole corpus; leases of one may have none.
        CorpusError: a corpus that cannot be read.
    """
    counts: Counter[str] = Counter()
    for lease in plan_leases(list_shards(corpus)) if isinstance(corpus, str) else corpus:
        with open_lease(lease, masks=True) as samples:
            for sample in samples:
                specimen = _make_specimen(sample, concepts, owner, counts) if isinstance(sample, Sample) else None
                if specimen is None or not (specimen.truths or bare):
                    continue
                counts["used"] += 1
                yield specimen
                if counts["used"] == limit:
                    return
    if not counts["used"] and isinstance(corpus, str):
        where = storage.redact(corpus)
        names = " or ".join(repr(concept) for concept in concepts)
        raise EvaluationError(
            f"none of the {counts['images']} images of {where} has ground truth for {names} "
            f"({counts['bad']} unusable); give --input a corpus with KEY.mask.png or KEY.{concepts[0]}.mask.png files"
        )


def read_images(corpus: str, limit: int, *, side: int) -> Iterator[Tensor]:
    """The first `limit` images, the short side resized to `side`, cropped to the centre: [3, side, side] in 0..1.

    Raises:
        EvaluationError: there is none.
        CorpusError: a corpus that cannot be read.
    """
    found = 0
    for lease in plan_leases(list_shards(corpus)):
        with open_lease(lease) as samples:
            for sample in samples:
                if not isinstance(sample, Sample):
                    continue
                try:
                    image = Image.fromarray(decode_image(sample.image))
                except DecodeError as error:
                    logger.warning("%s %s is left out: %s", sample.shard, sample.key, error)
                    continue
                square = ImageOps.fit(image, (side, side), Image.Resampling.LANCZOS)
                yield torch.from_numpy(np.asarray(square).copy()).permute(2, 0, 1) / 255
                found += 1
                if found == limit:
                    return
    if not found:
        raise EvaluationError(f"{storage.redact(corpus)} has no readable image; give another --input")


def _make_specimen(sample: Sample, concepts: Sequence[str], owner: str | None, counts: Counter[str]) -> Specimen | None:
    counts["images"] += 1
    truths = {}
    try:
        image = decode_image(sample.image)
        for concept in concepts:
            mask = find_mask(sample, concept, alone=concept == owner)
            if mask is None:
                continue
            if mask.shape != image.shape[:2]:
                raise DecodeError("bad_truth", f"its mask has {mask.shape[::-1]} pixels, not {image.shape[1::-1]}")
            truths[concept] = mask
    except DecodeError as error:
        logger.warning("%s %s is left out: %s", sample.shard, sample.key, error)
        counts["bad"] += 1
        return None
    return Specimen(shard=sample.shard, key=sample.key, image=image, truths=truths)


def batched(specimens: Iterable[Specimen], size: int = BATCH) -> Iterator[list[Specimen]]:
    """The specimens in lists of `size`, the last one shorter."""
    batch: list[Specimen] = []
    for specimen in specimens:
        batch.append(specimen)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


@dataclass(frozen=True, kw_only=True, eq=False)
class Latents:
    """Images of a batch on the model's canvas: z0 [B, C, h, w], the cells that belong to them [B, h, w]."""

    specimens: list[Specimen]
    z0: Tensor
    valid: Tensor

    @classmethod
    def encode(cls, model: LatentDiffusion, specimens: list[Specimen]) -> Latents:
        """Latents on the model's device."""
        sizes = [specimen.image.shape for specimen in specimens]
        places = [Placement.fit(s[1], s[0], cells=model.latent_size, factor=model.factor) for s in sizes]
        canvases = [image_to_canvas(s.image, place) for s, place in zip(specimens, places, strict=True)]
        z0 = model.encode(torch.stack(canvases).to(model.device))
        return cls(specimens=specimens, z0=z0, valid=valid_cells(places).to(model.device))

    @property
    def keys(self) -> list[str]:
        return [specimen.key for specimen in self.specimens]

    def shades(self, maps: Tensor) -> list[np.ndarray]:
        """Maps [B, K, h, w] in the protocol, min-max scaled one by one: a uint8 array [K, 128, 128] per image."""
        kinds = maps.shape[1]
        valid = self.valid.repeat_interleave(kinds, 0)
        grey = scale_to_bytes(maps.flatten(0, 1).float(), valid).unflatten(0, (-1, kinds)).cpu().numpy()
        inside = self.valid.cpu()
        sizes = [(int(cells[:, 0].sum()), int(cells[0].sum())) for cells in inside]
        return [
            np.stack([specimen.fit(shade[:rows, :columns]) for shade in shades])
            for specimen, shades, (rows, columns) in zip(self.specimens, grey, sizes, strict=True)
        ]
