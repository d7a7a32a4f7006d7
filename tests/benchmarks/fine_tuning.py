"""What the benchmarks do with models: label images as a worker does, and fine-tune m to m′. Without Ray and runs."""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from engine.corpus import Sample, list_shards, open_lease, plan_leases
from engine.corpus.decode import decode_image
from engine.diffusion.model import find_model, hash_weights, load_model
from engine.distillation.distil import distil
from engine.distillation.examples import encode_examples
from engine.distillation.pictures import draw_progress
from engine.distillation.spec import DistillationSpec
from engine.labelling.label import USELESS, Label
from engine.labelling.labeller import Labeller
from engine.labelling.spec import LabelSpec
from engine.miniature import corpus_url

BATCH = 8


def label(labeller: Labeller, images: list[np.ndarray], prefix: str) -> tuple[list[Label], float]:
    """Labels in batches, and the CPU seconds it took: in one thread, what else the machine does counts for nothing."""
    began = time.process_time()
    labels: list[Label] = []
    for start in range(0, len(images), BATCH):
        part = images[start : start + BATCH]
        labels += labeller(part, [f"{prefix}{start + k:06d}" for k in range(len(part))])
    return labels, time.process_time() - began


def read_corpus(concept: str) -> list[np.ndarray]:
    leases = plan_leases(list_shards(corpus_url(concept)))
    return [decode_image(item.image) for lease in leases for item in open_lease(lease) if isinstance(item, Sample)]


def fine_tuned(concept: str, settings: DistillationSpec, spec: LabelSpec, arguments: argparse.Namespace) -> bytes:
    """m′ of the bundled corpus; made once for these steps and this model if there is a folder to keep it in."""
    if not arguments.weights:
        return fine_tune(read_corpus(concept), settings, spec, arguments.model, arguments.pictures)
    model = hash_weights(find_model(arguments.model))[:12]
    kept = arguments.weights / f"{concept}-{settings.steps}-{model}.safetensors"
    if not kept.exists():
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_bytes(fine_tune(read_corpus(concept), settings, spec, arguments.model, arguments.pictures))
    return kept.read_bytes()


def fine_tune(
    images: list[np.ndarray], settings: DistillationSpec, spec: LabelSpec, model_folder: str, pictures: Path
) -> bytes:
    """m′ of these images, fine-tuned now; what it paints in the end is kept among the pictures."""
    model = load_model(find_model(model_folder))
    labels, _ = label(Labeller(model, replace(spec, stage="preliminary")), images, "")
    good = [(i, x.preliminary_mask) for i, x in zip(images, labels, strict=True) if not USELESS & set(x.flags)]
    examples = encode_examples(model, good, flip=settings.flip)
    prompts = (spec.prompt, spec.background_prompt)

    def draw(step: int, losses: list[float], tuned: Any) -> None:
        pictures.mkdir(parents=True, exist_ok=True)
        draw_progress(tuned, examples, prompts, seed=0).save(pictures / f"{spec.concept}.png")

    with tempfile.TemporaryDirectory() as folder:
        tuned, _ = distil(
            model,
            examples,
            prompts,
            settings,
            seed=0,
            checkpoint=f"{folder}/checkpoint.safetensors",
            checkpoint_every=settings.steps,
            on_checkpoint=draw,
        )
    return tuned.pack(rank=settings.rank, notes={})
