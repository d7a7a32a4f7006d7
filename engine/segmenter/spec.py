"""How to train a segmenter: every setting that changes its weights, and none that doesn't."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

from engine.checks import check_at_least
from engine.labelling.label import USELESS, check_flags

SEGMENTER_VERSION = 6
"""Raised whenever the code trains to other weights for unchanged settings."""
PRELIMINARY_VERSION = 7
"""Likewise, on preliminary masks."""

Labels = Literal["refined", "preliminary", "truth"]

MULTIPLE = 16
"""Sides that the U-Net can take are multiples of this: it halves an image four times."""
SMALLEST = 32
"""Its lowest level must have more than one cell: instance norm has nothing to norm in a single one."""


@dataclass(frozen=True, kw_only=True)
class SegmenterSpec:
    """Settings of the training of a U-Net (the paper's, unless said otherwise).

    Attributes:
        labels: what the U-Net is shown: M, M_pre, or the corpus's own masks (the supervised comparison).
        synthetic: learn from the synthetic images and their M, too.
        steps: optimizer steps.
        batch_size: crops per step, over all workers.
        crop: side of the random square crops, pixels.
        short_side: of the images, which are resized to it, pixels.
        width: channels of the first level; those below have 1, 2, 4, 8 times as many.
        learning_rate: peak of Adam's, after `warmup` steps; it then falls to a hundredth along a half cosine.
        ema_decay: of the moving average of the weights, which is what is kept; 0 keeps the last weights (the paper).
        scale: crops are windows of ``crop / scale`` to ``crop * scale`` pixels, no larger than the image, brought to
            the crop's size; at 1 all windows have that size.
        flip: mirror half of the crops.
        seed: of first weights, order and crops.
        min_quality: labels of smaller quality are left out.
        drop_flags: labels with one of these flags are left out.
        review: hash of the decisions of a person, "" without any; they overrule quality and flags.
        precision: of the forward pass; GPUs and CPUs that do not compute bfloat16 in hardware take float32.
    """

    labels: Labels = "refined"
    synthetic: bool = False
    steps: int = 12_000
    batch_size: int = 32
    crop: int = 128
    short_side: int = 128
    width: int = 32
    learning_rate: float = 1e-3
    warmup: int = 100
    ema_decay: float = 0.99
    scale: float = 1.0
    flip: bool = True
    seed: int = 0
    min_quality: float = 0.0
    drop_flags: tuple[str, ...] = tuple(sorted(USELESS))
    review: str = ""
    precision: Literal["float32", "bfloat16"] = "bfloat16"

    def __post_init__(self) -> None:
        check_at_least(self, 1, "steps", "batch_size", "width")
        check_at_least(self, 0, "warmup", "seed", "learning_rate")
        check_at_least(self, SMALLEST, "crop")
        check_at_least(self, self.crop, "short_side")
        if self.crop % MULTIPLE:
            raise ValueError(f"crop is {self.crop}; it must be a multiple of {MULTIPLE}")
        for name in ("min_quality", "ema_decay"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be between 0 and 1")
        check_flags(self.drop_flags)
        if not 1 <= self.scale <= 4:
            raise ValueError(f"scale is {self.scale}; it must be between 1 and 4")
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate is {self.learning_rate}; it must be positive")

    def describe(self) -> str:
        """What will be done, for a person: ``7 steps of 32 crops of 128 x 128, width 32``."""
        return f"{self.steps} steps of {self.batch_size} crops of {self.crop} x {self.crop}, width {self.width}"

    def fingerprint_fields(self) -> dict[str, Any]:
        """Everything of this spec that a training's fingerprint covers, as JSON values."""
        values = {**dataclasses.asdict(self), "drop_flags": sorted(self.drop_flags)}
        version = PRELIMINARY_VERSION if self.labels == "preliminary" else SEGMENTER_VERSION
        return {"segmenter.version": version, **{f"segmenter.{name}": v for name, v in values.items()}}


def features(width: int) -> tuple[int, ...]:
    """Channels of the U-Net's five levels going down, and of the last one."""
    return width, width, 2 * width, 4 * width, 8 * width, width
