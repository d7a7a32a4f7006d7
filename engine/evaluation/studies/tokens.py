"""AUROC of the attention to every token of the prompt, the concept's and all others (paper, Fig. 12)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from engine.diffusion.prompt import ConceptPrompt, locate_concept, one_hot
from engine.evaluation.metrics import Auroc
from engine.evaluation.studies.charts import draw_bars
from engine.evaluation.studies.material import Latents, batched, read_specimens
from engine.evaluation.studies.study import Study, StudyTask, format_table, percent, rounded
from engine.labelling.attend import attend


def split_prompt(tokenizer: PreTrainedTokenizerBase, text: str) -> ConceptPrompt:
    """A prompt every token of which is a concept of its own, start and end of text among them."""
    length = tokenizer.model_max_length
    ids = tokenizer(text, truncation=True, max_length=length).input_ids
    ends = {tokenizer.bos_token: "[start]", tokenizer.eos_token: "[end]"}
    names = [ends.get(token, str(token).removesuffix("</w>")) for token in tokenizer.convert_ids_to_tokens(ids)]
    selector = torch.stack([one_hot([position], length) for position in range(len(ids))])
    return ConceptPrompt(text=text, concepts=tuple(names), selector=selector)


def study_tokens(task: StudyTask) -> Study:
    """M̂ of each token, and after self-attention has spread it where the run's settings say so."""
    spec = replace(task.origin.spec, presence_steps=0, distractors=())
    model = task.models.original()
    prompt = split_prompt(model.tokenizer, spec.prompt)
    own = locate_concept(model.tokenizer, spec.prompt, spec.concept)
    kinds = ("plain", "propagated") if spec.propagation_steps else ("plain",)
    aurocs = {kind: [Auroc() for _ in prompt.concepts] for kind in kinds}
    images = 0
    for batch in batched(read_specimens(task.corpus, [spec.concept], task.options.limit, owner=task.owner)):
        latents = Latents.encode(model, batch)
        maps = {"plain": attend(model, latents.z0, latents.keys, prompt, spec, per_timestep=True).maps.mean(1)}
        if "propagated" in kinds:
            found = attend(model, latents.z0, latents.keys, prompt, spec, valid=latents.valid)
            maps["propagated"] = found.maps
        for kind in kinds:
            for specimen, shades in zip(batch, latents.shades(maps[kind]), strict=True):
                truth = specimen.truth(spec.concept)
                for auroc, shade in zip(aurocs[kind], shades, strict=True):
                    auroc.update(shade, truth)
        images += len(batch)
    return _report(task, images, prompt, own, aurocs)


def _report(
    task: StudyTask, images: int, prompt: ConceptPrompt, own: list[int], aurocs: dict[str, list[Auroc]]
) -> Study:
    concept = task.origin.spec.concept
    rows: list[dict[str, Any]] = [
        {
            "position": position,
            "token": token,
            "concept": position in own,
            **{kind: rounded(found[position].result()) for kind, found in aurocs.items()},
        }
        for position, token in enumerate(prompt.concepts)
    ]
    names = {"plain": "M̂", "propagated": "M̂ after propagation"}
    best = max(rows, key=lambda row: row["plain"]["auroc_mean"] or 0)
    bars = draw_bars(
        list(prompt.concepts),
        {names[kind]: [row[kind]["auroc_mean"] for row in rows] for kind in aurocs},
        title=f"{concept}: AUROC of the attention to each token ({images} images)",
        xlabel="token of the prompt",
        ylabel="AUROC, mean over images",
        bold=own,
        baseline=(0.5, "chance"),
    )
    table = format_table(
        f"{concept}: AUROC (%) of every token of {prompt.text!r}, {images} images",
        ("token", *(f"{names[kind]}, {how}" for kind in aurocs for how in ("per image", "pooled"))),
        [
            (
                f"**{row['token']}**" if row["concept"] else f"`{row['token']}`",
                *(percent(row[kind][f"auroc_{how}"]) for kind in aurocs for how in ("mean", "pooled")),
            )
            for row in rows
        ],
        f"Best token: {best['token']}.",
    )
    figures = {"images": images, "best": best["token"], "rows": rows}
    return Study(name="tokens", figures=figures, table=table, pictures={"tokens.png": bars})
