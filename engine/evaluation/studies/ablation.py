"""What each part of the method is worth: M_pre, M, and U-Nets trained on them, on images held out (paper, Table 2).

M_pre and M are labelled with the run's own m′, in a run of several concepts without the sharing of pixels that its own
labels, D_s, have been through. The U-Nets differ in what they are shown and in nothing else: same seed, steps and
settings. That on M_pre sees the images that flags and quality of the run's final labels leave in, as that on D_s does.
Whatever is finished is kept: labels, checkpoints, rows. This process holds the examples of one U-Net at a time.

OUTPUT/ablation/test-HASH/     the labels of the held-out corpus, a run directory
OUTPUT/ablation/ROW-HASH/      a U-Net, and row.json, its measures
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np

from engine import storage
from engine.corpus import list_shards, plan_leases
from engine.distillation.spec import DistillationSpec
from engine.evaluation.metrics import Overlap
from engine.evaluation.rows import EvaluationError, find_labels
from engine.evaluation.studies.charts import draw_bars, draw_tiles
from engine.evaluation.studies.material import Specimen, batched, read_specimens
from engine.evaluation.studies.room import check_room
from engine.evaluation.studies.study import SEGMENTER_SETTINGS, Study, StudyTask, format_table, percent, rounded
from engine.labelling.png import png_to_array
from engine.run.directory import start_run
from engine.run.example_source import NothingToLearn
from engine.run.plan import LabelPlan, plan_labelling
from engine.run.quantities import format_counts
from engine.run.segmenter import CHECKPOINTS, SegmenterTask, make_segmenter, plan_training, read_task
from engine.run.shard import label_lease
from engine.segmenter.segmenter import THRESHOLD, Segmenter
from engine.segmenter.spec import Labels


@dataclass(frozen=True, kw_only=True)
class Row:
    """A row of the table: what a U-Net is shown, None where the labels themselves are measured.

    Attributes:
        paper: ACC, IoU and mIoU in percent, of the paper on CUB.
    """

    name: str
    paper: tuple[float, float, float]
    labels: Labels | None = None
    synthetic: bool = False


ROWS = {
    "preliminary": Row(name="M_pre", paper=(83.5, 29.0, 55.7)),
    "unet-preliminary": Row(name="U-Net on M_pre", labels="preliminary", paper=(91.7, 66.5, 78.2)),
    "refined": Row(name="M", paper=(92.4, 63.6, 77.4)),
    "unet-refined": Row(name="U-Net on D_s", labels="refined", paper=(95.2, 75.1, 84.8)),
    "unet-synthetic": Row(name="U-Net on D_s ∪ D′_s", labels="refined", synthetic=True, paper=(95.6, 77.2, 86.0)),
    "unet-truth": Row(name="U-Net, supervised", labels="truth", paper=(97.9, 88.3, 93.0)),
}
COLUMNS = {"preliminary": "preliminary_mask", "refined": "mask"}
SHOWN = 5
"""Images of the picture."""


def study_ablation(task: StudyTask) -> Study:
    """All rows that can be had; those that cannot are listed with the reason.

    Raises:
        EvaluationError: no --test, or one without ground truth.
        CorpusError: a --test that cannot be read.
    """
    if task.options.test is None:
        raise EvaluationError("the ablation measures on images that nothing was learned from; give --test CORPUS")
    concept = task.origin.spec.concept
    first = plan_leases(list_shards(task.options.test), limit=task.options.limit)
    if next(read_specimens(first, [concept], 1, owner=task.owner), None) is None:
        raise EvaluationError(
            f"the first {task.options.limit} images of {storage.redact(task.options.test)} have no ground truth for "
            f"{concept!r}; give --test a corpus with KEY.mask.png files, or a larger --limit"
        )
    labelled = _label_test(task, task.options.test)
    found: dict[str, dict[str, Any]] = {}
    folders: dict[str, str] = {}
    left_out: dict[str, str] = {}
    for name, row in ROWS.items():
        if row.labels is None:
            found[name] = {"row": row.name, **_measure_labels(task, labelled, COLUMNS[name])}
            continue
        try:
            training = _plan(task, name, row)
            found[name] = _measure_unet(task, row, training, labelled)
            folders[name] = training.url
        except NothingToLearn as error:
            left_out[row.name] = str(error)
            task.tell(f"{row.name} is left out: {error}")
        else:
            task.tell(f"{row.name}: IoU {percent(found[name]['iou'])}")
    return _report(task, labelled, found, folders, left_out)


def _label_test(task: StudyTask, test: str) -> LabelPlan:
    """M_pre and M of the held-out corpus, in this process."""
    origin, spec = task.origin, task.origin.spec.at("refined")
    made_of = f"{origin.fingerprint}/{origin.fields}/{test}/{task.options.limit}"
    digest = hashlib.sha256(made_of.encode()).hexdigest()[:8]
    plan = plan_labelling(
        spec=spec,
        source=origin.source,
        input_url=test,
        run_url=storage.join(task.output, "ablation", f"test-{digest}"),
        distillation=DistillationSpec(method="none"),
        adapter=origin.weights,
        limit=task.options.limit,
    )
    start_run(plan.run.url, plan.manifest)
    if plan.remaining:
        weights = [storage.read_bytes(origin.weights)] if origin.weights else []
        labeller = origin.source.build(spec, device=task.device, weights=weights)
        for lease in plan.remaining:
            receipt = label_lease(lease, labeller, plan.run)
            task.tell(f"labelled {receipt.labelled} of {receipt.seen} held-out images of {lease.id}")
    return plan


def _plan(task: StudyTask, name: str, row: Row) -> SegmenterTask:
    """The training of a row, in a folder of its own for all that its fingerprint covers: more labels are another one.

    Raises:
        NothingToLearn: the run has no such labels or no synthetic images.
        ValueError: run or corpus cannot be used.
    """
    assert row.labels
    if row.synthetic and not storage.exists(storage.join(task.origin.url, "synthetic", "run.json")):
        raise NothingToLearn("the run has no synthetic images; run jobs/synthesize.py with this --run first")
    spec = task.options.segmenter(labels=row.labels, synthetic=row.synthetic, seed=task.origin.spec.seed)
    folder = storage.join(task.output, "ablation")
    training = plan_training(
        run_url=task.origin.url,
        spec=spec,
        concept=task.origin.spec.concept,
        input_url=task.corpus,
        output_url=storage.join(folder, "planned"),
    )
    # Other images or labels are another training, in a folder of its own.
    return replace(training, url=storage.join(folder, f"{name}-{training.manifest.hash[:8]}"))


def _measure_unet(task: StudyTask, row: Row, training: SegmenterTask, labelled: LabelPlan) -> dict[str, Any]:
    """The row's measures: those of an earlier call, or of a U-Net that is trained if it is not there yet."""
    url = storage.join(training.url, "row.json")
    made_of = {"training": training.manifest.hash, "test": _describe_test(labelled)}
    try:
        kept = json.loads(storage.read_bytes(url))
        if kept.pop("made_of") == made_of:
            return kept
    except (FileNotFoundError, ValueError, KeyError):
        pass
    began = time.perf_counter()
    receipt = training.find_receipt()
    if receipt is None:
        check_room(training)
        start_run(training.url, training.manifest)
        tally = training.unread
        examples = list(read_task(training, tally))
        if not examples:
            raise NothingToLearn(f"there is nothing to learn from ({format_counts(tally) or 'no image at all'})")
        receipt = make_segmenter(training, examples, tally, device=task.device)
        assert receipt
        with suppress(OSError):  # only of use to a training that goes on
            storage.remove_folder(training.file(CHECKPOINTS))
    segmenter = Segmenter.from_pretrained(training.url, device=task.device)
    overlap, images = Overlap(), 0
    for batch in batched(specimen for specimen, _ in _held_out(task, labelled)):
        for specimen, mask in zip(batch, _segment(segmenter, batch), strict=True):
            overlap.update(specimen.fit(mask), specimen.truth(labelled.spec.concept))
            images += 1
    used = {reason: count for reason, count in receipt.images.items() if reason.endswith(".used")}
    measures = {
        "row": row.name,
        **rounded(overlap.result()),
        "images": images,
        "trained_on": sum(used.values()),
        "counts": receipt.images,
        "steps": receipt.steps,
        "seconds": round(time.perf_counter() - began, 1),
    }
    storage.atomic_put(json.dumps({**measures, "made_of": made_of}, indent=1).encode(), url)
    return measures


def _describe_test(labelled: LabelPlan) -> str:
    """Which images the rows are measured on: more of them, or other ones, are another test."""
    files, _ = find_labels(labelled.run.url)
    facts = [[lease.id, lease.shard.size, lease.limit] for lease in labelled.leases]
    return f"{labelled.run.url} {hashlib.sha256(json.dumps([facts, files.count]).encode()).hexdigest()[:8]}"


def _measure_labels(task: StudyTask, labelled: LabelPlan, column: str) -> dict[str, Any]:
    """Of the labels themselves: M_pre or M, by the column of its row."""
    overlap, images = Overlap(), 0
    for specimen, row in _held_out(task, labelled):
        overlap.update(specimen.fit(png_to_array(row[column])), specimen.truth(labelled.spec.concept))
        images += 1
    if not images:
        raise EvaluationError(
            f"none of the labelled images of {storage.redact(labelled.input_url)} has ground truth for "
            f"{labelled.spec.concept!r}; give --test a corpus with KEY.mask.png files"
        )
    return {**rounded(overlap.result()), "images": images}


def _held_out(task: StudyTask, labelled: LabelPlan) -> Iterator[tuple[Specimen, dict[str, Any]]]:
    """The images that all rows are measured on, with their labels: those with ground truth, not in quarantine."""
    files, _ = find_labels(labelled.run.url)
    concept = labelled.spec.concept
    shard, rows = "", dict[str, dict[str, Any]]()
    for specimen in read_specimens(labelled.leases, [concept], None, owner=task.owner):
        if specimen.shard != shard:
            shard, rows = specimen.shard, files.read(specimen.shard, tuple(COLUMNS.values()))
        if specimen.key in rows:
            yield specimen, rows[specimen.key]


def _segment(segmenter: Segmenter, specimens: list[Specimen]) -> list[np.ndarray]:
    return [p >= THRESHOLD for p in segmenter.predict_batch([specimen.image for specimen in specimens])]


def _report(
    task: StudyTask,
    labelled: LabelPlan,
    found: dict[str, dict[str, Any]],
    folders: dict[str, str],
    left_out: dict[str, str],
) -> Study:
    concept = task.origin.spec.concept
    images = found["refined"].get("images", 0)
    lines = [
        (
            row["row"],
            *(percent(row[measure]) for measure in ("acc", "iou", "miou")),
            row.get("trained_on", ""),
            " / ".join(f"{value:.1f}" for value in ROWS[name].paper),
        )
        for name, row in found.items()
    ]
    table = format_table(
        f"{concept}: measures (%) on {images} held-out images, pixels pooled",
        ("", "ACC", "IoU", "mIoU", "images trained on", "ACC / IoU / mIoU in the paper"),
        lines,
        _explain(task, left_out),
    )
    bars = draw_bars(
        [row["row"].replace("U-Net", "U-Net\n", 1).replace(",", "") for row in found.values()],
        {
            label: [row[key] for row in found.values()]
            for label, key in (("ACC", "acc"), ("IoU", "iou"), ("mIoU", "miou"))
        },
        title=f"{concept}: labels and the U-Nets that learned from them ({images} held-out images)",
        xlabel="",
        ylabel="pixels pooled, 0–1",
    )
    figures = {
        "test": storage.redact(labelled.input_url),
        "segmenter": {name: getattr(task.options, name) for name in SEGMENTER_SETTINGS},
        "rows": list(found.values()),
        "folders": {ROWS[name].name: url.rpartition("/")[2] for name, url in folders.items()},
        "left_out": left_out,
    }
    pictures = {"ablation.png": bars, "ablation-masks.png": _draw_masks(task, labelled, folders)}
    return Study(name="ablation", figures=figures, table=table, pictures=pictures)


def _explain(task: StudyTask, left_out: dict[str, str]) -> str:
    """What stands below the table."""
    note = f"U-Nets: {task.options.describe_segmenter()}. The paper's are of CUB, with Stable Diffusion. "
    note += "The U-Net on M_pre learns from the images that the flags and the quality of the final labels leave in."
    if task.origin.several:
        note += " M_pre and M are of this concept alone; the masks of D_s have shared their pixels with other concepts."
    return note + "".join(f"\n\nLeft out: {name}: {reason}" for name, reason in left_out.items())


def _draw_masks(task: StudyTask, labelled: LabelPlan, folders: dict[str, str]) -> bytes:
    """Some held-out images and what each row makes of them."""
    concept = labelled.spec.concept
    names = ["image", "M_pre", "M", *(ROWS[name].name for name in folders), "truth"]
    segmenters = [Segmenter.from_pretrained(url, device=task.device) for url in folders.values()]
    tiles: list[list[np.ndarray]] = []
    for specimen, row in islice(_held_out(task, labelled), SHOWN):
        masks = [png_to_array(row[column]) for column in COLUMNS.values()]
        masks += [_segment(segmenter, [specimen])[0] for segmenter in segmenters]
        fitted = [specimen.fit(mask) for mask in masks] + [specimen.truth(concept)]
        tiles.append([specimen.fit_image(), *fitted])
    return draw_tiles(tiles, names, title=f"{concept}: masks of held-out images")
