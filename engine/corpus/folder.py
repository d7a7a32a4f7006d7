"""Folders of images as a corpus: a convenience for small ones, in virtual shards."""

from __future__ import annotations

import errno
from typing import Any

from engine.corpus.catalogue import Shard
from engine.corpus.indexes import IndexFolder
from engine.corpus.members import Index, Member, assign_folder_keys, group_members
from engine.remote import ask
from engine.storage import join, open_filesystem

_NO_FILE = (errno.ELOOP, errno.ENXIO)
"""What reading a ring of links, or a socket, ends in: neither has a file behind it, now or later."""


class FolderSource:
    """A virtual shard: `index` says what it holds, `read` gives the bytes of a member."""

    def __init__(
        self, shard: Shard, storage_options: dict[str, Any] | None = None, indexes: IndexFolder | None = None
    ) -> None:
        self._filesystem, self._root = open_filesystem(shard.url, **(storage_options or {}))
        # Sizes matter to planning only; a file is read whole, whatever its size is by now.
        members = assign_folder_keys(dict.fromkeys(shard.members, 0))
        self.index = Index(items=group_members(shard.name, members)[0])

    def read(self, member: Member) -> bytes:
        try:
            return ask(self._filesystem, "cat_file", join(self._root, member.name))
        except OSError as error:
            if error.errno not in _NO_FILE:
                raise
            raise FileNotFoundError(error.errno, error.strerror, error.filename) from error

    def close(self) -> None:
        """Nothing is held open."""
