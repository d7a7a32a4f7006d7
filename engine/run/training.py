"""What the trainings of a run share: which leases are learned from, and the receipt of what was learned."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import accumulate
from typing import TypeVar

from engine import storage
from engine.corpus.indexes import IndexFolder
from engine.corpus.lease import Lease
from engine.corpus.reader import open_lease
from engine.run.directory import RunError
from schemas.training import TrainingReceipt

Item = TypeVar("Item")

IMAGES_PER_LEASE = 16
"""A sample takes at least about so many images from a lease: opening one costs a read of its index."""
ENOUGH = 0.9
"""Of the images asked for: many a corpus has a last shard that is small, which is no reason to open more."""
FEW = 8
"""Leases that are opened at most to learn how many images they hold; damaged ones hold none."""


def spread(leases: Sequence[Item], images: int, *, each: int = IMAGES_PER_LEASE) -> tuple[list[Item], int]:
    """Some of the leases, spread evenly, and how many images of each make about `images` together.

    Args:
        each: images that any lease can give.
    """
    count = min(len(leases), max(1, -(-images // each)))
    return [leases[index * len(leases) // count] for index in range(count)], -(-images // count)


def plan_sample(leases: Sequence[Lease], images: int, indexes: IndexFolder | None = None) -> list[Lease]:
    """Leases, cut short and spread evenly over the given ones, that hold about `images` images together.

    How many they hold is estimated from the first of the leases: of the same leases the sample is the same.

    Args:
        indexes: as `open_lease` takes them.

    Raises:
        OSError: the corpus cannot be reached.
    """
    chosen, share = _choose(leases, images, estimate_counts(leases, indexes))
    return [replace(lease, limit=min(lease.limit or share, share)) for lease in chosen]


def _choose(leases: Sequence[Lease], images: int, counts: Sequence[float]) -> tuple[list[Lease], int]:
    """As `spread`; where that gives too few images more leases, and then more of each that has them."""
    held = {lease.id: count for lease, count in zip(leases, counts, strict=True)}
    each = IMAGES_PER_LEASE
    chosen, share = spread(leases, images, each=each)

    def is_full() -> bool:
        return sum(min(share, held[lease.id]) for lease in chosen) >= ENOUGH * images

    while each > 1 and not is_full():
        each //= 2
        chosen, share = spread(leases, images, each=each)
    while not is_full() and share < max(held.values()):
        share += 1
    return chosen, share


def estimate_counts(leases: Sequence[Lease], indexes: IndexFolder | None = None) -> list[float]:
    """About how many images leases hold: as many for their bytes as the first of them that holds any."""
    for lease in leases[:FEW]:
        with open_lease(lease, indexes=indexes) as reader:
            count = len(reader.samples())
        if count:
            own = lease.shard.size / lease.parts
            return [count * other.shard.size / other.parts / own if own else count for other in leases]
    return [math.inf] * len(leases)  # nothing is known


def share_out(counts: Sequence[int], images: int) -> list[int]:
    """How many of `images` each of some leases gives, in proportion to how many it has, which is the most it gives.

    Evenly spaced over the images of all leases lie clumps of `IMAGES_PER_LEASE`, so that of many leases few are opened;
    where each lease can give more than that, single images do.

    Args:
        counts: of images of each lease.

    Returns:
        as many numbers, which make `images` together, or all there are.
    """
    total = sum(counts)
    if images >= total:
        return list(counts)
    clumps = images if images >= IMAGES_PER_LEASE * len(counts) else -(-images // IMAGES_PER_LEASE)

    def taken(before: int) -> int:
        """How many of the first so many images are in a clump."""
        whole, rest = divmod(before * clumps, total)  # a clump and the gap behind it are total / clumps images
        return (whole * images + min(rest, images)) // clumps

    ends = [taken(end) for end in accumulate(counts)]
    return [end - start for start, end in zip([0, *ends], ends, strict=False)]


def find_training(folder: str, fingerprint: str, *, option: str = "--run") -> TrainingReceipt | None:
    """The receipt of a finished training, None if it is still to be done.

    Args:
        option: by which the user names the folder.

    Raises:
        RunError: it is unreadable, or of other settings.
    """
    url = storage.join(folder, "receipt.json")
    try:
        receipt = TrainingReceipt.from_json(storage.read_bytes(url).decode())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise RunError(f"{storage.redact(url)} is {error}") from error
    if receipt.fingerprint != fingerprint:
        raise RunError(
            f"{storage.redact(url)} has the fingerprint {receipt.fingerprint}, the run has {fingerprint}; "
            f"use another {option}"
        )
    return receipt


def make_receipt(
    fingerprint: str,
    images: Mapping[str, int],
    losses: Sequence[float],
    *,
    name: str,
    data: bytes,
    seconds: Mapping[str, float],
    limit: int | None = None,
) -> TrainingReceipt:
    """The receipt of a training whose weights are the file `name` with the content `data`."""
    tenth = max(1, len(losses) // 10)
    return TrainingReceipt(
        fingerprint=fingerprint,
        images=dict(sorted(images.items())),
        steps=len(losses),
        first_loss=round(sum(losses[:tenth]) / tenth, 5),
        last_loss=round(sum(losses[-tenth:]) / tenth, 5),
        weights={"name": name, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()},
        seconds={step: round(value, 1) for step, value in seconds.items()},
        limit=limit,
    )
