"""A small corpus of bright boxes, and a run with its labels."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.segmenter.bright import label, write_corpus


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("boxes"))


@pytest.fixture(scope="session")
def labelled(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run directory; not to be changed."""
    run = tmp_path_factory.mktemp("runs") / "labelled"
    label(corpus, run)
    return run
