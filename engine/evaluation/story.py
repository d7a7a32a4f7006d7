"""The method in one picture: what becomes of some images of a run, from the heatmap to the segmenter's mask."""

from __future__ import annotations

import numpy as np
import torch

from engine import storage
from engine.corpus import list_shards
from engine.diffusion.geometry import upsample_mask
from engine.evaluation.contact_sheet import read_spread
from engine.evaluation.rows import find_labels
from engine.evaluation.studies.charts import draw_tiles
from engine.run.origin import Origin
from engine.segmenter.segmenter import Segmenter

NAMES = ("image", "heatmap", "M_pre", "background", "M", "U-Net")
SHOWN = 4
PLAIN = 255
"""Grey of a background that was not painted."""


def write_story(
    origin: Origin, segmenter: str, corpus: str, path: str, *, device: str = "cpu", threads: int | None = None
) -> None:
    """Draws some labelled images, spread over the run, as a PNG; each is labelled once more, for its background.

    Args:
        segmenter: URL of its folder.
        corpus: URL of the images that were labelled.
        path: file or URL to write.
        threads: of this process, None leaves them.

    Raises:
        EvaluationError: no labels.
        ValueError: model, m′ or segmenter cannot be loaded.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    files, _ = find_labels(origin.url, most=4 * SHOWN)
    chosen = list(read_spread(files, list_shards(corpus), count=SHOWN))
    images = [image for image, _ in chosen]
    labels = origin.build_labeller(device=device)(images, [row["key"] for _, row in chosen])
    unet = Segmenter.from_pretrained(segmenter, device)
    tiles = []
    for image, label in zip(images, labels, strict=True):
        height, width = image.shape[:2]
        background = np.full_like(image, PLAIN) if label.background is None else label.background
        coarse = upsample_mask(label.preliminary_mask, width, height)
        tiles.append([image, label.heatmap, coarse, background, label.mask, unet(image)])
    storage.atomic_put(draw_tiles(tiles, NAMES, title=origin.spec.prompt), path)
