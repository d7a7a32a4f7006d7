"""Tar shards: an index of the headers first, then single members by offset.

The index is what makes grouping exact in unsorted archives and the number of samples known before the first
is read. Damage never raises: what stands before it is used, the rest becomes one defect of the shard.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from typing import Any, BinaryIO

from engine.corpus.catalogue import Shard
from engine.corpus.indexes import SPARSE, Headers, IndexFolder
from engine.corpus.members import Index, Member, count_ignored, group_members, is_hidden, printable, split_tar_name
from engine.corpus.sample import Defect
from engine.remote import find_version
from engine.storage import open_binary

_BLOCK = tarfile.BLOCKSIZE
# Zeros may follow the end marker up to a full record; GNU tar's largest usual record is 1 MiB.
_LARGEST_RECORD = 2048 * _BLOCK
# What tarfile lets through when headers lie: absurd numbers, endless chains of extended headers, huge ones.
_BAD_HEADER = (
    tarfile.TarError,
    ValueError,
    OverflowError,
    IndexError,
    KeyError,
    TypeError,
    RecursionError,
    MemoryError,
)


_last_index: dict[tuple[str, str], Index] = {}
"""The index of the last large tar of a store, which makes the store send all of it: other parts of it come next."""


class TarSource:
    """An open tar shard: `index` says what it holds, `read` gives the bytes of a member."""

    def __init__(
        self, shard: Shard, storage_options: dict[str, Any] | None = None, indexes: IndexFolder | None = None
    ) -> None:
        self._file = open_binary(shard.url, **(storage_options or {}))
        version = find_version(self._file)
        index = _last_index.get((shard.name, version)) if version else None
        if index is None:
            index = _make_index(shard, self._file, version, indexes)
            if version:
                _last_index.clear()  # before the next is kept: an index may have a hundred megabytes
                _last_index[shard.name, version] = index
        self.index = index

    def read(self, member: Member) -> bytes:
        """The member's bytes; fewer than `member.size` if the file has shrunk since it was indexed."""
        self._file.seek(member.offset)
        return self._file.read(member.size)

    def close(self) -> None:
        self._file.close()


def _make_index(shard: Shard, file: BinaryIO, version: str | None, indexes: IndexFolder | None) -> Index:
    if indexes is None or version is None:
        return index_tar(file, shard.name)
    headers = indexes.share(shard.stem, version, shard.size, lambda: read_headers(file))
    return group_headers(headers, shard.name)


def index_tar(file: BinaryIO, shard: str) -> Index:
    """Reads the headers of a seekable tar.

    Returns:
        the whole samples before the first damage, and defects ``empty``, ``not_a_tar``, ``truncated``
        or ``unsorted`` of the shard. OSErrors of the file itself are raised.
    """
    return group_headers(read_headers(file), shard)


def read_headers(file: BinaryIO) -> Headers:
    """What the headers of a seekable tar say; OSErrors of the file itself are raised."""
    walk = _Walk(file)
    members = list(walk)
    return Headers(members=members, damage=walk.damage, ended=walk.saw_end)


def group_headers(headers: Headers, shard: str) -> Index:
    """The samples and defects that the headers of a shard stand for, as `index_tar`."""
    members = headers.members
    items, apart = group_members(shard, members)
    damage = [headers.damage] if headers.damage else []
    if damage and members and not headers.ended:
        # A key that was cut off before its image came is part of that damage, not a sample without image.
        cut = printable(members[-1].key)
        items = [i for i in items if not (isinstance(i, Defect) and i.reason == "no_image" and i.key == cut)]
    if not damage and not items:
        damage.append(("empty", "The tar has no files in it."))
    if apart is not None:
        message = (
            f"The members of key {printable(apart)!r}, and maybe of others, are not next to each other: all "
            f"samples were read here, but other WebDataset readers break them; sort the archive by name."
        )
        damage.append(("unsorted", message))
    defects = [Defect(shard=shard, key="", stage="read", reason=r, message=m) for r, m in damage]
    return Index(items=items, shard_defects=defects, ignored=count_ignored(members))


class _Walk:
    """Yields the regular files of a tar.

    Afterwards `damage` is the (reason, message) of what was wrong, or None; `saw_end` tells whether the end
    marker was there, so that no member can be missing in front of it.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.damage: tuple[str, str] | None = None
        self.saw_end = False
        self._file = file
        self._size = file.seek(0, io.SEEK_END)

    def __iter__(self) -> Iterator[Member]:
        self._file.seek(0)
        start = self._file.read(2)
        self._file.seek(0)
        if not start:
            self.damage = ("empty", "The file has zero bytes.")
            return
        try:
            archive = tarfile.TarFile(fileobj=self._file, encoding="utf-8", errors="surrogateescape")
        except _BAD_HEADER as error:
            hint = "; it is compressed with gzip, run gunzip on it" if start == b"\x1f\x8b" else ""
            self.damage = ("not_a_tar", f"{self._size} bytes that do not begin like a tar ({error}{hint}).")
            return

        position, last = 0, "the beginning"
        while True:
            try:
                info = archive.next()
            except _BAD_HEADER as error:
                self.damage = ("truncated", f"Unreadable header after {last}, near byte {position}: {error}.")
                return
            if info is None:
                self._check_end(archive.offset, last)
                return
            archive.members = []  # type: ignore[attr-defined]  # tarfile would keep them all
            name = info.name
            while name.startswith("./"):
                name = name[2:]
            # tarfile believes any size that a header states: it would seek far away, or backwards for ever.
            end, last = archive.offset, repr(printable(name))
            # Of a plain file only the padding may be missing.
            plain = info.isreg() and not info.issparse()
            data_end = info.offset_data + info.size if plain else end
            if info.size < 0 or end <= position or data_end > self._size:
                message = f"{last} should end at byte {data_end}, but the file has {self._size} bytes."
                self.damage = ("truncated", message)
                return
            position = end
            if info.isreg() and not is_hidden(name):
                key, suffix = split_tar_name(name)
                # Nobody stores images as sparse files on purpose, and the maps of such members can be forged.
                suffix = suffix + SPARSE if info.issparse() else suffix
                yield Member(name=name, key=key, suffix=suffix, offset=info.offset_data, size=info.size)

    def _check_end(self, offset: int, last: str) -> None:
        """tarfile takes all it cannot read for the end: look for the end marker, and for data behind it."""
        self._file.seek(offset)
        tail = self._file.read(_LARGEST_RECORD + 1)
        if len(tail) < _BLOCK:
            self.damage = ("truncated", f"The archive ends after {last} without its end marker.")
            return
        if tail[:_BLOCK].strip(b"\0"):
            self.damage = ("truncated", f"Unreadable header after {last}, at byte {offset} of {self._size}.")
            return
        self.saw_end = True
        if tail.strip(b"\0") or len(tail) > _LARGEST_RECORD:
            self.damage = (
                "truncated",
                f"{self._size - offset} bytes follow the end marker after {last}: several tars in one?",
            )
