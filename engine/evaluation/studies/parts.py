"""Several concepts of one prompt: M̂ of each, against its own mask where there is one (paper, Fig. 9)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from engine.diffusion.prompt import ConceptPrompt
from engine.evaluation.metrics import Auroc
from engine.evaluation.studies.charts import draw_tiles
from engine.evaluation.studies.material import Latents, Specimen, batched, read_specimens
from engine.evaluation.studies.study import Study, StudyTask, format_table, percent, rounded
from engine.evaluation.studies.tokens import split_prompt
from engine.labelling.attend import attend

ROWS = 5
"""Images of the picture."""


def study_parts(task: StudyTask) -> Study:
    """One pass for all words; AUROC of a part over the images that have its mask, None where none has."""
    spec = task.origin.spec
    text = task.options.prompt or spec.prompt
    model = task.models.original()
    parts = ConceptPrompt.parse(model.tokenizer, text, task.options.parts or (spec.concept,))
    words = split_prompt(model.tokenizer, text)
    shown = len(words.concepts) - 1  # the end of the text says nothing of a part
    asked = ConceptPrompt(
        text=text,
        concepts=parts.concepts + words.concepts[:shown],
        selector=torch.cat([parts.selector, words.selector[:shown]]),
    )
    aurocs = {part: Auroc() for part in parts.concepts}
    counts = dict.fromkeys(parts.concepts, 0)
    tiles: list[tuple[int, Specimen, np.ndarray]] = []
    images = 0
    spec = replace(spec, prompt=text, presence_steps=0, distractors=())
    for batch in batched(read_specimens(task.corpus, parts.concepts, task.options.limit, owner=task.owner, bare=True)):
        latents = Latents.encode(model, batch)
        maps = attend(model, latents.z0, latents.keys, asked, spec, valid=latents.valid).maps
        for specimen, shades in zip(batch, latents.shades(maps), strict=True):
            for part, shade in zip(parts.concepts, shades, strict=False):
                if part in specimen.truths:
                    aurocs[part].update(shade, specimen.truth(part))
                    counts[part] += 1
            tiles.append((len(specimen.truths), specimen, shades[len(parts.concepts) :]))
        images += len(batch)
        # Those that show most of the parts, in the corpus's order.
        tiles = sorted(tiles, key=lambda tile: -tile[0])[:ROWS]
    rows: list[dict[str, Any]] = [
        {"part": part, "images": counts[part], **rounded(aurocs[part].result())} for part in parts.concepts
    ]
    bold = [k + 1 for k in range(shown) if (parts.selector.sum(0) > 0)[k]]
    picture = draw_tiles(
        [[specimen.fit_image(), *shades] for _, specimen, shades in tiles],
        ["image", *words.concepts[:shown]],
        bold=bold,
        title=f"attention to each word of “{text}”",
    )
    table = format_table(
        f"AUROC (%) of each part of {text!r}, {images} images",
        ("part", "per image", "pooled", "images with its mask"),
        [(r["part"], percent(r["auroc_mean"]), percent(r["auroc_pooled"]), r["images"]) for r in rows],
    )
    figures = {"prompt": text, "images": images, "rows": rows}
    return Study(name="parts", figures=figures, table=table, pictures={"parts.png": picture})
