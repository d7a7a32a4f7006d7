"""A picture of a run to look at: image | heatmap | mask of labels spread over the whole run."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageFont

from engine import storage
from engine.corpus import Lease, Sample, Shard, open_lease
from engine.corpus.decode import DecodeError, decode_image
from engine.corpus.indexes import IndexFolder
from engine.evaluation.rows import EvaluationError, LabelFiles, find_labels
from engine.labelling.png import png_to_array
from engine.run.names import index_folder

TILE = 168
"""Side of the square each picture is fitted into, pixels."""
COLUMNS = 3
GAP, MARGIN, CAPTION, TITLE = 4, 20, 22, 44

PAPER, INK, FAINT, OUTLINE = (250, 250, 248), (32, 32, 36), (120, 120, 128), (255, 214, 0)
INFERNO = np.array(
    [
        (0, 0, 4),
        (33, 12, 74),
        (87, 16, 110),
        (138, 34, 106),
        (188, 55, 84),
        (228, 90, 49),
        (249, 142, 9),
        (249, 203, 53),
        (252, 255, 164),
    ]
)
"""Nine equidistant colours of matplotlib's map of that name."""


def write_contact_sheet(run: str, shards: Iterable[Shard], path: str, count: int = 24) -> str:
    """Draw up to ``count`` labels of a run, evenly spread over so many of its label files, as one PNG.

    Args:
        run: URL of a run directory; final labels are drawn if there are any, else preliminary ones.
        shards: of the corpus that was labelled; only the chosen images are read.
        path: file or URL to write.

    Returns:
        ``path``.

    Raises:
        EvaluationError: no labels, or none of the chosen images is in the corpus.
    """
    if count < 1:
        raise EvaluationError(f"a contact sheet of {count} images was asked for; at least 1 is needed")
    files, folder = find_labels(run, most=count)
    shards, several = list(shards), len(files.concepts) > 1
    cells = []
    for concept in files.concepts:
        drawn = read_spread(files.of(concept), shards, max(1, count // len(files.concepts)), index_folder(run))
        cells += [
            (f"{row['key']} {concept}" if several else row["key"], _draw_cell(image, row)) for image, row in drawn
        ]
    if not cells:
        raise EvaluationError("none of the labelled images is in the corpus; give the corpus that was labelled")
    kind = "masks" if folder == "labels" else "preliminary masks"
    title = f"{', '.join(files.concepts)}: {kind} of {len(cells)} {'labels' if several else 'images'}"
    buffer = io.BytesIO()
    compose(title, cells).save(buffer, format="PNG")
    storage.atomic_put(buffer.getvalue(), storage.absolute(path))
    return path


def read_spread(
    files: LabelFiles, shards: Iterable[Shard], count: int, indexes: IndexFolder | None = None
) -> Iterator[tuple[np.ndarray, dict[str, Any]]]:
    """Images (H, W, 3) with their rows, evenly spread over those of the files."""
    places = [(shard, key) for shard, rows in sorted(files.rows.items()) for key, _ in rows]
    chosen: dict[str, set[str]] = {}
    for index in np.linspace(0, len(places) - 1, min(count, len(places))).round().astype(int):
        shard, key = places[index]
        chosen.setdefault(shard, set()).add(key)
    for shard in shards:
        wanted = chosen.get(shard.name, set())
        if not wanted:
            continue
        rows = files.read(shard.name, ("heatmap", "mask", "area"), wanted)
        with open_lease(Lease(shard=shard), keys=wanted, indexes=indexes) as samples:
            for sample in samples:
                if isinstance(sample, Sample):
                    try:
                        yield decode_image(sample.image), rows[sample.key]
                    except DecodeError:  # the corpus has changed since
                        continue


def _draw_cell(image: np.ndarray, row: dict[str, Any]) -> list[Image.Image]:
    """The three pictures of a label, each at most TILE x TILE and in the image's proportions."""
    height, width = image.shape[:2]
    scale = TILE / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    picture = Image.fromarray(image).resize(size, Image.Resampling.LANCZOS)
    heatmap = Image.fromarray(colour_heatmap(png_to_array(row["heatmap"]))).resize(size, Image.Resampling.BILINEAR)
    mask = Image.fromarray(png_to_array(row["mask"]).astype(np.uint8) * 255)
    return [picture, heatmap, outline_mask(picture, mask.resize(size, Image.Resampling.NEAREST))]


def colour_heatmap(heatmap: np.ndarray) -> np.ndarray:
    """Grey values (h, w) 0..255 as colours (h, w, 3)."""
    stops = np.linspace(0, 255, len(INFERNO))
    channels = [np.interp(heatmap, stops, INFERNO[:, channel]) for channel in range(3)]
    return np.stack(channels, axis=2).astype(np.uint8)


def outline_mask(picture: Image.Image, mask: Image.Image) -> Image.Image:
    """The picture, darkened and drained of colour outside the mask, with the mask's outline."""
    outside = Image.blend(picture.convert("L").convert("RGB"), Image.new("RGB", picture.size), 0.55)
    edge = ImageChops.difference(mask.filter(ImageFilter.MaxFilter(3)), mask.filter(ImageFilter.MinFilter(3)))
    overlay = Image.composite(picture, outside, mask)
    overlay.paste(OUTLINE, mask=edge)
    return overlay


def compose(title: str, cells: list[tuple[str, list[Image.Image]]]) -> Image.Image:
    """A sheet of cells, each a caption and its pictures, as many in every cell and at most TILE x TILE."""
    columns, pictures_each = min(COLUMNS, len(cells)), len(cells[0][1])
    cell_width = pictures_each * (TILE + GAP) - GAP
    width = columns * cell_width + (columns + 1) * MARGIN
    height = TITLE + -(-len(cells) // columns) * (TILE + CAPTION + MARGIN) + MARGIN
    sheet = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((MARGIN, 14), _shorten(draw, title, width - 2 * MARGIN, 20), INK, font=_font(20))
    for index, (key, pictures) in enumerate(cells):
        x = MARGIN + index % columns * (cell_width + MARGIN)
        y = TITLE + MARGIN // 2 + index // columns * (TILE + CAPTION + MARGIN)
        for picture in pictures:
            sheet.paste(picture, (x + (TILE - picture.width) // 2, y + (TILE - picture.height) // 2))
            x += TILE + GAP
        x -= pictures_each * (TILE + GAP)
        draw.text((x, y + TILE + 5), _shorten(draw, key, cell_width, 13), FAINT, font=_font(13))
    return sheet


def _shorten(draw: ImageDraw.ImageDraw, text: str, width: int, size: int) -> str:
    """The text, without its beginning if it is too long: keys differ in their ends."""
    start = 0
    while start < len(text) and draw.textlength("…" * (start > 0) + text[start:], font=_font(size)) > width:
        start += 1
    return "…" * (start > 0) + text[start:]


def _font(size: int) -> Any:
    return ImageFont.load_default(size)
