"""Lists that are written to disk while they grow, to be put into a file in the end."""

from __future__ import annotations

import json
import shutil
import tempfile
from typing import IO, Any


class Spool:
    """Text of any length, outside of the memory."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115
        self._empty = True

    def add(self, text: str) -> None:
        self._file.write(text.encode())

    def add_json(self, value: Any) -> None:
        """One more entry of a JSON array, whose brackets are the caller's."""
        self.add(("\n" if self._empty else ",\n") + json.dumps(value, ensure_ascii=True))
        self._empty = False

    def copy_to(self, file: IO[bytes]) -> None:
        """Writes all of it, once."""
        self._file.seek(0)
        shutil.copyfileobj(self._file, file, 1 << 20)
        self._file.close()
