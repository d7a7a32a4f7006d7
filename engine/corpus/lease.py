"""Leases: the unit of work, of retry and of output. A lease is a shard, or one part of a big one."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from engine.corpus.catalogue import CorpusError, Shard
from engine.corpus.members import count_samples
from engine.corpus.source import open_source

LEASE_VERSION = 2
"""Raised whenever shards are divided in another way: a part of before is not the part of that name now."""


@dataclass(frozen=True, kw_only=True)
class Lease:
    """One of `parts` equal stretches of a shard's items, up to the end of its first `limit` samples if there is one."""

    shard: Shard
    part: int = 0
    parts: int = 1
    limit: int | None = None

    def __post_init__(self) -> None:
        assert 0 <= self.part < self.parts, self
        assert self.limit is None or self.limit > 0, self

    @property
    def id(self) -> str:
        """What files about this lease are named after: ``000000``, or ``000000-00003`` for a part."""
        return self.shard.stem if self.parts == 1 else f"{self.shard.stem}-{self.part:05d}"

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; `from_json` gives the equal lease back."""
        return json.loads(json.dumps(asdict(self)))

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Lease:
        shard = {**values["shard"], "members": tuple(values["shard"]["members"])}
        return cls(**{**values, "shard": Shard(**shard)})


def plan_leases(
    shards: Sequence[Shard],
    *,
    target_bytes: int = 64 << 20,
    limit: int | None = None,
    storage_options: dict[str, Any] | None = None,
) -> list[Lease]:
    """Splits shards into leases of about `target_bytes` or less, in the order of the shards.

    How a shard is split depends on its size alone, so that the ids of leases stay the same from run to run.

    Args:
        limit: number of samples in all: the first ones. Shards are then opened, one after the other, until
            it is reached.

    Raises:
        CorpusError: a limit below 1, or lease ids that are not unique.
    """
    if limit is not None and limit < 1:
        raise CorpusError(f"The limit is {limit}, but at least one sample is needed; leave it out for all.")
    leases: list[Lease] = []
    remaining = limit
    for shard in shards:
        if remaining == 0:
            break
        parts = max(1, -(-shard.size // target_bytes))
        own = [Lease(shard=shard, part=part, parts=parts) for part in range(parts)]
        if remaining is not None:
            own, remaining = _cut_short(own, remaining, storage_options)
        leases += own
    _check_unique(leases)
    return leases


def _cut_short(leases: list[Lease], limit: int, storage_options: dict[str, Any] | None) -> tuple[list[Lease], int]:
    """The leases of a shard up to its first `limit` samples, and how many of these it does not have."""
    with contextlib.closing(open_source(leases[0].shard, storage_options)) as source:
        for place, lease in enumerate(leases):
            held = count_samples(source.index.deal(part=lease.part, parts=lease.parts))
            if held > limit:
                return leases[:place] + ([replace(lease, limit=limit)] if limit else []), 0
            limit -= held
    return leases, limit


def _check_unique(leases: Sequence[Lease]) -> None:
    by_id: dict[str, Lease] = {}
    for lease in leases:
        other = by_id.setdefault(lease.id, lease)
        if other is not lease:
            raise CorpusError(f"A part of {other.shard.name!r} would be named like {lease.shard.name!r}; rename one.")
