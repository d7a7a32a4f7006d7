"""What a segmenter learns from: images and their masks, joined by key within a lease, and an account of the rest.

Counted are: used; image_without_label, label_without_image; bad_image, bad_mask (they do not decode, or the mask is
not of its image's size), defect:REASON (of the shard); low_quality, flag:NAME; rejected (by a person); too_elongated
(no square crop fits), not_needed (of a lease that has given enough); and of a whole training lease_without_label.

Of several concepts an image needs a label of each, and is left out for the first of them that is unusable; a label
that says that its concept is absent is used: as background.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from engine import storage
from engine.corpus.decode import DecodeError, decode_image, decode_mask
from engine.corpus.indexes import IndexFolder
from engine.corpus.lease import Lease
from engine.corpus.reader import LeaseReader, open_lease
from engine.corpus.sample import Defect, Sample
from engine.diffusion.geometry import resize_mask, upsample_mask
from engine.labelling.png import masks_to_classes, png_to_array
from engine.segmenter.resize import resize_image, target_size
from engine.segmenter.spec import Labels, SegmenterSpec
from schemas.label import Row

logger = logging.getLogger(__name__)

Review = Mapping[tuple[str, str], str]
"""Decisions of a person (accept, reject or unsure) by (shard, key)."""

COLUMNS: dict[str, str] = {"refined": "mask", "preliminary": "preliminary_mask"}


@dataclass(frozen=True, kw_only=True)
class Example:
    """An image at the size the U-Net sees it, and its mask.

    Attributes:
        image: (h, w, 3) uint8.
        mask: (h, w) bool; of several concepts their classes, uint8: 0 background, 1 the first of them.
    """

    shard: str
    key: str
    image: np.ndarray
    mask: np.ndarray


class _Unusable(Exception):
    """Why an image gives no example, in the word that it is counted by."""


def read_examples(
    labels_url: str | None,
    leases: Iterable[Lease],
    spec: SegmenterSpec,
    tally: Counter[str],
    *,
    concept: str | Sequence[str],
    labels: Labels | None = None,
    alone: bool = True,
    review: Review | None = None,
    most: int | None = None,
    indexes: IndexFolder | None = None,
) -> Iterator[Example]:
    """The usable examples of some leases, in the order of the leases.

    Args:
        labels_url: folder of a run's label files, one per lease; not read where labels are the truth.
        tally: every image and every label is counted in it once, by what became of it.
        concept: whose labels or true masks are taken, or several; an image whose JSON names another, or null, truly
            shows none.
        labels: instead of the spec's.
        alone: whether true masks are of no more concepts than one, if one is given (see `Sample.truth`).
        most: examples wanted from each lease, which are spread over it.
        indexes: as `open_lease` takes them.

    Raises:
        ValueError: a label file that is none, or is not there.
        OSError: corpus or labels cannot be reached.
    """
    labels = labels or spec.labels
    concepts = (concept,) if isinstance(concept, str) else tuple(concept)
    alone = alone and len(concepts) == 1
    for lease in leases:
        columns = ["width", "height", "quality", "flags", COLUMNS.get(labels, "mask")]
        rows: dict[str, dict[str, Row]] = {}
        if labels != "truth" and labels_url is not None:
            rows = read_rows(labels_url, lease, columns, tally, concepts=concepts)
        with open_lease(lease, masks=labels == "truth", indexes=indexes) as reader:
            if not rows and labels != "truth" and reader.planned:
                tally["image_without_label"] += reader.planned
                continue
            # What labels say of an image is known before it is read, which may take a request to a store.
            decide = partial(_why_left_out, concepts=concepts, labels=labels, spec=spec)
            usable = _choose(reader, rows, decide, tally, review or {})
            used = 0
            for looked, chosen in enumerate(_spread_places(len(usable), most)):
                if used == most:
                    tally["not_needed"] += len(usable) - looked
                    break
                place, own = usable[chosen]
                sample = reader.read(place)
                try:
                    example = _make(sample, own, spec, labels, concepts, alone=alone)
                except _Unusable as unusable:
                    tally[str(unusable)] += 1
                else:
                    tally["used"] += 1
                    used += 1
                    yield example


def _choose(
    reader: LeaseReader,
    rows: dict[str, dict[str, Row]],
    decide: Callable[[Mapping[str, Row], str], str | None],
    tally: Counter[str],
    review: Review,
) -> list[tuple[int, dict[str, Row]]]:
    """Places and labels of the samples that can be learned from, as far as labels tell; counts all others.

    Args:
        decide: why an image with these labels, and this decision of a person, is left out.
    """
    keys, usable = reader.samples(), []
    for place in range(reader.planned):
        if place not in keys:
            tally[_name_defect(reader.read(place))] += 1
            continue
        own = rows.pop(keys[place], {})
        if reason := decide(own, review.get((reader.lease.shard.name, keys[place]), "")):
            tally[reason] += 1
        else:
            usable.append((place, own))
    if rows:
        tally["label_without_image"] += len(rows)
    return usable


def _name_defect(defect: Sample | Defect) -> str:
    assert isinstance(defect, Defect)
    return f"defect:{defect.reason}"


def _spread_places(count: int, most: int | None) -> list[int]:
    """All places from 0 to `count`, in rounds: `most` evenly spaced ones first, then others that are so."""
    return sorted(range(count), key=lambda place: (place * most % count // most, place) if most else (0, place))


def read_rows(
    labels_url: str, lease: Lease, columns: Sequence[str], tally: Counter[str], *, concepts: Sequence[str]
) -> dict[str, dict[str, Row]]:
    """The label rows of a lease by key and concept; rows of other shards, which do not belong there, are labels
    without image.

    Args:
        columns: besides shard, key and concept.
        concepts: whose rows are wanted.

    Raises:
        ValueError: a label file that is none, or is not there.
    """
    url = storage.join(labels_url, f"{lease.id}.parquet")
    names = list(dict.fromkeys(["shard", "key", "concept", *columns]))
    try:
        with storage.open_binary(url) as file:
            rows = pq.read_table(file, columns=names, filters=[("concept", "in", list(concepts))]).to_pylist()
    except FileNotFoundError as error:
        raise ValueError(
            f"there is no {storage.redact(url)}, though a receipt says that it was written; delete the receipt and "
            "label its lease again"
        ) from error
    except ValueError as error:  # pyarrow.ArrowInvalid is a ValueError
        raise ValueError(f"{storage.redact(url)} is not a label file: {error}; label its lease again") from error
    own: dict[str, dict[str, Row]] = {}
    for row in rows:
        if row["shard"] == lease.shard.name:
            own.setdefault(row["key"], {})[row["concept"]] = row
    if strange := len(rows) - sum(map(len, own.values())):
        tally["label_without_image"] += strange
    return own


def why_left_out(
    row: dict[str, Any] | None, decision: str, *, min_quality: float, drop_flags: Collection[str]
) -> str | None:
    """The word to count a label by that a person or the settings leave out; None for one that is to be used."""
    if decision == "reject":
        return "rejected"
    if row is None or decision == "accept":
        return None
    if flags := sorted(set(drop_flags) & set(row["flags"])):
        return f"flag:{flags[0]}"
    return "low_quality" if (row["quality"] or 0.0) < min_quality else None


def _why_left_out(
    own: Mapping[str, Row], decision: str, *, concepts: Sequence[str], labels: Labels, spec: SegmenterSpec
) -> str | None:
    """The same of the labels that an image has of its concepts: for the first of them that is to be left out."""
    rows = [own.get(name) for name in concepts]
    if decision != "reject" and len(rows) > 1:
        # That one of several is absent is what makes the image background to it; its quality is 0.
        rows = [row for row in rows if row is None or "absent" not in row["flags"]]
    for row in rows:
        if reason := why_left_out(row, decision, min_quality=spec.min_quality, drop_flags=spec.drop_flags):
            return reason
    return "image_without_label" if labels != "truth" and len(own) < len(concepts) else None


def _make(
    sample: Sample | Defect,
    rows: Mapping[str, Row],
    spec: SegmenterSpec,
    labels: Labels,
    concepts: Sequence[str],
    *,
    alone: bool,
) -> Example:
    """The example; raises _Unusable."""
    if isinstance(sample, Defect):
        raise _Unusable(_name_defect(sample))
    if labels == "truth" and any(_lacks_mask(sample, name, alone=alone) for name in concepts):
        raise _Unusable("image_without_label")
    try:
        image = decode_image(sample.image)
    except DecodeError as error:
        logger.debug("%s %s: %s", sample.shard, sample.key, error)
        raise _Unusable("bad_image") from error
    height, width = target_size(image.shape[0], image.shape[1], spec.short_side)
    if min(height, width) < spec.crop:
        raise _Unusable("too_elongated")
    resize = upsample_mask if labels == "preliminary" else resize_mask
    masks = [
        resize(_read_mask(sample, rows.get(name), labels, name, image.shape[:2]), width, height) for name in concepts
    ]
    mask = masks[0] if len(masks) == 1 else masks_to_classes(masks)
    return Example(shard=sample.shard, key=sample.key, image=resize_image(image, height, width), mask=mask)


def _lacks_mask(sample: Sample, concept: str, *, alone: bool) -> bool:
    """Whether nothing says where the concept is; of several, a mask that names none of them does not."""
    return not sample.lacks(concept) and sample.truth(concept, alone=alone) is None


def _read_mask(sample: Sample, row: Row | None, labels: Labels, concept: str, shape: tuple[int, int]) -> np.ndarray:
    """The mask of a concept as the label, or the corpus, has it; raises _Unusable.

    M_pre knows of no presence: that of an absent concept is what it was taken for, and read as empty.
    """
    if labels == "truth" and sample.lacks(concept):
        return np.zeros(shape, bool)
    try:
        mask: np.ndarray = decode_mask(sample.truth(concept)) if row is None else png_to_array(row[COLUMNS[labels]])  # type: ignore[arg-type]
        size = mask.shape if labels != "preliminary" or row is None else (row["height"], row["width"])
        if size != shape or mask.dtype != np.bool_:
            raise ValueError(f"it is for {size[1]}x{size[0]} pixels, the image has {shape[1]}x{shape[0]}")
        if labels == "preliminary" and row is not None and "absent" in row["flags"]:
            mask = np.zeros_like(mask)
    except Exception as error:  # PIL raises nearly anything on damaged data
        logger.warning("the mask of %s in %s %s is unusable: %s", concept, sample.shard, sample.key, error)
        raise _Unusable("bad_mask") from error
    return mask
