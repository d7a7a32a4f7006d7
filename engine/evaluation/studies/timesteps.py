"""AUROC of M̂ over T0, how many of the T timesteps it is the mean of (paper, Fig. 3)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from engine.diffusion.prompt import ConceptPrompt
from engine.diffusion.schedule import sampler_timesteps
from engine.evaluation.metrics import Auroc
from engine.evaluation.studies.charts import draw_curves
from engine.evaluation.studies.material import Latents, batched, read_specimens
from engine.evaluation.studies.study import Study, StudyTask, format_table, percent, rounded
from engine.labelling.attend import attend


def study_timesteps(task: StudyTask) -> Study:
    """One pass over all T timesteps gives M̂ of every T0: the running mean, least noise first."""
    spec = task.origin.spec
    steps = task.options.timesteps or spec.timesteps
    spec = replace(spec, timesteps=steps, attention_steps=steps)
    model = task.models.original()
    prompt = ConceptPrompt.parse(model.tokenizer, spec.prompt, [spec.concept])
    aurocs = [Auroc() for _ in range(steps)]
    alone = [Auroc() for _ in range(steps)]
    images = 0
    for batch in batched(read_specimens(task.corpus, [spec.concept], task.options.limit, owner=task.owner)):
        latents = Latents.encode(model, batch)
        maps = attend(model, latents.z0, latents.keys, prompt, spec, per_timestep=True).maps[:, :, 0]
        means = maps.cumsum(1) / torch.arange(1, steps + 1, device=maps.device)[:, None, None]
        for specimen, shades, single in zip(batch, latents.shades(means), latents.shades(maps), strict=True):
            truth = specimen.truth(spec.concept)
            for k in range(steps):
                aurocs[k].update(shades[k], truth)
                alone[k].update(single[k], truth)
        images += len(batch)
    return _report(task, images, sampler_timesteps(model.scheduler, steps)[::-1], aurocs, alone)


def _report(task: StudyTask, images: int, timesteps: list[int], aurocs: list[Auroc], alone: list[Auroc]) -> Study:
    concept, own = task.origin.spec.concept, task.origin.spec
    rows: list[dict[str, Any]] = [
        {"T0": k + 1, "t": t, **rounded(mean.result()), "single_auroc_mean": rounded(one.result())["auroc_mean"]}
        for k, (t, mean, one) in enumerate(zip(timesteps, aurocs, alone, strict=True))
    ]
    best = max(rows, key=lambda row: row["auroc_mean"] or 0)
    curves = {
        "M̂ of T₀ timesteps, mean over images": [row["auroc_mean"] for row in rows],
        "M̂ of T₀ timesteps, pixels pooled": [row["auroc_pooled"] for row in rows],
        "the T₀-th timestep alone, mean over images": [row["single_auroc_mean"] for row in rows],
    }
    curve = draw_curves(
        [row["T0"] for row in rows],
        curves,
        title=f"{concept}: AUROC of M̂ over the timesteps it averages ({images} images)",
        xlabel=f"T₀: timesteps averaged, least noise first, of T = {len(rows)}",
        ylabel="AUROC",
        mark=(own.attention_steps, "the run's T₀") if own.timesteps == len(rows) else None,
    )
    table = format_table(
        f"{concept}: AUROC (%) of M̂ over T0, {images} images",
        ("T0", "t of the last", "per image", "pooled", "this t alone"),
        [
            (r["T0"], r["t"], *(percent(r[k]) for k in ("auroc_mean", "auroc_pooled", "single_auroc_mean")))
            for r in rows
        ],
        f"Best per image: T0 = {best['T0']}. M̂ is the paper's, before self-attention spreads it.",
    )
    figures = {"images": images, "timesteps": len(rows), "best_T0": best["T0"], "rows": rows}
    return Study(name="timesteps", figures=figures, table=table, pictures={"timesteps.png": curve})
