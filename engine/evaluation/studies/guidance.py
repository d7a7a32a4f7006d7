"""Samples of m′ over the guidance w between its two prompts, from the same noise (paper, Figs. 8 and 14).

ε̃ = w ε(y_f) − (w − 1) ε(y_b): w = 1 follows the object's prompt, w = 0 the background's. With a feature network, FID
and KID of the samples against the corpus tell what w costs.
"""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import Tensor

from engine import storage
from engine.diffusion.model import LatentDiffusion
from engine.diffusion.noise import draw_noise
from engine.diffusion.sampling import guide, sample
from engine.evaluation.features import Distances, load_features
from engine.evaluation.studies.charts import draw_curves, draw_tiles
from engine.evaluation.studies.material import read_images
from engine.evaluation.studies.study import Study, StudyTask, format_table, rounded

STAGE = "guidance"
STEPS = 25
"""Of DPM-Solver++."""
BATCH = 16


def study_guidance(task: StudyTask) -> Study:
    """A column of samples for each w; with features also as many samples as images of the corpus are compared with."""
    options = task.options
    model = task.models.distilled()
    prompts = (task.origin.spec.prompt, task.origin.spec.background_prompt)
    reference, count = None, options.seeds
    features = None if options.features is None else storage.redact(options.features)
    if options.features is not None:
        network = load_features(options.features, device=task.device)
        reference = Distances(network)
        for image in read_images(task.corpus, options.limit, side=model.resolution):
            reference.add_real(image[None].to(task.device))
        count = max(options.seeds, reference.real)
    columns: list[Tensor] = []
    rows: list[dict[str, Any]] = []
    for weight in options.weights:
        began = time.perf_counter()
        images = draw_samples(model, prompts, weight, count, seed=task.origin.spec.seed)
        columns.append(images[: options.seeds])
        row: dict[str, Any] = {"w": weight, "samples": count}
        if reference:
            row |= rounded(reference.to(images), 6)
        rows.append({**row, "seconds": round(time.perf_counter() - began, 1)})
    tiles = [[_to_array(column[row]) for column in columns] for row in range(options.seeds)]
    names = [f"w = {weight:g}" for weight in options.weights]
    bold = [k for k, weight in enumerate(options.weights) if weight in (0, 1)]
    title = f"m′ between “{prompts[1]}” (w = 0) and “{prompts[0]}” (w = 1); each row from one noise"
    pictures = {"guidance.png": draw_tiles(tiles, names, bold=bold, title=title)}
    if reference:
        pictures["guidance-distance.png"] = _draw_distances(rows, reference.real, features)
    figures = {"solver": "dpm++", "steps": STEPS, "features": features, "rows": rows}
    figures |= {"real_images": reference.real} if reference else {}
    return Study(name="guidance", figures=figures, table=_tabulate(rows, figures), pictures=pictures)


@torch.no_grad()
def draw_samples(model: LatentDiffusion, prompts: tuple[str, str], weight: float, count: int, *, seed: int) -> Tensor:
    """`count` samples [count, 3, H, W] in 0..1 on the CPU; sample i has the same noise whatever the weight."""
    channels, cells = model.unet.config.in_channels, model.latent_size
    foreground, background = model.encode_text(list(prompts)).split(1)
    predict = guide(model, foreground, background, weight)
    images = []
    for indices in torch.arange(count).split(BATCH):
        noise = torch.stack([draw_noise(seed, f"{i:08d}", STAGE, (channels, cells, cells)) for i in indices.tolist()])
        z0 = sample(model, noise.to(model.device), predict, STEPS, solver="dpm++")
        images.append(((model.decode(z0).float().cpu() + 1) / 2).clamp(0, 1))
    return torch.cat(images)


def _to_array(image: Tensor) -> Any:
    return (image * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()


def _draw_distances(rows: list[dict[str, Any]], real: int, features: str | None) -> bytes:
    return draw_curves(
        [row["w"] for row in rows],
        {"FID": [row["fid"] for row in rows], "KID × 1000": [1000 * row["kid"] for row in rows]},
        title=f"distance of samples to the corpus, {real} images each",
        xlabel="guidance w",
        ylabel=f"distance in the feature network {features}",
        logarithmic=True,
    )


def _tabulate(rows: list[dict[str, Any]], figures: dict[str, Any]) -> str:
    title = f"Samples over the guidance w, {figures['steps']} steps of {figures['solver']}"
    if "real_images" not in figures:
        return format_table(title, ("w", "samples"), [(f"{r['w']:g}", r["samples"]) for r in rows])
    note = (
        f"Against {figures['real_images']} images of the corpus, features of {figures['features']}. FID of few images "
        "is too large, and comparable only for equal numbers; KID is unbiased."
    )
    lines = [(f"{r['w']:g}", r["samples"], f"{r['fid']:.2f}", f"{1000 * r['kid']:.2f}") for r in rows]
    return format_table(title, ("w", "samples", "FID", "KID × 1000"), lines, note)
