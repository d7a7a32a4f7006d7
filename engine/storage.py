"""Files of a run on any fsspec filesystem: whole files only, visible all at once or not at all.

A local file is written under a hidden temporary name in its own folder, flushed to the disk and renamed. On an object
store a single put is atomic already, and a rename would be a copy; it may be repeated when its answer is lost.
"""

from __future__ import annotations

import contextlib
import errno
import glob
import os
import re
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import fsspec
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from engine.remote import S3_OPTIONS, ask, open_remote

# What runs commands or code must never come in through a URL. `reference` is fsspec's: it renders templates that its
# file holds. Each link of a chain (simplecache::s3://…) has a scheme of its own.
_REFUSED = {"pipe", "exec", "shell", "cmd", "command", "popen", "python", "reference"}
_SCHEME = re.compile(r"(?:^|::)\s*([a-z][a-z0-9+.-]*)(?=://|::|:\S)|::\s*([a-z][a-z0-9+.-]*)$", re.IGNORECASE)

_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}
_APART = re.compile(r"([\s'\"<>]+)")
# What stands before a host. A key may hold slashes that nobody escaped, as AWS's do; behind a host and its port stands
# a path, in which an @ means nothing.
_USER = re.compile(r"(?![^/:@]*:\d+/)(?:[^/:@]*:[^@]*|[^/:@]+)@(?=.)")
_CONTAINER = re.compile(r"[^/:@]+@")
_WITH_CONTAINER = re.compile(r"\b(abfss?|wasbs?)$", re.IGNORECASE)  # Azure's, where a container stands there


class StorageError(ValueError):
    """A location that cannot be used as given; the message says why and what to do."""


class NoRoom(OSError):
    """The disk is full, or may not be written to: whatever else is tried to write there will fail as well."""


def open_filesystem(url: str, **options: Any) -> tuple[fsspec.AbstractFileSystem, str]:
    """The filesystem of a URL and the path in it.

    Raises:
        StorageError: unknown or refused scheme, or a filesystem whose package is not installed.
    """
    if any((scheme or last).lower() in _REFUSED for scheme, last in _SCHEME.findall(url)):
        raise StorageError(
            f"{redact(url)!r} would run a command; give a folder or a URL like s3://bucket/folder instead"
        )
    if url.lower().startswith(("s3://", "s3a://")):
        options = {**S3_OPTIONS, **options}
    try:
        return url_to_fs(url, **options)
    except ImportError as error:
        hint = "; pip install -e '.[s3]' where the project lies" if "s3fs" in str(error) else ""
        message = f"{redact(url)!r} needs a package that is not installed: {redact(str(error))}{hint}"
        raise StorageError(message) from error
    except ValueError as error:
        raise StorageError(
            f"{redact(url)!r} cannot be opened: {redact(str(error))}; give a folder or a URL fsspec knows"
        ) from error


def is_local(url: str) -> bool:
    """Whether the URL names a place on this machine's own file tree."""
    return isinstance(open_filesystem(url)[0], LocalFileSystem)


def absolute(url: str) -> str:
    """The URL as every process understands it: local paths made absolute (``~`` too), others unchanged.

    Raises:
        StorageError: it is empty, which would be the working directory, or as `open_filesystem`.
    """
    if not url.strip():
        raise StorageError("a path that was given is empty; give a folder, a file or a URL, or leave the option out")
    filesystem, path = open_filesystem(os.path.expanduser(url))
    if isinstance(filesystem, LocalFileSystem):
        return os.path.abspath(path)
    return url.rstrip("/")


def local_path(url: str, option: str) -> Path:
    """The local folder that an option names, as given but for ``~`` and ``file://``; StorageError for others."""
    # Looked at before anything is opened, which might ask for a package that would not help.
    elsewhere = "://" in url and not url.lower().startswith(("file://", "local://"))
    if elsewhere or not is_local(place := absolute(url)):
        raise StorageError(f"{option} must be a local folder, not {redact(url)}; give one, and copy it from there")
    return Path(place if "://" in url else os.path.expanduser(url))


def redact(text: str) -> str:
    """A URL, or a text with URLs in it, without user names, passwords, and queries: fit for logs, receipts, `run.json`.

    A query of an object store's URL needs a ``=`` to be taken for one, as ``?`` is a wildcard, too.
    """
    return "".join(_redact_url(word) if "://" in word else word for word in _APART.split(text))


def _redact_url(word: str) -> str:
    word, mark, query = word.partition("?")
    if mark:
        word += "?***" if "=" in query or "http" in word else f"?{query}"
    links = word.split("://")
    for i in range(1, len(links)):
        if not (_WITH_CONTAINER.search(links[i - 1][-8:]) and _CONTAINER.match(links[i])) and _USER.match(links[i]):
            links[i] = _USER.sub("***@", links[i], count=1)
    return "://".join(links)


def join(url: str, *parts: str) -> str:
    """The URL of something below a folder URL."""
    return "/".join([url.rstrip("/"), *(part.strip("/") for part in parts)])


def temporary_url(url: str, token: str) -> str:
    """The hidden name under which `atomic_put` prepares a local file, known beforehand for cleaning up."""
    folder, _, name = url.rpartition("/")
    return f"{folder}/.{name}.{token}.tmp"


def atomic_put(data: bytes, url: str, *, token: str | None = None) -> None:
    """Makes ``data`` the content of the file at ``url``: all of it or none, even if killed midway.

    Args:
        token: makes the temporary name predictable (see `temporary_url`); random when not given.
    """
    filesystem, path = open_filesystem(url)
    if not isinstance(filesystem, LocalFileSystem):
        ask(filesystem, "pipe_file", path, data)
        return
    if is_special(path):
        Path(path).write_bytes(data)
        return
    folder = os.path.dirname(path)
    temporary = temporary_url(path, token or uuid.uuid4().hex)
    for attempt in range(3):
        try:
            with _room(path):
                os.makedirs(folder, exist_ok=True)
                _write_and_rename(data, temporary, path)
        except FileNotFoundError:
            # Another worker that took over the same lease has swept our temporary file away: write it again.
            if attempt == 2:
                raise
        else:
            return


def is_special(path: str) -> bool:
    """Whether there is a device or a pipe, which is written into and never replaced."""
    return os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path)


@contextlib.contextmanager
def _room(path: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        raise NoRoom(f"cannot write {path}: {error.strerror}; make room there, or have it made writable") from error


def _write_and_rename(data: bytes, temporary: str, path: str) -> None:
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.remove(temporary)
        raise
    # The rename itself survives a power cut only once the folder is flushed; not every filesystem lets us.
    with contextlib.suppress(OSError):
        descriptor = os.open(os.path.dirname(path), os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def open_binary(url: str, **options: Any) -> BinaryIO:
    """A file, open for reading and seeking; of one in a store, ranges are fetched as they are read."""
    filesystem, path = open_filesystem(url, **options)
    return filesystem.open(path, "rb") if isinstance(filesystem, LocalFileSystem) else open_remote(filesystem, path)


def read_bytes(url: str) -> bytes:
    """The whole file; FileNotFoundError if there is none."""
    filesystem, path = open_filesystem(url)
    return ask(filesystem, "cat_file", path)


def create(data: bytes, url: str) -> None:
    """Makes a small file unless there is one, as far as the filesystem can tell; look afterwards whose it is."""
    filesystem, path = open_filesystem(url)
    if isinstance(filesystem, LocalFileSystem):
        # fsspec looks first and writes then: of two that look at once, both would write.
        with contextlib.suppress(FileExistsError), _room(path):
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "xb") as file:
                file.write(data)
        return
    try:
        ask(filesystem, "pipe_file", path, data, mode="create")
    except FileExistsError:
        return
    except (TypeError, ValueError, OSError) as error:
        # Not every store knows such a request; the file may also be there, which some tell in words of their own.
        if isinstance(error, OSError) and error.errno not in (errno.EINVAL, errno.ENOSYS):
            raise
        if not exists(url):
            ask(filesystem, "pipe_file", path, data)


def read_many(folder: str, names: list[str], *, at_once: int = 1000) -> Iterator[tuple[str, bytes]]:
    """Name and content of many small files of a folder; object stores are asked for many at a time."""
    filesystem, path = open_filesystem(folder)
    for start in range(0, len(names), at_once):
        paths = [f"{path.rstrip('/')}/{name}" for name in names[start : start + at_once]]
        # Whole files as ranges: fsspec's `cat` takes names for patterns.
        contents = ask(filesystem, "cat_ranges", paths, None, None, on_error="return")
        for found, data in zip(paths, contents, strict=True):
            if isinstance(data, FileNotFoundError):
                continue  # it was there when the folder was listed: somebody is at work
            if isinstance(data, Exception):
                data = ask(filesystem, "cat_file", found)
            yield found.rpartition("/")[2], data


def exists(url: str) -> bool:
    """Whether there is a file (or folder) at the URL, asked anew and not from a listing cache."""
    filesystem, path = open_filesystem(url)
    filesystem.invalidate_cache()
    try:
        ask(filesystem, "info", path)
    except FileNotFoundError:
        return False
    return True


def list_names(url: str) -> list[str]:
    """Sorted names of the files directly in a folder, hidden ones too; empty if the folder does not exist."""
    return _list(url, "file")


def list_folders(url: str) -> list[str]:
    """Sorted names of the folders directly in a folder; empty if it does not exist."""
    return _list(url, "directory")


def _list(url: str, kind: str) -> list[str]:
    filesystem, path = open_filesystem(url)
    if isinstance(filesystem, LocalFileSystem):
        try:
            with os.scandir(path) as entries:
                kinds = {entry.name: "file" if entry.is_file() else "directory" for entry in entries}
        except FileNotFoundError:
            return []
        return sorted(name for name in kinds if kinds[name] == kind)
    filesystem.invalidate_cache()
    try:
        entries = ask(filesystem, "ls", path, detail=True)
    except FileNotFoundError:
        return []
    return sorted(entry["name"].rstrip("/").rpartition("/")[2] for entry in entries if entry["type"] == kind)


def touch(url: str) -> None:
    """Makes an empty file (which cannot be half-written), and its folder if need be."""
    filesystem, path = open_filesystem(url)
    with _room(path):
        if isinstance(filesystem, LocalFileSystem):
            os.makedirs(os.path.dirname(path), exist_ok=True)
        ask(filesystem, "pipe_file", path, b"")


def remove_folder(url: str) -> None:
    """Removes a folder and what is in it; no error if it is not there."""
    filesystem, path = open_filesystem(url)
    pattern = path if isinstance(filesystem, LocalFileSystem) else glob.escape(path)  # as which all others take it
    with contextlib.suppress(FileNotFoundError):
        ask(filesystem, "rm", pattern, recursive=True)


def remove(url: str) -> None:
    """Removes a file; no error if it is not there."""
    filesystem, path = open_filesystem(url)
    with contextlib.suppress(FileNotFoundError):
        ask(filesystem, "rm_file", path)
