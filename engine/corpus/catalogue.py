"""From a URL to the shards behind it: tars, or virtual shards over a folder of images."""

from __future__ import annotations

import itertools
import logging
from collections import Counter
from dataclasses import dataclass
from typing import Any

from engine.corpus.listing import COMPRESSED_TAR, CorpusError, Listing, list_files, tar_name
from engine.corpus.members import assign_folder_keys, is_hidden, printable, unsafe_name
from engine.storage import redact

__all__ = ["CorpusError", "Shard", "list_shards"]

logger = logging.getLogger(__name__)

SAMPLES_PER_FOLDER_SHARD = 256
UNREAD_PICTURES = (".heic", ".heif", ".avif", ".tif", ".tiff", ".gif", ".bmp", ".jp2", ".dng", ".cr2", ".nef")
"""What people take for images and is none of the formats that are read."""
LONGEST_NAME = 200
"""Bytes of a shard's name; with a part's number, an ending and a temporary mark it makes the 255 of file systems."""


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One tar (`kind` ``tar``), or a fixed number of images of a folder (``folder``).

    `url` is absolute: of the tar, or of the folder that `members` (images and what belongs to them) lie in.
    `name` is unique in the corpus. `size` is in bytes, 0 if the store does not tell.
    """

    url: str
    name: str
    size: int
    kind: str
    members: tuple[str, ...] = ()

    @property
    def stem(self) -> str:
        """The name without ``.tar``, as files about this shard are named."""
        return self.name[:-4] if self.name.lower().endswith(".tar") else self.name


def list_shards(url: str, *, storage_options: dict[str, Any] | None = None) -> list[Shard]:
    """The shards behind a folder of tars or images, a pattern (``*``, ``{00..99}``), or one tar.

    A folder (or pattern) with tars in it is a corpus of tars; any other is searched for images at any depth.

    Returns:
        shards sorted by URL, with unique names.

    Raises:
        CorpusError: nothing usable there, or not readable, or compressed tars, or two shards of one name.
    """
    if not url.strip():
        raise CorpusError("The input is empty; give a folder, a tar, a pattern or a URL.")
    try:
        listing = list_files(url.rstrip("/") or "/", storage_options or {})
    except CorpusError:
        raise
    except ValueError as error:
        raise CorpusError(str(error)) from error
    except Exception as error:
        # Whatever a store's own library raises: refused credentials, no route, no such bucket, …
        message = f"Cannot read the input {redact(url)!r}: {type(error).__name__}: {redact(str(error))}"
        raise CorpusError(message) from error

    compressed = [file for file in listing.sizes if COMPRESSED_TAR.search(file)]
    if compressed:
        raise CorpusError(
            f"{redact(compressed[0])!r} is compressed, so its samples cannot be reached one by one; "
            f"unpack it to a plain .tar."
        )
    shards = _tar_shards(listing) or _folder_shards(listing)
    if not shards:
        raise CorpusError(
            f"No .tar and no .jpg, .jpeg, .png or .webp found at {redact(url)!r}; check the path or pattern."
        )
    return shards


def _tar_shards(listing: Listing) -> list[Shard]:
    shards = [
        Shard(url=url, name=name, size=size, kind="tar")
        for url, size in listing.sizes.items()
        if (name := tar_name(url)) is not None
    ]
    if shards and len(shards) < len(listing.sizes):
        others = len(listing.sizes) - len(shards)
        logger.warning("%s: %d files are not .tar and are ignored", redact(listing.root), others)
    by_stem: dict[str, Shard] = {}
    for shard in shards:
        # What files about the shard are called is part of URLs.
        unsafe = unsafe_name(shard.name) or ("it has '::' in it, like a chain of URLs" if "::" in shard.name else None)
        if unsafe:
            raise CorpusError(f"The shard name {printable(shard.name)!r} is refused: {unsafe}; rename it.")
        if len(shard.stem.encode()) > LONGEST_NAME:
            raise CorpusError(
                f"The shard name {printable(shard.name)[:40]!r}… has more than {LONGEST_NAME} bytes, and its labels "
                "would have a longer one, which no file system takes; rename it."
            )
        other = by_stem.setdefault(shard.stem, shard)
        if other is not shard:
            raise CorpusError(
                f"Two shards are named {shard.name!r}: {redact(other.url)} and {redact(shard.url)}; labels "
                f"are filed by the name of the shard, so rename one or label the folders in separate runs."
            )
    return shards


def _folder_shards(listing: Listing) -> list[Shard]:
    if listing.root in listing.sizes:
        raise CorpusError(f"{redact(listing.root)!r} is a single file but not a .tar; give its folder.")
    start = len(listing.root.rstrip("/")) + 1
    sizes = {url[start:]: size for url, size in listing.sizes.items()}
    members = assign_folder_keys(sizes)
    unread = (name for name in sizes if name.lower().endswith(UNREAD_PICTURES) and not is_hidden(name))
    if others := Counter(name.rpartition(".")[2].lower() for name in unread):
        counted = ", ".join(f"{count} .{suffix}" for suffix, count in sorted(others.items()))
        logger.warning("%s: pictures that are not read (%s); convert them to JPEG", redact(listing.root), counted)
    groups = iter([list(group) for _, group in itertools.groupby(members, key=lambda member: member.key)])
    shards: list[Shard] = []
    while chunk := list(itertools.islice(groups, SAMPLES_PER_FOLDER_SHARD)):
        together = [member for group in chunk for member in group]
        shards.append(
            Shard(
                url=listing.root,
                name=f"folder-{len(shards):06d}",
                size=sum(member.size for member in together),
                kind="folder",
                members=tuple(member.name for member in together),
            )
        )
    return shards
