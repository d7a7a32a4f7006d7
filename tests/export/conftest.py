"""One run with masks that formats trip over."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.export.prescribed import Case, cases, write_run


@pytest.fixture(scope="session")
def given() -> dict[tuple[str, str], Case]:
    """What was labelled, by shard and key."""
    return {(f"{case.shard}.tar", case.key): case for case in cases()}


@pytest.fixture(scope="session")
def run(given: dict[tuple[str, str], Case], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run directory; not to be changed."""
    return write_run(tmp_path_factory.mktemp("prescribed"), list(given.values()))
