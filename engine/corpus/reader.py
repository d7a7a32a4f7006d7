"""Reading one lease: the samples and defects it holds, in order, their number known beforehand."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Collection, Iterator
from types import TracebackType
from typing import Any

from engine.corpus.indexes import IndexFolder
from engine.corpus.lease import Lease
from engine.corpus.members import Group, Member, count_samples
from engine.corpus.sample import Defect, Sample
from engine.corpus.source import UnreadableSource, open_source
from engine.remote import LASTING_ERRORS

logger = logging.getLogger(__name__)

# An encoded image larger than this is not an image; it would only fill the memory.
LARGEST_MEMBER = 512 << 20


class LeaseReader:
    """Iterates over one lease. `planned` is the exact number of samples and defects to come; `held` that of the samples
    of the whole lease, whatever its limit; `ignored` counts the files of a tar that are never read, by their kind (in
    the first part of a shard, for all of it).

    Damaged data come out as defects. Errors of the store that may heal (a lost connection) are raised as
    OSError, so that the lease is tried again.
    """

    def __init__(
        self,
        lease: Lease,
        *,
        masks: bool = False,
        keys: Collection[str] | None = None,
        must_open: bool = False,
        indexes: IndexFolder | None = None,
        storage_options: dict[str, Any] | None = None,
    ) -> None:
        self.lease = lease
        self._masks = masks
        self._source = open_source(lease.shard, storage_options, indexes)
        if must_open and isinstance(self._source, UnreadableSource):
            raise self._source.error
        items = self._source.index.deal(part=lease.part, parts=lease.parts, limit=lease.limit)
        self._items = items if keys is None else [item for item in items if item.key in keys]
        self.planned = len(self._items)
        self.held = count_samples(self._source.index.deal(part=lease.part, parts=lease.parts))
        self.ignored = self._source.index.ignored if lease.part == 0 else {}

    def __iter__(self) -> Iterator[Sample | Defect]:
        return (self.read(place) for place in range(self.planned))

    def read(self, place: int) -> Sample | Defect:
        """One of the planned, by its place in the order of iteration."""
        item = self._items[place]
        return item if isinstance(item, Defect) else self._read_sample(item)

    def samples(self) -> dict[int, str]:
        """The keys of the samples to come, by place, without reading any."""
        return {place: item.key for place, item in enumerate(self._items) if isinstance(item, Group)}

    def __enter__(self) -> LeaseReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the shard; the reader cannot be iterated afterwards."""
        self._source.close()

    def _read_sample(self, group: Group) -> Sample | Defect:
        shard = self.lease.shard.name
        try:
            image = self._read(group.image)
        except _UnreadableError as error:
            return Defect(shard=shard, key=group.key, stage="read", reason=error.reason, message=str(error))
        masks: dict[str, bytes] = {}
        for concept, member in group.masks.items() if self._masks else ():
            with contextlib.suppress(_UnreadableError):
                masks[concept] = self._read(member)
        return Sample(
            shard=shard,
            key=group.key,
            image=image,
            caption=self._read_caption(group.caption),
            metadata=self._read_metadata(group.metadata),
            masks=masks,
        )

    def _read(self, member: Member) -> bytes:
        if member.size > LARGEST_MEMBER:
            raise _UnreadableError("too_large", f"{member.name!r} has {member.size} bytes.")
        try:
            data = self._source.read(member)
        except LASTING_ERRORS as error:
            raise _UnreadableError("unreadable", f"{member.name!r} cannot be read: {error}.") from error
        if len(data) < member.size:
            raise _UnreadableError("truncated", f"{member.name!r} has {len(data)} of {member.size} bytes.")
        return data

    def _read_caption(self, member: Member | None) -> str | None:
        if member is None:
            return None
        with contextlib.suppress(_UnreadableError):
            return self._read(member).decode(errors="replace").strip()
        return None

    def _read_metadata(self, member: Member | None) -> dict[str, Any]:
        if member is None:
            return {}
        # Nothing that makes labels looks at metadata, so bad ones are no reason to lose the sample.
        with contextlib.suppress(_UnreadableError, ValueError, RecursionError):
            metadata = json.loads(self._read(member))
            if isinstance(metadata, dict):
                return metadata
        logger.debug("%s: %s is not a JSON object and is ignored", self.lease.shard.name, member.name)
        return {}


def open_lease(
    lease: Lease,
    *,
    masks: bool = False,
    keys: Collection[str] | None = None,
    must_open: bool = False,
    indexes: IndexFolder | None = None,
    storage_options: dict[str, Any] | None = None,
) -> LeaseReader:
    """Opens a lease for reading.

    Args:
        masks: read ground-truth masks, too.
        keys: of the samples to be read; all if not given.
        must_open: a shard that is gone or forbidden is an error, not one defect in place of all its samples.
        indexes: where those of large tars in object stores are kept, so that not all who open one read all of it.

    Raises:
        OSError: the shard cannot be reached, or `must_open` and it is not there.
    """
    return LeaseReader(
        lease, masks=masks, keys=keys, must_open=must_open, indexes=indexes, storage_options=storage_options
    )


class _UnreadableError(Exception):
    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
