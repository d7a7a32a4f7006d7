"""A run of the miniature, as little as a study needs of one, and a few scenes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from engine.distillation.weights import ConceptModel
from engine.evaluation.studies.study import StudyOptions, StudyTask
from engine.labelling.spec import LabelSpec
from engine.miniature.corpus import write_corpus
from engine.run.origin import Origin, find_origin
from engine.run.source import ModelSource
from schemas.run import RunManifest

SPEC = LabelSpec(
    concept="human", prompt="a photo of a human", timesteps=4, attention_steps=3, propagation_steps=0, presence_steps=0
)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three scenes with a human, in two shards."""
    folder = tmp_path_factory.mktemp("scenes")
    list(write_corpus(folder, count=3, seed=3, concept="human", shard_size=2))
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, corpus: Path) -> Path:
    folder = tmp_path_factory.mktemp("run")
    source = ModelSource(model="miniature")
    fields = {**SPEC.fingerprint_fields(), **source.check(SPEC), "distillation.method": "none"}
    manifest = RunManifest(
        fingerprint=fields, config={"model": {"model": "miniature", "revision": None}, "input_url": str(corpus)}
    )
    (folder / "run.json").write_text(manifest.to_json())
    return folder


@pytest.fixture(scope="module")
def origin(run: Path) -> Origin:
    return find_origin(str(run))


@pytest.fixture(scope="module")
def models(origin: Origin) -> ConceptModel:
    return origin.load(device="cpu")


@pytest.fixture
def make_task(origin: Origin, models: ConceptModel, corpus: Path, tmp_path: Path) -> Callable[..., StudyTask]:
    """A study with these options; all share one loaded model."""

    def make(corpus: Path = corpus, **options: object) -> StudyTask:
        task = StudyTask(
            origin=origin,
            corpus=str(corpus),
            output=str(tmp_path / "studies"),
            options=StudyOptions(**options),  # type: ignore[arg-type]
        )
        vars(task)["models"] = models
        return task

    return make
