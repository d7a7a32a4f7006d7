"""Writes the report of a run: pictures first, then the data, then the page that shows them."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

import numpy as np

from engine import storage
from engine.corpus.decode import DecodeError, decode_image
from engine.corpus.lease import Lease
from engine.labelling.label import USELESS
from engine.report.page import DATA, pack_rows, render_data, render_page
from engine.report.pictures import COLUMNS, draw_layers, largest_side
from engine.report.survey import COLUMNS as SURVEYED
from engine.report.survey import Survey, survey_rows
from engine.run.directory import RunError
from engine.run.labelled import Extent, LabelledImage, LabelledRun, find_images, open_labelled, read_labelled
from engine.run.names import to_folder
from engine.run.plan import count_quarantined

PICTURES_VERSION = 2
"""Raised whenever the same label is drawn in another way: pictures that are there are not drawn again."""
IMAGES = "images"
_PICTURE = re.compile(r"\.?[0-9a-f]{24}\.[45]\.webp(\.[0-9a-f]{32}\.tmp)?")
"""Names that a report makes: of pictures, and of what it was writing when it was killed."""
AT_ONCE = 64

Painter = Callable[[np.ndarray, str], np.ndarray | None]
"""From an image and its key to the image without the object, None where nothing was painted."""


@dataclass(frozen=True, kw_only=True)
class ReportOptions:
    """What to show.

    Attributes:
        rows: labels in the gallery, the worst ones.
        side: of a picture, pixels; one file holds four pictures of a label, or five with its background.
        backgrounds: of so many labels, the worst ones, the painted background is shown, too.
    """

    rows: int = 10_000
    side: int = 256
    backgrounds: int = 0

    def __post_init__(self) -> None:
        for name, least in (("rows", 1), ("side", 32), ("backgrounds", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least {least}")
        most = largest_side(5 if self.backgrounds else 4)
        if self.side > most:
            backgrounds = " with backgrounds" if self.backgrounds else ""
            raise ValueError(f"side is {self.side}; it must be at most {most}{backgrounds}")


@dataclass(frozen=True, kw_only=True)
class Report:
    """What was written.

    Attributes:
        url: of the page.
        labels: there are in all; `shown` of them are in the gallery.
        missing: shown labels without a picture, by reason.
        kind: of the labels: refined or preliminary, of a corpus, or synthetic: of synthetic images.
        extent: stage of the labels, and how much of the corpus has them.
    """

    url: str
    labels: int
    shown: int
    missing: Counter[str]
    kind: str
    extent: Extent


def write_report(
    run_url: str,
    options: ReportOptions,
    *,
    input_url: str | None = None,
    output: str | None = None,
    concept: str | None = None,
    painter: Painter | None = None,
) -> Report:
    """Writes OUTPUT/index.html with all it needs beside it. Done again, only what is new is drawn.

    Args:
        input_url: the run's corpus, if it is no longer where it was when it was labelled.
        output: folder or URL; None is RUN/report, or RUN/report-CONCEPT in a run of several.
        concept: of several, whose labels are to be shown.
        painter: paints the backgrounds; needed if any are asked for.

    Raises:
        ValueError: no labels, or no images; the message says what to do.
        OSError: run, corpus or output cannot be reached.
    """
    assert painter is not None or not options.backgrounds
    run = open_labelled(run_url).of(concept)
    own = f"report-{to_folder(run.only)}" if run.only else "report"
    folder = storage.absolute(output) if output is not None else storage.join(run.url, own)
    survey = survey_rows(run.rows(SURVEYED), options.rows)
    if not survey.worst:
        raise RunError(f"{storage.redact(run.url)} holds no label: every image is in quarantine")
    missing: Counter[str] = Counter()
    source = find_images(run, input_url)
    extent = Extent.of(run, source)
    pictures = _draw(run, source.leases, survey, options, folder, painter, missing)
    facts = {**_describe(run, survey, missing), "unlabelled": extent.unlabelled}
    data = {**facts, **pack_rows(survey.worst, pictures, options.side)}
    storage.atomic_put(render_data(data), storage.join(folder, DATA))
    page = storage.join(folder, "index.html")
    storage.atomic_put(render_page(f"{run.concept}: labels"), page)
    _sweep(folder, {path for path, _ in pictures.values()})
    kind = "synthetic" if run.manifest.kind == "synthetic images" else run.stage
    return Report(url=page, labels=survey.count, shown=len(survey.worst), missing=missing, kind=kind, extent=extent)


def _draw(
    run: LabelledRun,
    leases: Sequence[Lease],
    survey: Survey,
    options: ReportOptions,
    folder: str,
    painter: Painter | None,
    missing: Counter[str],
) -> dict[tuple[str, str], tuple[str, int]]:
    """Path and number of layers of the pictures, by shard and key."""
    places = [(row["shard"], row["key"]) for row in survey.worst]
    # Where the mask says nothing, nothing was painted either.
    paintable = (place for place, row in zip(places, survey.worst, strict=True) if not USELESS & set(row["flags"]))
    painted = set(itertools.islice(paintable, options.backgrounds))
    paths = {place: _path(run, options.side, place, place in painted) for place in places}
    there = _list_pictures(folder)
    pictures: dict[tuple[str, str], tuple[str, int]] = {}

    def draw(item: LabelledImage) -> tuple[str, str, str, int]:
        place = item.shard, item.key
        path = paths[place]
        try:
            image = decode_image(item.image)
        except DecodeError:
            return *place, "", 0
        (row,) = item.rows.values()
        background = painter(image, item.key) if painter and place in painted else None
        # A name tells how many layers there are: of what was to be painted, nothing may have been.
        path = f"{path}.{5 if background is not None else 4}.webp"
        storage.atomic_put(draw_layers(image, row, options.side, background), storage.join(folder, path))
        return *place, path, 5 if background is not None else 4

    for place, path in paths.items():
        for layers in (5, 4):
            if f"{path}.{layers}.webp" in there:
                pictures[place] = f"{path}.{layers}.webp", layers
    wanted = set(paths) - set(pictures)
    shards = {shard for shard, _ in wanted}
    items = read_labelled(
        run, leases, COLUMNS, missing, lambda row: (row["shard"], row["key"]) in wanted, shards=shards
    )
    # A painter has one model, which one thread at a time may use.
    with ThreadPoolExecutor(1 if painter else None) as pool:
        for batch in _batches(items):
            for shard, key, path, layers in pool.map(draw, batch):
                if path:
                    pictures[shard, key] = path, layers
                else:
                    missing["unreadable_image"] += 1
    return pictures


def _batches(items: Iterator[LabelledImage]) -> Iterator[list[LabelledImage]]:
    while batch := list(itertools.islice(items, AT_ONCE)):
        yield batch


def _path(run: LabelledRun, side: int, place: tuple[str, str], painted: bool) -> str:
    """Where a picture lies, but for its ending: the same for the same label, drawn in the same way."""
    facts = json.dumps([PICTURES_VERSION, run.manifest.hash, run.concept, run.stage, side, place, painted])
    digest = hashlib.sha256(facts.encode()).hexdigest()
    return f"{IMAGES}/{digest[:2]}/{digest[2:26]}"


def _list_pictures(folder: str) -> set[str]:
    """Those of this report and earlier ones; other files in their folders are somebody else's."""
    found = set()
    for number in range(256):
        below = f"{IMAGES}/{number:02x}"
        names = storage.list_names(storage.join(folder, below))
        found |= {f"{below}/{name}" for name in names if _PICTURE.fullmatch(name)}
    return found


def _sweep(folder: str, used: Collection[str]) -> None:
    """Removes the pictures of an earlier report that this one does not show."""
    for path in _list_pictures(folder) - set(used):
        storage.remove(storage.join(folder, path))


def _describe(run: LabelledRun, survey: Survey, missing: Counter[str]) -> dict[str, Any]:
    """What the page says about the run as a whole, as JSON values."""
    receipts = run.receipts.values()
    seconds: Counter[str] = Counter()
    for receipt in receipts:
        seconds.update(receipt.seconds)
    facts = json.dumps([storage.redact(run.url), run.concept, run.stage])  # decisions are kept under the id
    return {
        "id": f"{run.manifest.hash}-{hashlib.sha256(facts.encode()).hexdigest()[:8]}",
        "run": storage.redact(run.url),
        "concept": run.concept,
        "stage": run.stage,
        "started": run.manifest.created,
        "written": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "seen": sum(receipt.seen for receipt in receipts),
        "labelled": survey.count,
        "leases": len(receipts),
        "quarantined": dict(sorted(count_quarantined(receipts).items())),
        "seconds": {name: round(value, 2) for name, value in seconds.items()},
        "missing": dict(missing),
        "means": {name: round(value, 4) for name, value in survey.means().items()},
        "histograms": survey.histograms,
        "flagged": dict(survey.flags.most_common()),
        "settings": run.manifest.fingerprint,
        "fingerprint": run.manifest.hash,
        "versions": run.manifest.versions,
    }
