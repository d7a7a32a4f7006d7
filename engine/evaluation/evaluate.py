"""A run's labels against the ground truth of its corpus, in the paper's protocol."""

from __future__ import annotations

import logging
import math
from collections import Counter
from contextlib import closing
from typing import Any

import numpy as np

from engine.corpus import Defect, Lease, Sample, list_shards, open_lease
from engine.corpus.decode import DecodeError, decode_mask
from engine.corpus.members import Group
from engine.corpus.source import open_source
from engine.evaluation.metrics import Auroc, Overlap, fit_to_protocol
from engine.evaluation.rows import (
    EvaluationError,
    LabelFiles,
    find_labels,
)
from engine.run.rows import png_to_array

logger = logging.getLogger(__name__)


def evaluate_run(run: str, corpus: str, concept: str | None = None) -> dict[str, Any]:
    """Compare heatmaps, preliminary and final masks with the corpus's masks, joined by shard and key.

    Args:
        run: URL of a run directory; its final labels are compared if there are any, else its preliminary ones.
        corpus: URL of the corpus that was labelled, with ground truth.
        concept: name of the ground truth; None means the concept of the run.

    Returns:
        JSON values: ``concept``, ``images`` (compared ones), ``auroc_mean``, ``auroc_pooled``,
        ``preliminary`` and ``refined`` with ``acc``, ``iou``, ``miou``, ``images`` (``refined`` is None
        before refinement), and ``missing``, the counts of what could not be compared: ``rows_without_truth``
        (label rows whose image is not in the corpus, or has no usable truth), ``truth_without_row`` (images
        with truth that have no label), ``no_truth`` (images of the corpus without truth for the concept),
        ``bad_truth`` (masks that do not decode or are not of their image's size). A measure without a value
        (no pixel of a class) is None.

    Raises:
        EvaluationError: no labels, labels of several concepts and none named, or nothing to compare.
        CorpusError: a corpus that cannot be read.
    """
    files, folder = find_labels(run)
    concept = concept or files.concept

    heatmaps, preliminary, refined = Auroc(), Overlap(), Overlap()
    counts: Counter[str] = Counter()
    for shard in list_shards(corpus):
        rows = files.read(shard.name, ("width", "height", "heatmap", "preliminary_mask", "mask"))
        with open_lease(Lease(shard=shard), masks=True) as samples:
            for sample in samples:
                if isinstance(sample, Defect):
                    continue
                row = rows.get(sample.key)
                truth = _find_truth(sample, concept, row, counts)
                if truth is None:
                    continue
                if row is None:
                    counts["truth_without_row"] += 1
                    continue
                height, width = truth.shape
                target = fit_to_protocol(truth, height, width)
                heatmaps.update(fit_to_protocol(png_to_array(row["heatmap"]), height, width), target)
                mask = png_to_array(row["preliminary_mask"])
                preliminary.update(fit_to_protocol(mask, height, width), target)
                counts["images"] += 1
                if folder == "labels":
                    mask = png_to_array(row["mask"])
                    refined.update(fit_to_protocol(mask, height, width), target)
                    counts["refined"] += 1
    return _report(concept, files, counts, heatmaps, preliminary, refined)


def has_truth(corpus: str) -> bool:
    """Whether the first shard of the corpus holds ground truth, by the names of its files alone."""
    with closing(open_source(list_shards(corpus)[0])) as source:
        return any(isinstance(item, Group) and item.masks for item in source.index.items)


def _find_truth(sample: Sample, concept: str, row: dict[str, Any] | None, counts: Counter[str]) -> np.ndarray | None:
    """The concept's mask (H, W)."""
    data = sample.truth(concept)
    if data is None:
        counts["no_truth"] += 1
        return None
    try:
        truth = decode_mask(data)
    except DecodeError as error:
        problem = str(error)
    else:
        if row is None or truth.shape == (row["height"], row["width"]):
            return truth
        problem = f"it has {truth.shape[1]}x{truth.shape[0]} pixels, the image {row['width']}x{row['height']}"
    logger.warning("the ground truth of %s %s is unusable: %s", sample.shard, sample.key, problem)
    counts["bad_truth"] += 1
    return None


def _report(
    concept: str,
    files: LabelFiles,
    counts: Counter[str],
    heatmaps: Auroc,
    preliminary: Overlap,
    refined: Overlap,
) -> dict[str, Any]:
    missing = {name: counts[name] for name in ("truth_without_row", "no_truth", "bad_truth")}
    missing = {"rows_without_truth": files.count - counts["images"], **missing}
    if not counts["images"]:
        counted = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in missing.items() if count)
        raise EvaluationError(
            f"none of the {files.count} labels has ground truth for {concept!r} in the corpus ({counted}); "
            f"give the corpus that was labelled, with KEY.mask.png or KEY.{concept}.mask.png files"
        )
    for name, count in missing.items():
        if count and name != "no_truth":
            logger.warning("%s: %d", name.replace("_", " "), count)
    final = {**_with_none(refined.result()), "images": counts["refined"]}
    return {
        "concept": concept,
        "images": counts["images"],
        **_with_none(heatmaps.result()),
        "preliminary": {**_with_none(preliminary.result()), "images": counts["images"]},
        "refined": final if final["images"] else None,
        "missing": missing,
    }


def _with_none(values: dict[str, float]) -> dict[str, float | None]:
    return {name: None if math.isnan(value) else value for name, value in values.items()}
