"""A run with masks that formats trip over, and one of two concepts."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.export.prescribed import Case, cases, scenes, write_run


@pytest.fixture(scope="session")
def given() -> dict[tuple[str, str], Case]:
    """What was labelled, by shard and key."""
    return {(f"{case.shard}.tar", case.key): case for case in cases()}


@pytest.fixture(scope="session")
def run(given: dict[tuple[str, str], Case], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run directory; not to be changed."""
    return write_run(tmp_path_factory.mktemp("prescribed"), list(given.values()))


@pytest.fixture(scope="session")
def seen() -> dict[tuple[str, str, str], Case]:
    """What was labelled in the run of two concepts, by shard, key and concept."""
    return {(f"{case.shard}.tar", case.key, case.concept): case for case in scenes()}


@pytest.fixture(scope="session")
def street(seen: dict[tuple[str, str, str], Case], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run directory of two concepts; not to be changed."""
    return write_run(tmp_path_factory.mktemp("street"), list(seen.values()))
