"""The receipt of a fine-tuning: the one marker that m′ is complete and visible."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Any

CONCEPT_SCHEMA_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class ConceptReceipt:
    """What became of one fine-tuning.

    Attributes:
        fingerprint: hash of the run's settings.
        images: of the sample, by what became of them: used, or why not.
        steps: optimizer steps made.
        first_loss, last_loss: mean of the first and of the last tenth of the steps.
        weights: name, size in bytes and SHA-256 of the weights' file.
        seconds: of the worker that finished, from its start.
    """

    fingerprint: str
    images: dict[str, int]
    steps: int
    first_loss: float
    last_loss: float
    weights: dict[str, Any]
    seconds: dict[str, float] = field(default_factory=dict)
    schema_version: int = CONCEPT_SCHEMA_VERSION

    def to_json(self) -> str:
        """The receipt file's text."""
        return json.dumps(dataclasses.asdict(self), indent=2, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str) -> ConceptReceipt:
        """Reads a receipt file; a file that is no receipt raises ValueError."""
        try:
            values = json.loads(text)
            if values["schema_version"] != CONCEPT_SCHEMA_VERSION:
                raise ValueError(f"its schema version is {values['schema_version']}, not {CONCEPT_SCHEMA_VERSION}")
            return cls(**values)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"no receipt of a fine-tuning: {error}; delete it to have that done again") from error
