"""The label rows of a run as a dataset that is read only as far as it is asked."""

from __future__ import annotations

import os

import pyarrow.dataset

from engine import storage
from engine.run.labelled import open_labelled


def open_labels(run: str | os.PathLike[str], *, stage: str | None = None) -> pyarrow.dataset.Dataset:
    """The rows of `schemas.label` in all label files that have a receipt; what is still at work is not seen.

    Args:
        run: folder or URL of a run, of predictions, or of a synthetic set.
        stage: refined or preliminary; by default refined labels, or preliminary ones where there are no others.

    Raises:
        RunError: no run, or none with such labels.
    """
    labelled = open_labelled(os.fspath(run), stage)
    filesystem, folder = storage.open_filesystem(labelled.labels_url)
    files = [storage.join(folder, f"{lease}.parquet") for lease in sorted(labelled.receipts)]
    return pyarrow.dataset.dataset(files, format="parquet", filesystem=filesystem)
