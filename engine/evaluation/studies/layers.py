"""AUROC of every cross-attention layer's map, of which M̂ is the mean, beside what can be told of it without a mask.

A layer's agreement is the correlation, over an image's cells, of its map with the mean of all others. Where it goes
with the AUROC, the layers that carry the signal can be told without ground truth.
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from engine.diffusion.attention import AttentionCapture
from engine.diffusion.model import LatentDiffusion
from engine.diffusion.prompt import ConceptPrompt
from engine.diffusion.sampling import predict_noise
from engine.evaluation.metrics import Auroc
from engine.evaluation.studies.charts import draw_bars
from engine.evaluation.studies.material import Latents, batched, read_specimens
from engine.evaluation.studies.study import Study, StudyTask, format_table, percent, rounded
from engine.labelling.attend import NoisyLatents
from engine.labelling.spec import LabelSpec

ALL = "mean of all"


@torch.no_grad()
def layer_maps(
    model: LatentDiffusion,
    z0: Tensor,
    keys: list[str],
    prompt: ConceptPrompt,
    spec: LabelSpec,
    *,
    batch_size: int = 64,
) -> dict[str, Tensor]:
    """The mean over T0 timesteps and N draws of each layer's attention to the concept: layer -> [B, h, w].

    Args:
        batch_size: latents per forward pass of the U-Net.
    """
    rows, columns = z0.shape[-2:]
    noisy = NoisyLatents(model, z0, keys, spec, batch_size)
    context = model.encode_text([prompt.text])
    sums: dict[str, Tensor] = {}
    with AttentionCapture(model.unet, prompt.selector, per_layer=True) as capture:
        for chunk in noisy():
            predict_noise(model, chunk.zt, chunk.t, context.expand(len(chunk.zt), -1, -1))
            for name, maps in capture.read_layers(rows, columns).items():
                sums.setdefault(name, torch.zeros(len(z0), rows, columns, device=z0.device))
                sums[name].index_add_(0, chunk.image, maps[:, 0])
    return {name: total / (spec.attention_steps * spec.draws) for name, total in sums.items()}


def agreements(maps: Tensor, valid: Tensor) -> Tensor:
    """Correlation of each map with the mean of the others, over the valid cells.

    Args:
        maps: [L, h, w], one image's.
        valid: [h, w] bool.

    Returns:
        [L], NaN where a map is constant, or the only one.
    """
    cells = maps[:, valid].double()
    others = (cells.sum(0) - cells) / max(1, len(cells) - 1)
    centred, around = (values - values.mean(1, keepdim=True) for values in (cells, others))
    return (centred * around).sum(1) / (centred.norm(dim=1) * around.norm(dim=1))


def shorten(layer: str) -> str:
    """``down_blocks.1.attentions.0.transformer_blocks.0.attn2`` as ``down 1.0.0``, in two lines."""
    numbers = ".".join(re.findall(r"[.](\d+)", layer))
    return f"{layer.partition('_')[0]}\n{numbers}"


def study_layers(task: StudyTask) -> Study:
    """Each layer alone, and the mean of all; before self-attention spreads anything."""
    spec = replace(task.origin.spec, presence_steps=0, distractors=())
    model = task.models.original()
    prompt = ConceptPrompt.parse(model.tokenizer, spec.prompt, [spec.concept])
    aurocs: defaultdict[str, Auroc] = defaultdict(Auroc)
    agreed: list[Tensor] = []
    for batch in batched(read_specimens(task.corpus, [spec.concept], task.options.limit, owner=task.owner)):
        latents = Latents.encode(model, batch)
        found = layer_maps(model, latents.z0, latents.keys, prompt, spec)
        maps = torch.stack([*found.values()], 1)
        agreed += [agreements(own, valid) for own, valid in zip(maps, latents.valid, strict=True)]
        shades = latents.shades(torch.cat([maps, maps.mean(1, keepdim=True)], 1))
        for specimen, own in zip(batch, shades, strict=True):
            truth = specimen.truth(spec.concept)
            for name, shade in zip([*found, ALL], own, strict=True):
                aurocs[name].update(shade, truth)
    agreement = torch.stack(agreed).nanmean(0).tolist()
    rows = [
        {"layer": name, **rounded(auroc.result()), **rounded({"agreement": agreement[place]})}
        for place, (name, auroc) in enumerate(aurocs.items())
        if name != ALL
    ]
    return _report(task, len(agreed), rows, rounded(aurocs[ALL].result()))


def _report(task: StudyTask, images: int, rows: list[dict[str, Any]], mean: dict[str, float | None]) -> Study:
    concept = task.origin.spec.concept
    bars = draw_bars(
        [shorten(row["layer"]) for row in rows],
        {"AUROC": [row["auroc_mean"] for row in rows], "agreement": [row["agreement"] for row in rows]},
        title=f"{concept}: every layer's attention to the concept ({images} images)",
        xlabel="cross-attention layer",
        ylabel="AUROC; correlation",
        baseline=(mean["auroc_mean"] or 0.5, ALL),
    )
    table = format_table(
        f"{concept}: AUROC (%) of every cross-attention layer, {images} images",
        ("layer", "per image", "pooled", "agreement with the others"),
        [
            *(
                (f"`{row['layer']}`", *(percent(row[name]) for name in ("auroc_mean", "auroc_pooled", "agreement")))
                for row in rows
            ),
            (ALL, percent(mean["auroc_mean"]), percent(mean["auroc_pooled"]), "–"),
        ],
    )
    figures = {"images": images, "mean": mean, "rows": rows}
    return Study(name="layers", figures=figures, table=table, pictures={"layers.png": bars})
