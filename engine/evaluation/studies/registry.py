"""The studies by name, and doing one of them."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

from engine import storage
from engine.evaluation.studies.ablation import study_ablation
from engine.evaluation.studies.draws import study_draws
from engine.evaluation.studies.guidance import study_guidance
from engine.evaluation.studies.layers import study_layers
from engine.evaluation.studies.parts import study_parts
from engine.evaluation.studies.study import Study, StudyTask
from engine.evaluation.studies.timesteps import study_timesteps
from engine.evaluation.studies.tokens import study_tokens

STUDIES: dict[str, Callable[[StudyTask], Study]] = {
    "timesteps": study_timesteps,
    "tokens": study_tokens,
    "layers": study_layers,
    "draws": study_draws,
    "guidance": study_guidance,
    "parts": study_parts,
    "ablation": study_ablation,
}


def run_study(name: str, task: StudyTask) -> Study:
    """Do a study; its figures also name the run's settings, the corpus and the seconds it took.

    Raises:
        ValueError: the corpus or the model cannot serve it; the message says why and what to do.
    """
    began = time.perf_counter()
    study = STUDIES[name](task)
    origin = task.origin
    head = {
        "study": name,
        "concept": origin.spec.concept,
        "prompt": origin.spec.prompt,
        "model": origin.source.model,
        "revision": origin.source.revision,
        "run_fingerprint": origin.fingerprint,
        "corpus": storage.redact(task.corpus),
        "labels": origin.spec.fingerprint_fields(),
        "device": task.device,
        "seconds": round(time.perf_counter() - began, 1),
    }
    return replace(study, figures={**head, **study.figures})
