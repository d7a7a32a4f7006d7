"""Packages that not everybody has."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType


class MissingExtra(ValueError):
    """A package that is not installed; the message says how to get it."""


def require(module: str, *, extra: str, purpose: str) -> ModuleType:
    """The module, of one of the extras in `pyproject.toml`.

    Args:
        purpose: what needs it, as the beginning of a sentence.

    Raises:
        MissingExtra: it is not installed.
    """
    try:
        return import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise MissingExtra(
            f"{purpose} needs {package}, which is not installed: pip install -e '.[{extra}]' where the project lies"
        ) from error
