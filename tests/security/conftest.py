"""A canary: a file that shows up if anybody executes what is planted."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest


class Planted:
    """Makes the canary's file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (open, (str(self.path), "w"))


@pytest.fixture
def canary(tmp_path: Path) -> Iterator[Path]:
    """The file that must not appear during the test."""
    path = tmp_path / "canary"
    yield path
    assert not path.exists(), "something planted was executed"


@pytest.fixture
def bomb(canary: Path) -> bytes:
    """A pickle that makes the canary appear."""
    return pickle.dumps(Planted(canary))
