"""Indexes of large tars in object stores, kept where all that work on a run find them: making one reads all of the tar.

.indexes/SHARD.json.gz     names, places and sizes of the members, and of which version of the tar they are
.indexes/SHARD.begun       somebody is making it
"""

from __future__ import annotations

import gzip
import hashlib
import json
import logging
import time
import uuid
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

from engine import storage
from engine.corpus.members import Member, split_tar_name

logger = logging.getLogger(__name__)

INDEX_VERSION = 1
SPARSE = " (sparse)"
"""What the suffix of a sparse member has at its end, so that nobody takes it for an image."""
SLOWEST = 20 << 20
"""Bytes a second that whoever makes an index is waited for as if it read them; who is slower is overtaken, or dead."""
PATIENCE = 10.0
"""Seconds that it is waited for besides."""
LOOK_EVERY = 1.0
_BEGUN = ".begun"
_NO_INDEX = (OSError, EOFError, zlib.error, ValueError, KeyError, TypeError, AttributeError, RecursionError)


@dataclass(frozen=True, kw_only=True)
class Headers:
    """What the headers of a tar say.

    Attributes:
        members: its regular files, in order.
        damage: (reason, message) of what is wrong with it.
        ended: whether the end marker was there, so that no member can be missing in front of it.
    """

    members: list[Member]
    damage: tuple[str, str] | None = None
    ended: bool = True


@dataclass(frozen=True, kw_only=True)
class IndexFolder:
    """A folder of indexes, one of each large tar. One that is damaged, or of another version of the tar, is none; where
    none can be kept everybody reads the tar.

    Attributes:
        url: of the folder.
        keeps: write what is not there; else this only reads.
    """

    url: str
    keeps: bool = True

    def share(self, stem: str, version: str, size: int, make: Callable[[], Headers]) -> Headers:
        """The headers of a tar as somebody has found them, or as `make` finds them now.

        Args:
            stem: of the shard's name.
            version: what tells the tar from all others, and from itself once it has changed.
            size: of the tar, bytes.
            make: reads the tar.
        """
        headers = self.find(stem, version)
        if headers is None and self.keeps:
            headers = self._await(stem, version, size)
        if headers is not None:
            return headers
        if not self.keeps:
            return make()
        try:
            headers = make()
        finally:
            self._end(stem, version, headers)
        return headers

    def find(self, stem: str, version: str) -> Headers | None:
        """The headers of a tar, None if they are not known of this version."""
        try:
            return headers_from_json(storage.read_bytes(self._index_url(stem)), version)
        except FileNotFoundError:
            return None
        except _NO_INDEX as error:
            logger.info("the index of %s is not used: %s: %s", stem, type(error).__name__, error)
            return None

    def _await(self, stem: str, version: str, size: int) -> Headers | None:
        """The headers as somebody finds them who has begun to; None if nobody has, or takes too long."""
        url, token, begun = self._begun_url(stem), uuid.uuid4().hex, time.time()
        own = json.dumps({"token": token, "version": _hash(version), "time": begun}).encode()
        try:
            storage.create(own, url)
            other = _read_begun(url)
            left = PATIENCE + size / SLOWEST - max(0.0, begun - other["time"])
            if other["token"] == token:
                headers = self.find(stem, version)  # whoever had begun may have ended since this one looked
                if headers:
                    storage.remove(url)
                return headers
            if other["version"] != _hash(version) or left <= 0:
                storage.atomic_put(own, url)  # that one has died, or read what is no longer there
                return None
        except _NO_INDEX as error:
            logger.info("nobody is waited for with the index of %s: %s: %s", stem, type(error).__name__, error)
            return None
        logger.warning("another worker reads the headers of %s; its index is waited for, %.0f s at most", stem, left)
        until = time.monotonic() + left
        while time.monotonic() < until:
            time.sleep(LOOK_EVERY)
            ended = not storage.exists(url)
            headers = self.find(stem, version)
            if ended or headers:
                return headers
        return None

    def _end(self, stem: str, version: str, headers: Headers | None) -> None:
        """Keeps the headers. What seems damaged may be the way to the store: it is looked at anew by everybody."""
        try:
            if headers and not headers.damage:
                storage.atomic_put(headers_to_json(headers, version), self._index_url(stem))
            storage.remove(self._begun_url(stem))
        except OSError as error:
            logger.warning("the index of %s is not kept, every worker reads it from the tar: %s", stem, error)

    def sweep(self) -> None:
        """Removes what those have left who were killed while they made an index: nobody is to wait for them."""
        for name in storage.list_names(self.url):
            if name.endswith(_BEGUN):
                storage.remove(storage.join(self.url, name))

    def _index_url(self, stem: str) -> str:
        return storage.join(self.url, f"{stem}.json.gz")

    def _begun_url(self, stem: str) -> str:
        return storage.join(self.url, stem + _BEGUN)


def _read_begun(url: str) -> dict[str, Any]:
    try:
        return json.loads(storage.read_bytes(url))
    except ValueError:  # it may be there, and not written yet
        time.sleep(LOOK_EVERY)
        return json.loads(storage.read_bytes(url))


def headers_to_json(headers: Headers, version: str) -> bytes:
    """Headers of a tar without damage as gzipped JSON; `headers_from_json` gives equal ones back."""
    assert headers.damage is None and headers.ended, "else who reads it would know nothing of it"
    members = headers.members
    offsets = [member.offset for member in members]
    values = {
        "index_version": INDEX_VERSION,
        "version": _hash(version),
        "names": [member.name for member in members],
        # What lies between one and the next is small and often the same, and takes less room than where they are.
        "steps": [next_ - before for before, next_ in pairwise([0, *offsets])],
        "sizes": [member.size for member in members],
        "sparse": [place for place, member in enumerate(members) if member.suffix != split_tar_name(member.name)[1]],
    }
    return gzip.compress(json.dumps(values, separators=(",", ":")).encode(), mtime=0)


def headers_from_json(data: bytes, version: str) -> Headers:
    """The headers of that version of a tar.

    Raises:
        OSError, EOFError, zlib.error, ValueError, KeyError, TypeError, AttributeError, RecursionError: they are not.
    """
    values = json.loads(gzip.decompress(data))
    if values["index_version"] != INDEX_VERSION or values["version"] != _hash(version):
        raise ValueError("it is of another version of the tar")
    sparse = set(values["sparse"])
    members = []
    places = zip(values["names"], accumulate(values["steps"]), values["sizes"], strict=True)
    for place, (name, offset, size) in enumerate(places):
        if not {type(offset), type(size)} <= {int} or min(offset, size) < 0:
            raise ValueError(f"{name!r} has {size!r} bytes from {offset!r} on")
        key, suffix = split_tar_name(name)
        suffix += SPARSE if place in sparse else ""
        members.append(Member(name=name, key=key, suffix=suffix, offset=offset, size=size))
    return Headers(members=members)


def _hash(version: str) -> str:
    # A version has the tar's URL in it, which may hold a signature that is nobody's business.
    return hashlib.sha256(version.encode(errors="surrogatepass")).hexdigest()
