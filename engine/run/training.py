"""What the trainings of a run share: which leases are learned from, and the receipt of what was learned."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import TypeVar

from engine import storage
from engine.run.directory import RunError
from schemas.training import TrainingReceipt

Item = TypeVar("Item")

IMAGES_PER_LEASE = 16
"""A sample takes at least about so many images from a lease: opening one costs a read of its index."""


def spread(leases: Sequence[Item], images: int, *, each: int = IMAGES_PER_LEASE) -> tuple[list[Item], int]:
    """Some of the leases, spread evenly, and how many images of each make about `images` together.

    Args:
        each: images that any lease can give.
    """
    count = min(len(leases), max(1, -(-images // each)))
    return [leases[index * len(leases) // count] for index in range(count)], -(-images // count)


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
    )
