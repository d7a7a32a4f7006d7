"""Inputs that once broke something, and those that fuzzing begins with. `python -m tests.fuzz` looks for more."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz.targets import TARGETS

REGRESSIONS = sorted(Path(__file__).with_name("regressions").glob("*.bin"))


@pytest.mark.parametrize("name", TARGETS)
def test_what_fuzzing_begins_with_is_answered_as_promised(name: str) -> None:
    for seed in TARGETS[name].seeds():
        TARGETS[name].check(seed)
        TARGETS[name].check(seed[: len(seed) // 2])


@pytest.mark.parametrize("path", REGRESSIONS, ids=lambda path: path.stem)
def test_what_once_broke_something_does_not_any_more(path: Path) -> None:
    TARGETS[path.stem.partition("-")[0]].check(path.read_bytes())
