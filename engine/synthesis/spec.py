"""What to synthesise: every setting that changes the samples, and how many of them."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal

from engine.checks import check_at_least, check_finite

SYNTHESIS_VERSION = 2
"""Raised whenever the code changes the samples it makes for unchanged settings."""


@dataclass(frozen=True, kw_only=True)
class SynthesisSpec:
    """Settings of a synthetic set D′_s (paper, Sec. 4.5).

    Attributes:
        count: samples in all. It may grow later: a sample depends on its index, the other settings and, where it
            begins from an image, the labels.
        guidance: w between the prompts: ε̃ = w ε(y_f) − (w − 1) ε(y_b). 1 follows y_f alone; above, it also pushes away
            from background: at 2 a miniature dog is often none, at 4 most are whole, and at 8 colours are glaring.
        strength: below 1 objects begin from images of the corpus that show the concept, noised to this fraction of the
            way (SDEdit, Meng et al. 2022), and so keep their layout and what else lies about; at 1 from noise alone
            (the paper).
        backgrounds: fraction of the samples that are pure backgrounds, which always begin from noise.
        background_guidance: w of these; 0 follows y_b alone, below 0 also pushes away from the object (paper,
            Sec. F: −1 is guidance of 2 with the prompts swapped).
        seed: a sample's noise derives from (seed, key, "synthesis"), its start from (seed, shard).
        solver: sampler; steps: its steps.
        shard_size: samples per shard, which is the unit of work.
    """

    count: int = 1000
    guidance: float = 4.0
    strength: float = 0.6
    backgrounds: float = 0.2
    background_guidance: float = -1.0
    seed: int = 0
    solver: Literal["ddim", "dpm++"] = "dpm++"
    steps: int = 25
    shard_size: int = 64

    def __post_init__(self) -> None:
        check_at_least(self, 1, "count", "steps", "shard_size")
        check_at_least(self, 0, "seed")
        check_finite(self, "guidance", "background_guidance")
        if not 0 < self.strength <= 1:
            raise ValueError(f"strength is {self.strength}; it must be above 0 and at most 1")
        if not 0 <= self.backgrounds <= 1:
            raise ValueError(f"backgrounds is {self.backgrounds}; it is a fraction between 0 and 1")

    def is_background(self, index: int) -> bool:
        """Whether the sample is a pure background; of any first n samples ⌊n × fraction⌋ are."""
        return self.objects_before(index + 1) == self.objects_before(index)

    def objects_before(self, index: int) -> int:
        """How many of the samples before this one show the object."""
        share = Fraction(str(self.backgrounds))  # as written: 0.29 × 100 in floating point is less than 29
        return index - math.floor(index * share)

    @property
    def begins_from_images(self) -> bool:
        """Whether there are objects, and they begin from images of the corpus."""
        return self.strength < 1 and self.backgrounds < 1

    @property
    def begins_from_noise(self) -> bool:
        """Whether there are samples that begin from noise alone."""
        return self.strength == 1 or self.backgrounds > 0

    def fingerprint_fields(self) -> dict[str, Any]:
        """Everything of this spec that a set's fingerprint covers, as JSON values: all but the count."""
        values = dataclasses.asdict(self)
        del values["count"]
        return {"synthesis.version": SYNTHESIS_VERSION, **{f"synthesis.{name}": v for name, v in values.items()}}


BATCH = 8
"""Samples computed at once. Fixed, because with another number sums are rounded in another order."""


def plan_batches(shard: int, settings: SynthesisSpec) -> list[range]:
    """The indices of a shard's samples, computed batch by batch.

    The last batch is as large as if the set went on, so that its samples stay the same when it does.
    """
    first, end = shard * settings.shard_size, (shard + 1) * settings.shard_size
    stop = min(end, settings.count)
    return [range(start, min(start + BATCH, end)) for start in range(first, stop, BATCH)]


def key_of(index: int) -> str:
    """The key of a sample, unique in its set."""
    return f"{index:08d}"
