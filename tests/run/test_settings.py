"""A run's settings come back from its directory as they went in."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from engine.labelling.spec import LabelSpec, RefinementSpec
from engine.run.directory import RunError
from engine.run.settings import read_settings
from schemas.run import RunManifest

SPEC = LabelSpec(
    concept="car",
    prompt="a photo of a car on a road",
    timesteps=9,
    attention_steps=7,
    draws=2,
    presence_threshold=-0.5,
    seed=4,
    refinement=RefinementSpec(solver="dpm++", inpaint_steps=3, colour="rgb", fill_holes=False, component_heat=0.25),
)
CONFIG = {"model": {"model": "miniature", "revision": None}, "where": {"input": "tars/*.tar"}}


def write(run: Path, spec: LabelSpec = SPEC, config: dict = CONFIG, **fields: object) -> RunManifest:
    manifest = RunManifest(fingerprint={**spec.fingerprint_fields(), "model_weights": "x", **fields}, config=config)
    run.mkdir(exist_ok=True)
    (run / "run.json").write_text(manifest.to_json())
    return manifest


def test_the_spec_is_that_of_the_fingerprint(tmp_path: Path) -> None:
    manifest = write(tmp_path / "run")
    found = read_settings(str(tmp_path / "run"))
    assert found.spec == SPEC
    assert (found.source.model, found.source.revision, found.input) == ("miniature", None, "tars/*.tar")
    assert found.fingerprint == manifest.hash
    assert found.weights is None


def test_the_bundled_corpus_is_that_of_the_concept(tmp_path: Path) -> None:
    write(tmp_path / "run", config={**CONFIG, "where": {"input": "miniature"}})
    assert str(read_settings(str(tmp_path / "run")).input).endswith("corpus/car")


def test_a_finished_fine_tuning_gives_the_weights(tmp_path: Path) -> None:
    from schemas.training import TrainingReceipt

    manifest = write(tmp_path / "run", **{"distillation.method": "lora"})
    values = {field.name: {} for field in dataclasses.fields(TrainingReceipt) if field.name in ("images", "seconds")}
    receipt = TrainingReceipt(
        **values, fingerprint=manifest.hash, steps=1, first_loss=1.0, last_loss=1.0, weights={"name": "w"}
    )
    (tmp_path / "run" / "concept").mkdir()
    (tmp_path / "run" / "concept" / "receipt.json").write_text(receipt.to_json())
    assert read_settings(str(tmp_path / "run")).weights == str(tmp_path / "run" / "concept" / "weights.safetensors")


def test_another_version_of_the_method_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "run", method_version=1)
    with pytest.raises(RunError, match="version 1 of the method"):
        read_settings(str(tmp_path / "run"))


def test_what_is_no_run_is_said_to_be_none(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"there is no .*run\.json; run jobs/label\.py"):
        read_settings(str(tmp_path))
    (tmp_path / "run.json").write_text(json.dumps({"hash": "0"}))
    with pytest.raises(RunError, match="not a run manifest"):
        read_settings(str(tmp_path))
    write(tmp_path, config={})
    with pytest.raises(RunError, match="does not name the model"):
        read_settings(str(tmp_path))


def test_a_model_with_other_weights_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "run", dataclasses.replace(SPEC, prompt="a photo of a car"))
    with pytest.raises(RunError, match="was made with x"):
        read_settings(str(tmp_path / "run")).load(device="cpu")
