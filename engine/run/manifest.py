"""The manifest of something that begins now: its fingerprint, its settings, and the versions in use."""

from __future__ import annotations

import platform
from datetime import datetime, timezone
from importlib import metadata
from typing import Any

from engine.run.directory import redact_config
from schemas.run import RunManifest


def make_manifest(fields: dict[str, Any], config: dict[str, Any] | None) -> RunManifest:
    """A run.json to be: `fields` are its fingerprint, `config` is for a reader."""
    return RunManifest(
        fingerprint=fields,
        config=redact_config(config or {}),
        versions=_versions(),
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
    )


def _versions() -> dict[str, str]:
    """Of what shapes the results, for the reader of `run.json`."""
    versions = {"python": platform.python_version()}
    for name in ("maskmine", "torch", "diffusers", "transformers", "ray", "pyarrow", "pillow", "numpy"):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions
