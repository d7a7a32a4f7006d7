"""Leases: the unit of work, of retry and of output. A lease is a shard, or one part of a big one."""

from __future__ import annotations

import contextlib
import json
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from typing import Any

from engine.corpus.catalogue import CorpusError, Shard
from engine.corpus.indexes import IndexFolder
from engine.corpus.members import count_samples
from engine.corpus.source import open_source

LEASE_VERSION = 2
"""Raised whenever shards are divided in another way: a part of before is not the part of that name now."""
AT_ONCE = 4
"""Shards that are opened at once to count their samples: each of an object store may be held in memory whole."""


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
    known: Callable[[Lease], int | None] | None = None,
    indexes: IndexFolder | None = None,
    storage_options: dict[str, Any] | None = None,
) -> list[Lease]:
    """Splits shards into leases of about `target_bytes` or less, in the order of the shards.

    How a shard is split depends on its size alone, so that the ids of leases stay the same from run to run.

    Args:
        limit: number of samples in all: the first ones. Shards are then opened, a few at a time, until it is reached.
        known: how many samples a whole lease holds, if somebody has counted them; its shard is not opened then.
        indexes: where those of large tars are kept.

    Raises:
        CorpusError: a limit below 1, or lease ids that are not unique.
    """
    if limit is not None and limit < 1:
        raise CorpusError(f"The limit is {limit}, but at least one sample is needed; leave it out for all.")
    whole: list[list[Lease]] = []
    for shard in shards:
        parts = max(1, -(-shard.size // target_bytes))
        whole.append([Lease(shard=shard, part=part, parts=parts) for part in range(parts)])
    if limit is None:
        leases = [lease for own in whole for lease in own]
    else:

        def count(lease: Lease) -> list[int]:
            return _count(lease.shard, lease.parts, indexes, storage_options)

        leases = _cut_short(whole, limit, known or (lambda lease: None), count)
    _check_unique(leases)
    return leases


def _cut_short(
    whole: list[list[Lease]],
    limit: int,
    known: Callable[[Lease], int | None],
    count: Callable[[Lease], list[int]],
) -> list[Lease]:
    """The leases of the first shards, up to so many samples."""
    leases: list[Lease] = []
    for own, counts in _count_ahead(whole, limit, known, count):
        for lease, held in zip(own, counts, strict=True):
            if held > limit:
                return leases + ([replace(lease, limit=limit)] if limit else [])
            leases.append(lease)
            limit -= held
    return leases


def _count_ahead(
    whole: list[list[Lease]],
    limit: int,
    known: Callable[[Lease], int | None],
    count: Callable[[Lease], list[int]],
) -> Iterator[tuple[list[Lease], list[int]]]:
    """The leases of each shard and how many samples they hold, up to the shard that reaches the limit.

    Of the next shards only so many are opened at once as are needed if they hold as many as those before them.
    """
    ahead: deque[tuple[list[Lease], Future[list[int]]]] = deque()
    begun = found = 0
    pool = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="count")
    try:
        while found < limit:
            seen = begun - len(ahead)
            needed = min(AT_ONCE, -(-(limit - found) * seen // found) if found else AT_ONCE if seen else 1)
            for own in whole[begun : begun + max(0, needed - len(ahead))]:
                ahead.append((own, _begin(own, known, count, pool)))
                begun += 1
            if not ahead:
                break
            own, future = ahead.popleft()
            counts = future.result()
            found += sum(counts)
            yield own, counts
    finally:
        pool.shutdown(cancel_futures=True)


def _begin(
    own: list[Lease],
    known: Callable[[Lease], int | None],
    count: Callable[[Lease], list[int]],
    pool: ThreadPoolExecutor,
) -> Future[list[int]]:
    counts = [held for lease in own if (held := known(lease)) is not None]
    if len(counts) < len(own):
        return pool.submit(count, own[0])
    future: Future[list[int]] = Future()
    future.set_result(counts)
    return future


def _count(shard: Shard, parts: int, indexes: IndexFolder | None, storage_options: dict[str, Any] | None) -> list[int]:
    """How many samples each part of a shard holds."""
    with contextlib.closing(open_source(shard, storage_options, indexes)) as source:
        return [count_samples(source.index.deal(part=part, parts=parts)) for part in range(parts)]


def _check_unique(leases: Sequence[Lease]) -> None:
    by_id: dict[str, Lease] = {}
    for lease in leases:
        other = by_id.setdefault(lease.id, lease)
        if other is not lease:
            raise CorpusError(f"A part of {other.shard.name!r} would be named like {lease.shard.name!r}; rename one.")
