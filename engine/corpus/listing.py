"""From a URL to the files behind it: patterns expanded, folders listed, all on one filesystem."""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from engine.corpus.links import LinkedFileSystem
from engine.remote import ask
from engine.storage import open_filesystem, redact

COMPRESSED_TAR = re.compile(r"\.(tgz|tbz2?|txz|tar\.(gz|bz2|xz|zst|lz4|br|z))$", re.IGNORECASE)
_WEB = re.compile(r"(?:^|::)https?://")
_NUMBER_RANGE = re.compile(r"\{(-?\d+)\.\.(-?\d+)")
_LARGEST_EXPANSION = 1_000_000
_CONCURRENT_REQUESTS = 16
_MANY = 300
"""So many names of one folder are looked for in its list, of which a request brings a thousand."""


class CorpusError(ValueError):
    """A corpus that cannot be used as given; the message says why and what to do."""


@dataclass(frozen=True, kw_only=True)
class Listing:
    """Files by absolute URL, with their sizes in bytes (0 if the store does not tell), all below `root`."""

    root: str
    sizes: dict[str, int]


def list_files(url: str, options: dict[str, Any]) -> Listing:
    """The files a URL stands for: one file, a folder's, or those of a pattern of braces and wildcards.

    Of a folder with tars directly in it only its own files are listed, of another one those at any depth.
    What exists under the very name given is not taken for a pattern.
    """
    filesystem, given = open_filesystem(url, **options)
    if isinstance(filesystem, LocalFileSystem):
        filesystem = LinkedFileSystem()
    literal = ask(filesystem, "exists", given)
    urls = [url] if literal else _expand_braces(url)
    paths = [open_filesystem(each, **options)[1] for each in urls]
    files: dict[str, dict[str, Any]] = {}
    if literal or not _has_wildcard(given):
        files = _find_files(filesystem, paths)
        root = paths[0] if len(paths) == 1 else _folder_of_pattern(given)
    else:
        for path in paths:
            found = ask(filesystem, "glob", path, detail=True)
            matched = {name: info for name, info in found.items() if _is_file(info)}
            # `corpus/*` means what lies in corpus; folders there are entered only when there are no files.
            plain = any(info["type"] == "file" for info in matched.values())
            files.update(matched if plain else _find_files(filesystem, list(found)))
        root = _folder_of_pattern(given)

    def to_url(path: str) -> str:
        if isinstance(filesystem, LocalFileSystem):
            return path
        # Keeps whatever stood before the path: host, user, a chained cache. The path alone has lost it.
        if urls[0].endswith(paths[0]):
            return urls[0][: len(urls[0]) - len(paths[0])] + path
        return _keep_account(urls[0], paths[0], path) or filesystem.unstrip_protocol(path)

    sizes = {to_url(path): int(info.get("size") or 0) for path, info in sorted(files.items())}
    return Listing(root=to_url(root), sizes=sizes)


def _keep_account(url: str, path: str, other: str) -> str | None:
    """Another path as a URL, where a URL tells more of its container than the path of it does.

    abfs://tars@ACCOUNT.dfs.core.windows.net/in has the path tars/in, and abfs://tars/in would be of no account.
    """
    scheme, _, rest = url.partition("://")
    host, _, within = rest.partition("/")
    container, _, below = path.partition("/")
    if not host.startswith(f"{container}@") or within.rstrip("/") != below:
        return None
    return f"{scheme}://{host}{other.removeprefix(container)}"


def file_name(url: str) -> str:
    """The last part of a URL; the query of a web address is no part of it."""
    return (url.partition("?")[0] if _WEB.search(url) else url).rpartition("/")[2]


def tar_name(url: str) -> str | None:
    """The file name if it is a tar's, else None."""
    name = file_name(url)
    return name if name.lower().endswith(".tar") and not name.startswith(".") else None


def _find_files(filesystem: fsspec.AbstractFileSystem, paths: list[str]) -> dict[str, dict[str, Any]]:
    listed = _list_crowded(filesystem, paths)
    with ThreadPoolExecutor(_CONCURRENT_REQUESTS) as pool:
        infos = list(pool.map(lambda path: listed.get(path) or _info(filesystem, path), paths))
    missing = [path for path, info in zip(paths, infos, strict=True) if info is None]
    if missing:
        more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        raise CorpusError(f"{redact(missing[0])!r}{more} does not exist; check the path or the pattern.")
    files: dict[str, dict[str, Any]] = {}
    for path, info in zip(paths, infos, strict=True):
        if info is not None and info["type"] != "directory":
            files[path] = info
            continue
        entries = ask(filesystem, "ls", path, detail=True)
        own = {entry["name"]: entry for entry in entries if _is_file(entry)}
        has_tars = any(tar_name(name) or COMPRESSED_TAR.search(name) for name in own)
        files.update(own if has_tars else ask(filesystem, "find", path, detail=True))
    return files


def _list_crowded(filesystem: fsspec.AbstractFileSystem, paths: list[str]) -> dict[str, dict[str, Any]]:
    """What a store lists in folders that many of the paths are in, as far as it says as much as of a single name."""
    listed: dict[str, dict[str, Any]] = {}
    if isinstance(filesystem, LocalFileSystem):
        return listed
    for folder, count in Counter(path.rpartition("/")[0] for path in paths).items():
        if count < _MANY or folder.startswith("http"):  # a web server's list is a page, if it has one
            continue
        with suppress(OSError, ValueError, NotImplementedError):  # some may read what they must not list
            entries = ask(filesystem, "ls", folder, detail=True)
            listed.update((e["name"].rstrip("/"), e) for e in entries if _is_file(e) and e.get("size") is not None)
    return listed


def _info(filesystem: fsspec.AbstractFileSystem, path: str) -> dict[str, Any] | None:
    try:
        return ask(filesystem, "info", path)
    except FileNotFoundError:
        return None


def _is_file(info: dict[str, Any]) -> bool:
    """Also a link that leads nowhere: it was meant to be one, and reading it tells what is missing."""
    return info["type"] == "file" or (info["type"] == "other" and info.get("islink", False))


def _expand_braces(url: str) -> list[str]:
    if "{" not in url:
        return [url]
    from braceexpand import braceexpand  # comes with webdataset; a corpus without braces does without it

    # braceexpand builds each range in full before it gives out the first name.
    ranges = [abs(int(last) - int(first)) + 1 for first, last in _NUMBER_RANGE.findall(url)]
    expanded = []
    if math.prod(ranges) <= _LARGEST_EXPANSION:
        expanded = list(itertools.islice(braceexpand(url), _LARGEST_EXPANSION + 1))
    if not 0 < len(expanded) <= _LARGEST_EXPANSION:
        message = f"{redact(url)!r} stands for more than {_LARGEST_EXPANSION} names; has it a digit too many?"
        raise CorpusError(message)
    return list(dict.fromkeys(expanded))


def _has_wildcard(path: str) -> bool:
    # In a web address a question mark begins the query.
    return bool(re.search(r"[*\[]" if path.startswith("http") else r"[*?\[]", path))


def _folder_of_pattern(path: str) -> str:
    folder = re.split(r"[*?\[{]", path, maxsplit=1)[0].rpartition("/")[0]
    return folder or path[: path.startswith("/")]
