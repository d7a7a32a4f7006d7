"""Local files as a person sees them: what a symbolic link stands for, in the place of the link."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from fsspec.implementations.local import LocalFileSystem


class LinkedFileSystem(LocalFileSystem):
    """Follows links wherever it lists: fsspec's own says "other" of one, and enters no folder behind it.

    A link to a folder that encloses it is left out, or listing would never end. One that leads nowhere stays ("other"),
    for whoever reads it to say so. Pipes, sockets and devices are no files: whoever reads one may wait for ever.
    """

    def ls(self, path: str, detail: bool = False, **kwargs: Any) -> list[Any]:
        entries = [self._follow(entry) for entry in super().ls(path, detail=True, **kwargs)]
        found = [entry for entry in entries if entry is not None]
        return found if detail else [entry["name"] for entry in found]

    def _follow(self, entry: dict[str, Any]) -> dict[str, Any] | None:
        if entry["islink"]:
            try:
                entry = self.info(entry["name"])
            except OSError:
                return entry
            if entry["type"] == "directory" and _encloses_itself(entry["name"]):
                return None
        return None if entry["type"] == "other" else entry


def _encloses_itself(link: str) -> bool:
    """Whether a link to a folder leads to one of those on the way to it, themselves behind links or not."""
    return os.path.realpath(link) in {os.path.realpath(folder) for folder in Path(link).parents}
