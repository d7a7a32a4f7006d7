"""The files of a trained segmenter: weights as safetensors, and what is to be known about them as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any

from engine import storage
from engine.checks import check_at_least
from engine.segmenter.spec import features

WEIGHTS, CONFIG = "model.safetensors", "config.json"


class SegmenterError(ValueError):
    """No usable segmenter; the message says why and what to do."""


@dataclass(frozen=True, kw_only=True)
class SegmenterConfig:
    """What is kept beside the weights.

    Attributes:
        concept: its name; of several, all names.
        concepts: of a segmenter of several, in the order of their classes, from 1 on; empty for one.
        width: channels of the first level.
        short_side: that images are resized to, pixels.
        notes: about the training: settings, counts, metrics, fingerprint.
    """

    concept: str
    width: int
    short_side: int
    concepts: tuple[str, ...] = ()
    notes: dict[str, Any] = field(default_factory=dict)

    @property
    def channels(self) -> int:
        """Of the network: one, or one for the background and for each of several concepts."""
        return len(self.concepts) + 1 if self.concepts else 1

    def to_json(self) -> str:
        """The text of `config.json`."""
        architecture = {"architecture": "monai.networks.nets.BasicUNet", "features": list(features(self.width))}
        values = asdict(self)
        if not self.concepts:
            del values["concepts"]
        return json.dumps({**architecture, **values}, indent=2, sort_keys=True, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes) -> SegmenterConfig:
        """Reads `config.json`; ValueError if it is something else."""
        try:
            values = json.loads(text)
            config = cls(
                concept=str(values["concept"]),
                width=int(values["width"]),
                short_side=int(values["short_side"]),
                concepts=tuple(map(str, values.get("concepts", ()))),
                notes=dict(values["notes"]),
            )
            check_at_least(config, 1, "width", "short_side")
            return config
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise ValueError(f"no configuration of a segmenter: {type(error).__name__}: {error}") from error


def read_files(folder: str) -> tuple[SegmenterConfig, bytes]:
    """Configuration and weights of the segmenter in a folder; SegmenterError if they cannot be read."""
    try:
        config = SegmenterConfig.from_json(storage.read_bytes(storage.join(folder, CONFIG)))
        return config, storage.read_bytes(storage.join(folder, WEIGHTS))
    except (OSError, ValueError) as error:
        raise SegmenterError(
            f"{storage.redact(folder)} holds no segmenter ({error}); give a folder that jobs/train.py wrote"
        ) from error
