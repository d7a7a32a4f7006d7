"""What the file of an m′ says about itself, without loading a tensor (or torch)."""

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
