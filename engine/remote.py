"""Object stores and web servers: what may pass is tried again, and files are read by ranges."""

from __future__ import annotations

import errno
import io
import logging
import random
import time
from typing import Any, BinaryIO

import fsspec
from fsspec.implementations.local import LocalFileSystem

logger = logging.getLogger(__name__)

WAITS = (1.0, 4.0, 15.0, 30.0)
"""Seconds (with jitter) to wait before a store is asked anew; its own library has tried for some seconds each time."""

LASTING_ERRORS = (FileNotFoundError, FileExistsError, PermissionError, IsADirectoryError, NotADirectoryError)
"""Errors that trying again does not heal."""
_LASTING_NUMBERS = {errno.EINVAL, errno.EPERM, errno.ENOSYS, errno.ENAMETOOLONG, errno.EMSGSIZE, errno.ENOSPC}
# Of botocore; by name, because it need not be installed.
_LASTING_NAMES = {"NoCredentialsError", "PartialCredentialsError", "ProfileNotFound", "ParamValidationError"}

# A lost connection costs no more than one piece.
_PIECE = 8 << 20
# Files up to this size, that of a lease, are held in memory; of larger ones, only pieces.
_WHOLE = 64 << 20
# By which stores tell one version of a file from the next.
_VERSIONS = ("ETag", "etag", "generation", "LastModified", "last_modified", "updated", "mtime", "created")

S3_OPTIONS = {
    "config_kwargs": {"retries": {"mode": "standard", "max_attempts": 4}, "max_pool_connections": 64},
    # Else small files cost a second request for their size, and a connection that is lost midway is an error.
    "max_concurrency": 1,
}
"""How `s3fs` is to be used: backing off on 503 and 5xx, too, not on its own selection of errors only."""


def ask(filesystem: fsspec.AbstractFileSystem, operation: str, *arguments: Any, **options: Any) -> Any:
    """Calls a method of a filesystem. If that is not the local one, trouble that may pass is waited out.

    Raises:
        OSError: it did not pass, or cannot; whatever the store's own library raises.
        ValueError: what was asked for makes no sense.
    """
    call = getattr(filesystem, operation)
    if isinstance(filesystem, LocalFileSystem):
        return call(*arguments, **options)
    for wait in (*WAITS, None):
        try:
            return call(*arguments, **options)
        except (*LASTING_ERRORS, ValueError, TypeError, NotImplementedError):
            raise
        except Exception as error:
            if wait is None or _lasts(error):
                raise _as_os_error(error) from error
            wait *= random.uniform(0.5, 1)  # nosec B311
            name = f"{type(error).__name__}: {error}"
            logger.warning("%s of %s: %s; trying again in %.0f s", operation, _first(arguments), name, wait)
            time.sleep(wait)
    raise AssertionError


def _lasts(error: Exception) -> bool:
    return type(error).__name__ in _LASTING_NAMES or (isinstance(error, OSError) and error.errno in _LASTING_NUMBERS)


def _as_os_error(error: Exception) -> OSError:
    if isinstance(error, OSError):
        return error
    hint = ""
    if "Credentials" in type(error).__name__:
        hint = "; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE (FSSPEC_S3_ANON=true for public data)"
    return OSError(f"{type(error).__name__}: {str(error).rstrip('.')}{hint}")


def _first(arguments: tuple[Any, ...]) -> str:
    first = arguments[0] if arguments else ""
    return f"{len(first)} files" if isinstance(first, list) else str(first)


class RemoteFile(io.RawIOBase):
    """A file of a store as a seekable one; every read is a request for just these bytes."""

    def __init__(self, filesystem: fsspec.AbstractFileSystem, path: str, facts: dict[str, Any]) -> None:
        super().__init__()
        self._filesystem, self._path, self._size = filesystem, path, int(facts["size"])
        self._position = 0
        marks = [f"{name}={facts[name]}" for name in _VERSIONS if facts.get(name)]
        self.version = " ".join([path, str(self._size), *marks]) if marks else None

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        if start + offset < 0:
            raise ValueError(f"cannot seek to {start + offset}")
        self._position = start + offset
        return self._position

    def readinto(self, buffer: Any) -> int:
        start, stop = self._position, min(self._position + len(buffer), self._size)
        if stop <= start:
            return 0
        data = ask(self._filesystem, "cat_file", self._path, start=start, end=stop)
        if len(data) > stop - start:  # a server that does not know ranges sends all
            data = data[start:stop]
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)


def open_remote(filesystem: fsspec.AbstractFileSystem, path: str) -> BinaryIO:
    """A file of a store, open for reading; nothing goes to the local disk."""
    facts = ask(filesystem, "info", path)
    if facts.get("size") is None:
        return io.BytesIO(ask(filesystem, "cat_file", path))
    file = io.BufferedReader(RemoteFile(filesystem, path, facts), _PIECE)
    if facts["size"] > _WHOLE:
        return file
    with file:
        return io.BytesIO(b"".join(iter(lambda: file.read(_PIECE), b"")))


def find_version(file: BinaryIO) -> str | None:
    """What tells an open file from all others and from itself once it has changed; None for one that is not read by
    ranges, or of a store that does not say."""
    raw = getattr(file, "raw", None)
    return raw.version if isinstance(raw, RemoteFile) else None
