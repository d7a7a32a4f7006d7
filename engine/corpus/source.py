"""Opening a shard, whatever its kind. What cannot be opened for good becomes a source with one defect."""

from __future__ import annotations

from typing import Any

from engine.corpus.catalogue import Shard
from engine.corpus.folder import FolderSource
from engine.corpus.indexes import IndexFolder
from engine.corpus.members import Index, Member
from engine.corpus.sample import Defect
from engine.corpus.tar import TarSource
from engine.remote import LASTING_ERRORS


class UnreadableSource:
    """Stands for a shard that is gone or forbidden; `error` says so."""

    def __init__(self, shard: Shard, error: OSError) -> None:
        self.error = error
        message = f"The shard cannot be opened: {type(error).__name__}: {error}."
        defect = Defect(shard=shard.name, key="", stage="read", reason="unreadable", message=message)
        self.index = Index(items=[], shard_defects=[defect])

    def read(self, member: Member) -> bytes:
        raise AssertionError("nothing is indexed here")

    def close(self) -> None:
        """Nothing is held open."""


Source = TarSource | FolderSource | UnreadableSource
KINDS: dict[str, type[TarSource] | type[FolderSource]] = {"tar": TarSource, "folder": FolderSource}


def open_source(
    shard: Shard, storage_options: dict[str, Any] | None = None, indexes: IndexFolder | None = None
) -> Source:
    """Opens and indexes a shard; OSErrors that may heal, such as a lost connection, are raised.

    Args:
        indexes: where those of large tars in object stores are kept.
    """
    try:
        return KINDS[shard.kind](shard, storage_options, indexes)
    except LASTING_ERRORS as error:
        return UnreadableSource(shard, error)
