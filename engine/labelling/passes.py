"""How many passes of the U-Net an image takes."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from engine.labelling.attend import spread_evenly
from engine.labelling.spec import LabelSpec


@dataclass(frozen=True, kw_only=True)
class Passes:
    """Passes of the U-Net that one image takes, for the attention and for the inpainting."""

    attention: int
    inpainting: int

    @classmethod
    def of(cls, spec: LabelSpec) -> Passes:
        """As the labeller makes them."""
        steps = spec.attention_steps
        told = spread_evenly(spec.presence_steps, steps)
        again = told | (torch.arange(steps) < spec.propagation_steps)
        settings = spec.refinement
        contexts = 1 if settings.guidance in (0, 1) else 2
        return cls(
            attention=spec.draws * (steps + int(again.sum()) + int(told.sum()) * (1 + len(spec.distractors))),
            inpainting=settings.inpaint_steps * settings.inpaintings * contexts,
        )
