"""Exports the labels of a run: read lease by lease, written one by one, nothing kept in memory."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from engine import storage
from engine.export.folder import DONE, Folder
from engine.export.formats import open_writer
from engine.export.item import COLUMNS, Unusable, make_item
from engine.export.names import Names
from engine.labelling.label import USELESS, check_flags
from engine.run.classes import name_concepts
from engine.run.directory import RunError
from engine.run.labelled import Extent, LabelledRun, find_images, open_labelled, read_labelled
from engine.run.quantities import format_count
from engine.segmenter.examples import why_left_out


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """Which labels to export, and how.

    Attributes:
        format: a name in `engine.export.formats.FORMATS`.
        polygons: instead of run lengths, for COCO.
        min_quality: labels of smaller quality are left out.
        drop_flags: labels with one of these flags are left out.
        review: a person's decisions by (shard, key); they overrule quality and flags.
    """

    format: str
    polygons: bool = False
    min_quality: float = 0.0
    drop_flags: tuple[str, ...] = tuple(sorted(USELESS))
    review: Mapping[tuple[str, str], str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_flags(self.drop_flags)
        if not 0 <= self.min_quality <= 1:
            raise ValueError(f"min_quality is {self.min_quality}; it must be from 0 to 1")


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What was written.

    Attributes:
        url: of the folder.
        count: of images with their masks; `empty` of them show no object.
        shown: images that show it, by concept.
        left_out: labels that are not there, by reason.
        strangers: decisions of the review that are about no label of the run.
        extent: stage of the labels, and how much of the corpus has them.
    """

    url: str
    extent: Extent
    count: int
    empty: int
    shown: Counter[str]
    left_out: Counter[str]
    strangers: int = 0


def export_labels(
    run_url: str,
    output: str,
    options: ExportOptions,
    *,
    input_url: str | None = None,
    concept: str | None = None,
    stage: str | None = None,
) -> Exported:
    """Writes images and masks into a new folder: all of them, or no folder.

    Args:
        concept: of several, whose labels are to be exported; None is all.
        output: folder or URL.
        input_url: the run's corpus, if it is no longer where it was when it was labelled.
        stage: of the labels; by default refined, or preliminary in a run that was to have no others.

    Raises:
        ValueError: no labels or images, coarse ones that were not asked for, nothing left to export, an output that
            exists; the message says what to do.
        OSError: run, corpus or output cannot be reached.
    """
    run = _open(run_url, stage, concept)
    source = find_images(run, input_url)
    tally: Counter[str] = Counter()
    shown: Counter[str] = Counter(dict.fromkeys(run.concepts, 0))
    count = empty = 0
    names = Names()

    unmet = set(options.review)

    def wanted(row: dict[str, Any]) -> bool:
        place = row["shard"], row["key"]
        decision = options.review.get(place, "")
        unmet.discard(place)
        reason = why_left_out(row, decision, min_quality=options.min_quality, drop_flags=options.drop_flags)
        tally[reason or ""] += 1
        return reason is None

    folder = Folder(output)
    try:
        writer = open_writer(options.format, folder, run.concepts, polygons=options.polygons)
        for labelled in read_labelled(run, source.leases, COLUMNS, tally, wanted):
            try:
                item = make_item(labelled, run.concepts, names)
            except Unusable as reason:
                tally[str(reason)] += len(labelled.rows)
                continue
            writer.add(item)
            count += 1
            empty += not item.shown
            shown.update(found.concept for found in item.shown)
        del tally[""]
        if not count:
            reasons = ", ".join(f"{number} {reason}" for reason, number in sorted(tally.items()) if number)
            raise ValueError(f"no label of {storage.redact(run.url)} is left to export ({reasons or 'it has none'})")
        if unmet and len(unmet) == len(options.review):
            raise ValueError(
                f"none of the {len(unmet)} decisions of the review is about a label of {storage.redact(run.url)}; the "
                f"first is about shard and key {min(unmet)}"
            )
        writer.close()
        exported = Exported(
            url=folder.url,
            extent=Extent.of(run, source),
            count=count,
            empty=empty,
            shown=shown,
            left_out=tally,
            strangers=len(unmet),
        )
        folder.write(DONE, (json.dumps(_describe(run, options, exported), indent=2) + "\n").encode())
        folder.commit()
    except BaseException:
        folder.discard()
        raise
    return exported


def _open(run_url: str, stage: str | None, concept: str | None) -> LabelledRun:
    run = open_labelled(run_url, stage)
    if stage is None and run.unfinished:
        raise RunError(
            f"{storage.redact(run.url)} has no refined labels yet, only the coarse masks that they begin with, of "
            f"{format_count(len(run.receipts), 'lease')}; run jobs/label.py with this --run to its end, or take these "
            "with --stage preliminary"
        )
    return run if concept is None else run.of(concept)


def _describe(run: LabelledRun, options: ExportOptions, exported: Exported) -> dict[str, Any]:
    """What was exported, as JSON values."""
    return {
        "format": options.format,
        **name_concepts(run.concepts),
        "run": storage.redact(run.url),
        "fingerprint": run.manifest.hash,
        "labels": exported.extent.to_json(),
        "min_quality": options.min_quality,
        "drop_flags": options.drop_flags,
        "decisions": len(options.review) - exported.strangers,
        "decisions_about_others": exported.strangers,
        "images": exported.count,
        **({"shown": dict(exported.shown)} if len(run.concepts) > 1 else {}),
        "without_object": exported.empty,
        "left_out": dict(sorted(exported.left_out.items())),
    }
