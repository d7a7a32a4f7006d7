"""How to fine-tune: every setting that changes m′, and none that doesn't."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Literal

from engine.checks import check_at_least

Method = Literal["lora", "full", "none"]
LEARNING_RATES: dict[Method, float] = {"lora": 1e-3, "full": 1e-4, "none": 1e-4}
"""The paper's for full fine-tuning; adapters, which start at zero and are few, need more."""


@dataclass(frozen=True, kw_only=True)
class DistillationSpec:
    """Settings of the fine-tuning m → m′ (paper, Sec. 3.2).

    Attributes:
        method: low-rank adapters on a frozen U-Net, all of the U-Net's weights (the paper), or none: m refines.
        steps: optimizer steps.
        batch_size: examples per step, over all devices and accumulated parts.
        sample: images of the corpus to learn from: the first ones of shards that are spread evenly over it.
        learning_rate: peak, after `warmup` steps; it then falls to a hundredth along a half cosine.
        ema_decay: of the moving average of the weights, which is what becomes m′.
        rank: of the adapters.
        synthesis: probability p of full-image synthesis under y_f; else background inpainting under y_b.
        flip: learn from mirror images too.
        precision: of the U-Net's forward pass.
    """

    method: Method = "lora"
    steps: int = 300
    batch_size: int = 16
    sample: int = 1000
    learning_rate: float | None = None
    warmup: int = 50
    ema_decay: float = 0.99
    rank: int = 16
    synthesis: float = 0.5
    flip: bool = True
    precision: Literal["float32", "bfloat16"] = "float32"

    def __post_init__(self) -> None:
        check_at_least(self, 1, "steps", "batch_size", "sample", "rank")
        check_at_least(self, 0, "warmup")
        for name in ("synthesis", "ema_decay"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be between 0 and 1")
        if not 0 < self.peak_rate < math.inf:
            raise ValueError(f"learning_rate is {self.learning_rate}; it must be positive and finite")

    @property
    def peak_rate(self) -> float:
        return LEARNING_RATES[self.method] if self.learning_rate is None else self.learning_rate

    def fingerprint_fields(self) -> dict[str, Any]:
        """Everything of this spec that a run's fingerprint covers, as JSON values."""
        if self.method == "none":
            return {"distillation.method": "none"}
        values = {**dataclasses.asdict(self), "learning_rate": self.peak_rate}
        return {f"distillation.{name}": value for name, value in values.items()}
