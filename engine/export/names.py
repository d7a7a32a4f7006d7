"""What the files of an export are named after: shard and key, as any file system takes them."""

from __future__ import annotations

import hashlib
import re

LONGEST = 120
"""Of a part of a name; file systems take 255 bytes, and an ending comes yet."""
_TAKEN = re.compile(r"images|labels|con|prn|aux|nul|(com|lpt)[0-9]", re.IGNORECASE)
"""YOLO finds a label's file by replacing one of the first two with the other; the rest are devices of Windows."""


class Names:
    """Names of an export's images, given shard by shard; no two are alike, also where case does not count."""

    def __init__(self) -> None:
        self._folders: dict[str, str] = {}
        self._shards: set[str] = set()
        self._keys: set[str] = set()

    def name(self, shard: str, key: str) -> str:
        """SHARD/KEY, as `safe_name` writes both; where that has been given, but for case, it ends with a hash."""
        if shard not in self._folders:
            self._folders[shard] = _unlike(shard.removesuffix(".tar"), self._shards)
            self._keys = set()
        return f"{self._folders[shard]}/{_unlike(key, self._keys)}"


def _unlike(text: str, given: set[str]) -> str:
    name = safe_name(text)
    if name.lower() in given:
        name = _shorten(name, text)
    given.add(name.lower())
    return name


def safe_name(text: str) -> str:
    """The text with all but letters, digits, ``-`` and ``_`` written as ``~`` and hexadecimal digits; no two alike."""
    name = re.sub(r"[^A-Za-z0-9_-]", lambda match: "".join(f"~{byte:02X}" for byte in match[0].encode()), text)
    if _TAKEN.fullmatch(name):
        name = f"~{ord(name[0]):02X}{name[1:]}"
    return (name if len(name) <= LONGEST else _shorten(name, text)) or "~"


def _shorten(name: str, text: str) -> str:
    return f"{name[:LONGEST]}~{hashlib.sha256(text.encode()).hexdigest()[:16]}"
