"""Which tests may run side by side: those of a folder that share a Ray, a browser or a run stay in one process."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:
    # Before torch is imported: the threads of one worker would wait for those of another.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

TESTS = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With `-n`, a folder that has a conftest.py goes to one worker; elsewhere a file does."""
    for item in items:
        folder = item.path.parent
        together = folder if folder != TESTS and (folder / "conftest.py").exists() else item.path
        item.add_marker(pytest.mark.xdist_group(together.relative_to(TESTS).as_posix()))
