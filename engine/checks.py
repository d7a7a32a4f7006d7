"""What settings have in common: how a value that makes no sense is refused."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from engine import storage


def check_finite(owner: object, *names: str) -> None:
    """Raises ValueError for the first of the owner's attributes that is infinite or no number."""
    for name in names:
        if not math.isfinite(getattr(owner, name)):
            raise ValueError(f"{name} is {getattr(owner, name)}; it must be a finite number")


def check_at_least(owner: object, minimum: float, *names: str) -> None:
    """Raises ValueError for the first of the owner's attributes that is not finite or smaller than `minimum`."""
    check_finite(owner, *names)
    for name in names:
        if not getattr(owner, name) >= minimum:
            raise ValueError(f"{name} is {getattr(owner, name)}; it must be at least {minimum:g}")


def prepare_file(url: str, flag: str) -> str:
    """The URL, absolute, of a file that is written at the end; makes its folder where that is local.

    Raises:
        ValueError: it cannot be written; the message names the flag.
    """
    place = storage.absolute(url)
    if storage.is_local(place):
        path = Path(place)
        special = storage.is_special(place)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.is_dir() or not os.access(path if special else path.parent, os.W_OK):
                raise OSError("it is a folder" if path.is_dir() else "its folder is read-only")
        except OSError as error:
            raise ValueError(f"{flag} {url} cannot be written ({error.strerror or error})") from error
    return place


@contextmanager
def naming_flags(*options: Any, prefix: str = "", **renamed: str) -> Iterator[None]:
    """Has a ValueError that begins with the name of a setting begin with its flag: ``steps is 0`` -> ``--steps is 0``.

    Args:
        options: dataclasses whose fields are flags.
        prefix: of the flags.
        renamed: fields by the settings that they stand for, where the names differ.
    """
    fields = {field.name: field.name for group in options for field in dataclasses.fields(group)} | renamed
    try:
        yield
    except ValueError as error:
        name, space, rest = str(error).partition(" ")
        if name not in fields:
            raise
        raise ValueError(f"--{prefix}{fields[name].replace('_', '-')}{space}{rest}") from error
