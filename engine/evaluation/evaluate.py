"""A run's labels against the ground truth of its corpus, in the paper's protocol."""

from __future__ import annotations

import logging
import math
from collections import Counter
from contextlib import closing
from typing import Any

import numpy as np

from engine.corpus import Lease, Sample, Shard, list_shards, open_lease
from engine.corpus.members import Group
from engine.corpus.source import open_source
from engine.diffusion.geometry import bounding_box, upsample_mask
from engine.evaluation.metrics import Auroc, BoxIou, Overlap, fit_to_protocol
from engine.evaluation.rows import EvaluationError, LabelFiles, find_labels
from engine.evaluation.truth import Box, find_box, find_mask
from engine.labelling.png import png_to_array
from engine.run.names import index_folder

logger = logging.getLogger(__name__)


def evaluate_run(
    run: str,
    corpus: str,
    concept: str | None = None,
    *,
    negatives: bool = False,
    labels: tuple[LabelFiles, str] | None = None,
) -> dict[str, Any]:
    """Compare heatmaps, preliminary and final masks with the corpus's masks, joined by shard and key.

    In a run with final labels the preliminary masks are M_pre as it was painted over, which knows of no presence and
    of no other concepts. In one without, they are what it delivers: empty where the concept is absent, and without the
    pixels of other concepts.

    Args:
        run: URL of a run directory; its final labels are compared if there are any, else its preliminary ones.
        corpus: URL of the corpus that was labelled, with ground truth.
        concept: name of the ground truth; None means the concept of the run. In a run of several it also chooses the
            labels.
        negatives: images that show something else, or nothing, by their JSON are compared as well, with an empty mask.
        labels: those of the run, as `find_labels` finds them, if that has been done.

    Returns:
        JSON values: ``concept``, ``images`` (with a mask to compare), ``auroc_mean``, ``auroc_pooled``,
        ``preliminary`` and ``refined`` with ``acc``, ``iou``, ``miou``, ``images`` (``refined`` is None
        before refinement, both are without masks to compare), ``box_iou`` (of the images that have a box and no
        mask: mean IoU with the boxes around the ``preliminary`` and ``refined`` masks, and ``images``; None if
        there are none), and ``missing``, the counts of what could not be compared: ``rows_without_truth``
        (label rows whose image is not in the corpus, or has no usable truth), ``truth_without_row`` (images
        with truth that have no label), ``no_truth`` (images of the corpus without truth for the concept),
        ``bad_truth`` (masks that do not decode or are not of their image's size, boxes that are none),
        ``shards_without_row`` (tars of which no image has a label: they are not opened, and their images not
        counted). A measure without a value (no pixel of a class) is None.

    Raises:
        EvaluationError: no labels, labels of several concepts and none named, or nothing to compare.
        CorpusError: a corpus that cannot be read.
    """
    files, folder = labels or find_labels(run)
    concept, alone = concept or files.concept, len(files.concepts) == 1
    files = files.of(concept)

    measures = _Measures(final=folder == "labels", negatives=negatives, alone=alone)
    for shard in list_shards(corpus):
        if shard.name not in files.rows:  # a run may have labelled a small part of a large corpus
            measures.pass_over(shard, concept)
            continue
        rows = files.read(shard.name, ("width", "height", "heatmap", "preliminary_mask", "mask", "bbox"))
        with open_lease(Lease(shard=shard), masks=True, indexes=index_folder(run)) as samples:
            for sample in samples:
                if isinstance(sample, Sample):
                    measures.add(sample, concept, rows.get(sample.key))
    return _report(concept, files, measures)


class _Measures:
    """Everything that is accumulated over the images; `counts` says how many went where."""

    def __init__(self, *, final: bool, negatives: bool, alone: bool) -> None:
        self.final, self.negatives, self.alone = final, negatives, alone
        self.counts: Counter[str] = Counter()
        self.heatmaps, self.preliminary, self.refined = Auroc(), Overlap(), Overlap()
        self.preliminary_boxes, self.refined_boxes = BoxIou(), BoxIou()

    def pass_over(self, shard: Shard, concept: str) -> None:
        """Counts a shard without labels, or its images where their names are known without opening it."""
        if shard.kind == "tar":
            self.counts["shards_without_row"] += 1
            return
        with closing(open_source(shard)) as source:
            for item in source.index.items:
                if isinstance(item, Group):
                    masked = concept in item.masks or "" in item.masks
                    self.counts["truth_without_row" if masked else "no_truth"] += 1

    def add(self, sample: Sample, concept: str, row: dict[str, Any] | None) -> None:
        """One image of the corpus, with its label if it has one."""
        try:
            truth = find_mask(sample, concept, alone=self.alone)
            box = find_box(sample, concept, alone=self.alone) if truth is None else None
            if self.negatives and row is not None and truth is None and box is None and sample.lacks(concept):
                truth = np.zeros((row["height"], row["width"]), bool)
            if truth is not None and row is not None and truth.shape != (row["height"], row["width"]):
                size = f"{truth.shape[1]}x{truth.shape[0]} pixels, the image {row['width']}x{row['height']}"
                raise ValueError(f"it has {size}")
        except ValueError as error:
            logger.warning("the ground truth of %s %s is unusable: %s", sample.shard, sample.key, error)
            self.counts["bad_truth"] += 1
            return
        if truth is None and box is None:
            self.counts["no_truth"] += 1
        elif row is None:
            self.counts["truth_without_row"] += 1
        elif truth is not None:
            self._compare_masks(row, truth)
        elif box is not None:
            self._compare_boxes(row, box)

    def _compare_masks(self, row: dict[str, Any], truth: np.ndarray) -> None:
        height, width = truth.shape
        target = fit_to_protocol(truth, height, width)
        self.heatmaps.update(fit_to_protocol(png_to_array(row["heatmap"]), height, width), target)
        column = "preliminary_mask" if self.final else "mask"
        self.preliminary.update(fit_to_protocol(png_to_array(row[column]), height, width), target)
        if self.final:
            self.refined.update(fit_to_protocol(png_to_array(row["mask"]), height, width), target)
        self.counts["images"] += 1

    def _compare_boxes(self, row: dict[str, Any], box: Box) -> None:
        if self.final:
            mask = upsample_mask(png_to_array(row["preliminary_mask"]), row["width"], row["height"])
            self.preliminary_boxes.update(bounding_box(mask), box)
            self.refined_boxes.update(row["bbox"], box)
        else:
            self.preliminary_boxes.update(row["bbox"], box)
        self.counts["boxes"] += 1


def _report(concept: str, files: LabelFiles, found: _Measures) -> dict[str, Any]:
    counts, images = found.counts, found.counts["images"]
    missing = {name: counts[name] for name in ("truth_without_row", "no_truth", "bad_truth", "shards_without_row")}
    missing = {"rows_without_truth": files.count - images - counts["boxes"], **missing}
    if not images + counts["boxes"]:
        counted = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in missing.items() if count)
        raise EvaluationError(
            f"none of the {files.count} labels has ground truth for {concept!r} in the corpus ({counted}); give the "
            f"corpus that was labelled, with KEY.mask.png or KEY.{concept}.mask.png files, or boxes in KEY.json"
        )
    for name, count in missing.items():
        if count and name != "no_truth":
            logger.warning("%s: %d", name.replace("_", " "), count)
    boxes = {"preliminary": found.preliminary_boxes.result(), "refined": found.refined_boxes.result()}
    return {
        "concept": concept,
        "images": images,
        **_with_none(found.heatmaps.result()),
        "preliminary": {**_with_none(found.preliminary.result()), "images": images} if images else None,
        "refined": {**_with_none(found.refined.result()), "images": images} if images and found.final else None,
        "box_iou": {**_with_none(boxes), "images": counts["boxes"]} if counts["boxes"] else None,
        "missing": missing,
    }


def _with_none(values: dict[str, float]) -> dict[str, float | None]:
    return {name: None if math.isnan(value) else value for name, value in values.items()}
