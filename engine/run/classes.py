"""Which concepts of a run a segmenter learns, and what that is called in its folder and its fingerprint."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Any

from engine import storage
from engine.run.directory import RunError
from engine.run.names import SEGMENTER, to_folder
from engine.segmenter.spec import SegmenterSpec
from schemas.run import RunManifest


def choose_concepts(
    names: Sequence[str], labelled: RunManifest, spec: SegmenterSpec, run_url: str
) -> tuple[tuple[str, ...], str]:
    """The concepts of a run to be learned, and the folder for them: of several all, unless some are named.

    Raises:
        RunError: a concept that the run has not, or something that there is of one concept only.
    """
    own = str(labelled.fingerprint.get("concept", ""))
    several = tuple(labelled.fingerprint.get("concepts", ()))
    if strange := [name for name in names if name not in (several or (own,))]:
        raise RunError(f"--concept {strange[0]} is not the run's, which is {own}; leave it out")
    if not several:
        return (own,), SEGMENTER
    if spec.synthetic:
        raise RunError(f"{explain_synthetic(run_url, several)}; or leave out --synthetic")
    chosen = tuple(name for name in several if name in names) or several
    if spec.labels == "preliminary" and len(chosen) > 1:
        raise RunError(
            f"preliminary masks of several concepts ({', '.join(chosen)}) overlap; learn from --labels refined, or "
            "name one with --concept"
        )
    folder = "-".join([SEGMENTER, *(to_folder(name) for name in chosen)]) if chosen != several else SEGMENTER
    return chosen, folder


def explain_synthetic(run_url: str, concepts: Sequence[str]) -> str:
    """Why a run of several concepts has no synthetic images, and the way to some."""
    first, *others = map(shlex.quote, concepts)
    options = " ".join(f"--distractor {other}" for other in others)
    return (
        f"synthetic images are of one concept, {storage.redact(run_url)} is a run of several ({', '.join(concepts)}): "
        f"label one of them in a run of its own (jobs/label.py --concept {first} {options} --run ANOTHER, and with "
        "--adapter the fine-tuned model that is there) and give that"
    )


def name_concepts(names: Sequence[str]) -> dict[str, Any]:
    """The concepts as the fingerprint has them: one as ever, of several also the list."""
    return {"concept": ", ".join(names), **({"concepts": list(names)} if len(names) > 1 else {})}
