"""AUROC of M̂ over N, the noise draws per timestep: its mean and spread over seeds (paper, Fig. 11)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from engine.diffusion.prompt import ConceptPrompt
from engine.evaluation.metrics import Auroc
from engine.evaluation.studies.charts import draw_curves
from engine.evaluation.studies.material import Latents, batched, read_specimens
from engine.evaluation.studies.study import Study, StudyTask, format_table, percent, rounded
from engine.labelling.attend import attend


def study_draws(task: StudyTask) -> Study:
    """Every repeat makes n draws of its own; M̂ of N draws is the mean of the first N of them."""
    spec = replace(task.origin.spec, draws=1)
    draws, repeats = task.options.draws, task.options.repeats
    model = task.models.original()
    prompt = ConceptPrompt.parse(model.tokenizer, spec.prompt, [spec.concept])
    aurocs = [[Auroc() for _ in range(draws)] for _ in range(repeats)]
    images = 0
    for batch in batched(read_specimens(task.corpus, [spec.concept], task.options.limit, owner=task.owner)):
        latents = Latents.encode(model, batch)
        for repeat in range(repeats):
            seeds = [spec.seed + repeat * draws + draw for draw in range(draws)]
            specs = [replace(spec, seed=seed) for seed in seeds]
            found = [attend(model, latents.z0, latents.keys, prompt, s, per_timestep=True).maps for s in specs]
            maps = torch.stack([each[:, :, 0].mean(1) for each in found], 1)
            means = maps.cumsum(1) / torch.arange(1, draws + 1, device=maps.device)[:, None, None]
            for specimen, shades in zip(batch, latents.shades(means), strict=True):
                truth = specimen.truth(spec.concept)
                for auroc, shade in zip(aurocs[repeat], shades, strict=True):
                    auroc.update(shade, truth)
        images += len(batch)
    return _report(task, images, np.array([[a.result()["auroc_mean"] for a in row] for row in aurocs]))


def _report(task: StudyTask, images: int, found: np.ndarray) -> Study:
    """found: AUROC of [repeats, N]."""
    concept, (repeats, draws) = task.origin.spec.concept, found.shape
    mean = found.mean(0)
    spread = found.std(0, ddof=1) if repeats > 1 else np.zeros(draws)
    rows = [{"N": n + 1, **rounded({"auroc_mean": mean[n], "deviation": spread[n]}, digits=6)} for n in range(draws)]
    name = f"mean of {repeats} seeds ± standard deviation"
    curve = draw_curves(
        list(range(1, draws + 1)),
        {name: list(mean)},
        title=f"{concept}: AUROC of M̂ over the noise draws ({images} images)",
        xlabel="N: noise draws per timestep",
        ylabel="AUROC, mean over images",
        spread={name: list(spread)},
    )
    table = format_table(
        f"{concept}: AUROC (%) of M̂ over N, {images} images, {repeats} seeds",
        ("N", "mean", "standard deviation"),
        [(row["N"], percent(row["auroc_mean"]), percent(row["deviation"], digits=3)) for row in rows],
        "Time is proportional to N. M̂ is the paper's, before self-attention spreads it.",
    )
    figures = {"images": images, "repeats": repeats, "rows": rows, "by_seed": found.round(5).tolist()}
    return Study(name="draws", figures=figures, table=table, pictures={"draws.png": curve})
