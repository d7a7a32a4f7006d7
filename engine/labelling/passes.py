"""How many passes of the U-Net an image takes."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from engine.labelling.attend import spread_evenly
from engine.labelling.spec import LabelSpec, SeveralSpec


@dataclass(frozen=True, kw_only=True)
class Passes:
    """Passes of the U-Net that one image takes, of all concepts: for the attention and for the inpainting."""

    attention: int
    inpainting: int

    @classmethod
    def of(cls, spec: LabelSpec | SeveralSpec) -> Passes:
        """As the labeller makes them."""
        shared, concepts = spec.specs[0], len(spec.specs)
        steps = shared.attention_steps
        told = spread_evenly(shared.presence_steps, steps)
        again = told | (torch.arange(steps) < shared.propagation_steps)
        settings = shared.refinement
        contexts = 1 if settings.guidance in (0, 1) else 2
        texts = len({own.prompt for own in spec.specs})  # words of one prompt are looked for at once
        looks = texts * steps + int(again.sum()) + int(told.sum()) * (1 + len(shared.distractors))
        return cls(
            attention=shared.draws * looks,
            inpainting=concepts * settings.inpaint_steps * settings.inpaintings * contexts,
        )
