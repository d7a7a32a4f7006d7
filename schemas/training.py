"""The receipt of a training: the one marker that its weights are complete and visible."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Any

TRAINING_SCHEMA_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class TrainingReceipt:
    """What became of one training: the fine-tuning of m to m′, or that of a segmenter.

    Attributes:
        fingerprint: hash of its settings.
        images: it was to learn from, by what became of them: used, or why not.
        steps: optimizer steps made.
        first_loss, last_loss: mean of the first and of the last tenth of the steps.
        weights: name, size in bytes and SHA-256 of the weights' file.
        seconds: of the worker that finished, from its start.
        limit: of the run that m′ was made for: it learned from images among its first ones.
    """

    fingerprint: str
    images: dict[str, int]
    steps: int
    first_loss: float
    last_loss: float
    weights: dict[str, Any]
    seconds: dict[str, float] = field(default_factory=dict)
    limit: int | None = None
    schema_version: int = TRAINING_SCHEMA_VERSION

    @property
    def quarantined(self) -> float:
        """Fraction of the images that were in quarantine."""
        return self.images.get("quarantined", 0) / max(1, sum(self.images.values()))

    def to_json(self) -> str:
        """The receipt file's text."""
        return json.dumps(dataclasses.asdict(self), indent=2, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str) -> TrainingReceipt:
        """Reads a receipt file; a file that is no receipt raises ValueError."""
        try:
            values = json.loads(text)
            if values["schema_version"] != TRAINING_SCHEMA_VERSION:
                raise ValueError(f"its schema version is {values['schema_version']}, not {TRAINING_SCHEMA_VERSION}")
            return cls(**values)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"no receipt of a training: {error}; delete it to have that done again") from error
