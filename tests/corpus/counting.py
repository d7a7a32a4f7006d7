"""A store that keeps account of what is fetched from it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast
from unittest import mock

from fsspec.implementations.memory import MemoryFileSystem

cat_file = MemoryFileSystem.cat_file


@contextmanager
def count_fetched(*, ending: str = ".tar") -> Iterator[list[int]]:
    """The bytes of each request for files of memory:// whose names end so."""
    fetched: list[int] = []

    def count(self: MemoryFileSystem, path: str, *arguments: Any, **options: Any) -> bytes:
        data = cast(bytes, cat_file(self, path, *arguments, **options))
        if path.endswith(ending):
            fetched.append(len(data))
        return data

    with mock.patch.object(MemoryFileSystem, "cat_file", count):
        yield fetched
