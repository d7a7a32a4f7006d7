"""Batches that fit the memory: what runs out of it is tried again in halves, and the size is remembered."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from engine.memory import free_memory, is_out_of_memory

logger = logging.getLogger(__name__)


class Fitting:
    """Calls `work` with as many items at a time as the memory holds, as a worker finds out while it goes on.

    Args:
        work: takes lists of one length and gives a list of that length. If it has a `batch_size` of its own, for what
            it does with one item, that is halved as well.
    """

    def __init__(self, work: Any) -> None:
        self._work = work
        self.most: int | None = None

    @property
    def stopwatch(self) -> Any:
        """That of `work`, if it has one."""
        return getattr(self._work, "stopwatch", None)

    def __call__(self, *columns: Sequence[Any]) -> list[Any]:
        """What `work` gives for all items; they must not depend on which of them come together.

        Raises:
            whatever `work` does; running out of memory only if that happens with one item alone.
        """
        made: list[Any] = []
        while len(made) < len(columns[0]):
            start, stop = len(made), len(made) + (self.most or len(columns[0]))
            made += self._make([column[start:stop] for column in columns])
        return made

    def _make(self, part: list[Sequence[Any]]) -> list[Any]:
        """The first items of the part, as many as fit."""
        before = self.most, self._inner
        while True:
            try:
                return self._work(*part)
            except Exception as error:
                if not is_out_of_memory(error) or not self._shrink(len(part[0])):
                    # One that is too large by itself says nothing about others.
                    self.most, self._inner = before
                    raise
                logger.warning("%s; going on with %s at a time", str(error).partition("\n")[0], self.most)
            # Only here, with the error gone, is nothing held by the frames it came through.
            free_memory()
            part = [column[: self.most] for column in part]

    def _shrink(self, size: int) -> bool:
        inner = self._inner
        self.most, self._inner = max(1, size // 2), max(1, inner // 2)
        return size > 1 or inner > 1

    @property
    def _inner(self) -> int:
        return getattr(self._work, "batch_size", 1)

    @_inner.setter
    def _inner(self, size: int) -> None:
        if hasattr(self._work, "batch_size"):
            self._work.batch_size = size
