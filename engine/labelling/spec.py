"""What to label and how: every setting that changes the labels, and none that doesn't."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

METHOD_VERSION = 1
"""Raised whenever the code of the method changes the labels it yields for unchanged settings."""

Stage = Literal["preliminary"]
MixtureRule = Literal["posterior", "midpoint"]


@dataclass(frozen=True, kw_only=True)
class LabelSpec:
    """Settings of the labelling of one concept.

    Attributes:
        concept: the word or phrase whose pixels are wanted, for example ``fire truck``.
        prompt: the conditioning text y_f; must contain the concept.
        stage: how far down the method to go.
        timesteps: T, number of steps of the sampler's schedule.
        attention_steps: T0, how many of the T timesteps, lowest noise first, enter the mean attention map.
        draws: N, noise draws per timestep.
        seed: seed of the run; a sample's noise derives from (seed, key, stage).
        mixture_rule: where the mixture's threshold lies.
    """

    concept: str
    prompt: str
    stage: Stage = "preliminary"
    timesteps: int = 50
    attention_steps: int = 40
    draws: int = 1
    seed: int = 0
    mixture_rule: MixtureRule = "posterior"

    def __post_init__(self) -> None:
        if not self.concept.strip():
            raise ValueError("the concept is empty; give a word or phrase, for example --concept car")
        if self.timesteps < 1:
            raise ValueError(f"timesteps is {self.timesteps}; it must be at least 1")
        if not 1 <= self.attention_steps <= self.timesteps:
            raise ValueError(
                f"attention_steps is {self.attention_steps}; it must be between 1 and timesteps ({self.timesteps})"
            )
        if self.draws < 1:
            raise ValueError(f"draws is {self.draws}; it must be at least 1")

    def fingerprint_fields(self) -> dict[str, Any]:
        """Everything of this spec that a run's fingerprint covers, as JSON values."""
        return {"method_version": METHOD_VERSION, **dataclasses.asdict(self)}
