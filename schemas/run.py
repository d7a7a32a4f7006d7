"""The manifest of a run (`run.json`): the settings, the fingerprint of what shapes the labels, versions."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from typing import Any, Literal

RUN_SCHEMA_VERSION = 1

Kind = Literal["labels", "synthetic images", "predictions", "a segmenter"]

MAKERS: dict[Kind, str] = {
    "labels": "jobs/label.py",
    "synthetic images": "jobs/synthesize.py",
    "predictions": "jobs/predict.py",
    "a segmenter": "jobs/train.py",
}
"""Which job makes what."""


@dataclass(frozen=True, kw_only=True)
class RunManifest:
    """Written once when a run starts and compared whenever it goes on.

    Attributes:
        fingerprint: every setting that changes the labels, by name; not paths, batch size, workers.
        config: the settings as given, for a reader; not compared.
        versions: of the packages in use when the run started, for a reader; not compared.
        created: start of the run, ISO 8601 with time zone.
    """

    fingerprint: dict[str, Any]
    config: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    created: str = ""
    schema_version: int = RUN_SCHEMA_VERSION

    @property
    def hash(self) -> str:
        """16 hex digits over the fingerprint's fields."""
        text = json.dumps(self.fingerprint, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def kind(self) -> Kind:
        """What the run makes: labels of a corpus, images with their labels, labels by a segmenter, or a segmenter."""
        if "synthesis.version" in self.fingerprint:
            return "synthetic images"
        if "segmenter.version" in self.fingerprint:
            return "a segmenter"
        return "predictions" if "segmenter_weights" in self.fingerprint else "labels"

    @property
    def holds(self) -> str:
        """That and its maker, for a person: ``labels of jobs/label.py``."""
        return f"{self.kind} of {MAKERS[self.kind]}"

    def differences(self, other: RunManifest) -> list[str]:
        """Each fingerprint field that differs, as ``name: value here -> value in other``, sorted by name."""
        names = sorted(self.fingerprint.keys() | other.fingerprint.keys())
        missing = object()
        lines = []
        for name in names:
            ours = self.fingerprint.get(name, missing)
            theirs = other.fingerprint.get(name, missing)
            if ours != theirs:
                here, there = ("(none)" if value is missing else _show(value) for value in (ours, theirs))
                lines.append(f"{name}: {here} -> {there}")
        return lines

    def to_json(self) -> str:
        """The text of `run.json`."""
        values = {**dataclasses.asdict(self), "hash": self.hash}
        return json.dumps(values, indent=2, sort_keys=True, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes) -> RunManifest:
        """Reads `run.json`; raises ValueError when it is something else or was edited."""
        try:
            values = dict(json.loads(text))
            stored = values.pop("hash")
            version = values.get("schema_version")
            if version != RUN_SCHEMA_VERSION:
                raise ValueError(f"its schema version is {version}, this program reads {RUN_SCHEMA_VERSION}")
            manifest = cls(**values)
            if not isinstance(manifest.fingerprint, dict) or not isinstance(manifest.config, dict):
                raise ValueError("its fingerprint or config is no object")
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            raise ValueError(f"not a run manifest: {error}") from error
        if manifest.hash != stored:
            raise ValueError(f"not a run manifest: its hash is {stored}, its fields give {manifest.hash}")
        return manifest


def _show(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False) if not isinstance(value, str) else value
