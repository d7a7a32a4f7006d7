"""What the file of an m′ says about itself: read and written without a tensor (or torch)."""

from __future__ import annotations

import json


def read_notes(data: bytes) -> dict[str, str]:
    """The metadata of a safetensors file: JSON behind its own length in eight bytes.

    Raises:
        ValueError: no safetensors file, or one without metadata.
    """
    try:
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        return dict(header["__metadata__"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError("no safetensors file with notes of its own") from error


def write_notes(data: bytes, notes: dict[str, str]) -> bytes:
    """The safetensors file with these metadata; equal tensors and notes give equal bytes.

    (The library's own writer puts metadata down in any order.)
    """
    length = int.from_bytes(data[:8], "little")
    header = {**json.loads(data[8 : 8 + length]), "__metadata__": notes}
    text = json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the tensors begin at a multiple of eight bytes
    return len(text).to_bytes(8, "little") + text + data[8 + length :]
