"""The folder that an export fills: there as a whole, or not at all."""

from __future__ import annotations

import contextlib
import os
import shutil
import uuid
from collections.abc import Iterator
from typing import IO, Any

from engine import storage

DONE = "export.json"
"""Written last: on an object store, which has no renaming of folders, it says that all is there."""


class Folder:
    """Somewhere to write files.

    A local folder is filled under a hidden name beside its own, which it gets in the end. On an object store files are
    put where they belong, and removed again if not all can be.

    Raises:
        ValueError: there is something already.
    """

    def __init__(self, url: str) -> None:
        self.url = storage.absolute(url)
        if storage.is_local(self.url):
            self.url = os.path.realpath(self.url)  # a link stays one
        self._filesystem, self._path = storage.open_filesystem(self.url)
        self._local = storage.is_local(self.url)
        if self._filesystem.exists(self._path) and (not self._local or not _is_empty(self._path)):
            raise ValueError(f"there is something at {storage.redact(self.url)} already; name another --output")
        self._made: set[str] = set()
        self._stack = contextlib.ExitStack()
        self._place = self._path
        if self._local:
            parent, name = os.path.split(self._path)
            self._place = os.path.join(parent, f".{name}.{uuid.uuid4().hex[:12]}.tmp")
            os.makedirs(self._place)

    def write(self, name: str, data: bytes) -> None:
        """One file, given as a whole."""
        if self._local:
            with self.open(name) as file:
                file.write(data)
        else:
            storage.atomic_put(data, storage.join(self.url, name))

    @contextlib.contextmanager
    def open(self, name: str) -> Iterator[IO[bytes]]:
        """One file, written bit by bit."""
        path = f"{self._place}/{name}"
        parent = os.path.dirname(path)
        if parent not in self._made:
            self._filesystem.makedirs(parent, exist_ok=True)
            self._made.add(parent)
        file: Any = open(path, "wb") if self._local else self._filesystem.open(path, "wb")  # noqa: SIM115
        with file:
            yield file

    def stack(self) -> contextlib.ExitStack:
        """For what a writer holds open beyond a call: closed before anything is removed."""
        return self._stack.enter_context(contextlib.ExitStack())

    def commit(self) -> None:
        """Makes the folder visible."""
        if not self._local:
            return
        try:
            os.replace(self._place, self._path)
        except OSError:
            if not _is_empty(self._path):
                raise
            # A folder that cannot be replaced, such as a mount point, is filled; the file that says so comes last.
            for name in sorted(os.listdir(self._place), key=lambda name: name == DONE):
                shutil.move(os.path.join(self._place, name), os.path.join(self._path, name))
            os.rmdir(self._place)

    def discard(self) -> None:
        """Removes what was written."""
        # Else a file might appear on an object store when somebody closes it in the end.
        with contextlib.suppress(Exception):
            self._stack.close()
        if self._local:
            shutil.rmtree(self._place, ignore_errors=True)
        else:
            storage.remove_folder(self.url)


def _is_empty(path: str) -> bool:
    return os.path.isdir(path) and not os.listdir(path)
