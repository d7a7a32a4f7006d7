"""Where runs lie, and their folders."""

from __future__ import annotations

import os
import re

from engine import storage
from engine.corpus.indexes import IndexFolder

CONCEPT = "concept"
CONCEPTS = "concepts"
SEGMENTER = "segmenter"
INDEXES = ".indexes"
"""Folders of a run directory."""


LONGEST = 100
"""Characters of a run's name, which many concepts make long; two that are cut alike differ in their fingerprint."""
MOST_BYTES = 255
"""Of a name, in most filesystems: fewer than so many characters, where one takes several bytes."""

_TEMPORARY = "/working_dir_files/_ray_pkg_"
"""In the path of what `ray job submit --working-dir` unpacks for a job."""


def default_run_url(*concepts: str) -> str:
    """``$MASKMINE_HOME/runs/<concept>``, absolute; MASKMINE_HOME is ``~/.maskmine`` unless set."""
    name = to_folder("-".join(concepts))[:LONGEST].encode()[:MOST_BYTES].decode(errors="ignore")
    home = os.environ.get("MASKMINE_HOME") or "~/.maskmine"
    return storage.join(storage.absolute(home), "runs", name)


def choose_run_url(given: str | None, *concepts: str) -> str:
    """The run directory that was named, or the one that runs of these concepts go into by default."""
    return default_run_url(*concepts) if given is None else given


def results_url(url: str, option: str) -> str:
    """Where results go, absolute.

    Args:
        option: by which the user names it.

    Raises:
        StorageError: Ray removes the place with what is in it, or it cannot be used at all.
    """
    url = storage.absolute(url)
    if _TEMPORARY in url and storage.is_local(url):
        raise storage.StorageError(
            f"{option} {url} lies in Ray's copy of the working directory, which is removed with all that is in it; "
            "give an absolute path on storage that all nodes see, or a URL"
        )
    return url


def concept_url(run_url: str, one_of: str | None = None) -> str:
    """Where a run keeps the fine-tuning of its concept, or of one of several."""
    return storage.join(run_url, CONCEPT) if one_of is None else storage.join(run_url, CONCEPTS, to_folder(one_of))


def index_folder(run_url: str, *, keeps: bool = False) -> IndexFolder:
    """Where the labelling of a run keeps indexes of large tars, for whoever reads the images again."""
    return IndexFolder(url=storage.join(run_url, INDEXES), keeps=keeps)


def to_folder(concept: str) -> str:
    """The concept as the name of a folder."""
    return re.sub(r"[^\w]+", "-", concept.strip().lower()).strip("-") or "concept"
