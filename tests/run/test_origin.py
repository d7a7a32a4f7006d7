from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
from pathlib import Path

import pytest

from engine import storage
from engine.distillation.notes import write_notes
from engine.distillation.spec import DistillationSpec
from engine.labelling.spec import METHOD_VERSION, LabelSpec, RefinementSpec
from engine.run.command import parse_options
from engine.run.directory import RunError, find_moved, start_run
from engine.run.fake import FakeSource
from engine.run.labelling import Label, make_plan
from engine.run.origin import find_origin
from engine.run.plan import plan_labelling
from engine.run.source import ModelSource
from schemas.run import RunManifest
from schemas.training import TrainingReceipt
from tests.corpus.hostile import make_corpus_tar
from tests.run.origins import SPEC, start_origin


def finish_concept(run: str, fingerprint: str) -> None:
    weights = {"name": "weights.safetensors", "bytes": 3, "sha256": hashlib.sha256(b"m'").hexdigest()}
    receipt = TrainingReceipt(
        fingerprint=fingerprint, images={}, steps=1, first_loss=1.0, last_loss=1.0, weights=weights
    )
    storage.atomic_put(receipt.to_json().encode(), storage.join(run, "concept", "receipt.json"))


def test_a_spec_is_found_again_from_its_fingerprint_whatever_its_settings() -> None:
    spec = LabelSpec(
        concept="fire truck",
        prompt="one fire truck",
        background_prompt="nothing",
        stage="refined",
        draws=3,
        presence_threshold=0.25,
        refinement=RefinementSpec(solver="dpm++", guidance=-1.5, fill_holes=False, colour="rgb"),
    )
    fields = json.loads(json.dumps(spec.fingerprint_fields()))
    assert LabelSpec.from_fingerprint(fields) == spec
    preliminary = dataclasses.replace(spec, stage="preliminary")
    assert LabelSpec.from_fingerprint(fields, stage="preliminary") == preliminary


def test_fields_of_another_method_or_without_a_setting_are_refused() -> None:
    fields = SPEC.fingerprint_fields()
    with pytest.raises(ValueError, match=f"of version 1 of the method, this program's of {METHOD_VERSION}"):
        LabelSpec.from_fingerprint({**fields, "method_version": 1})
    del fields["refinement.solver"]
    with pytest.raises(ValueError, match=r"lack 'refinement\.solver'"):
        LabelSpec.from_fingerprint(fields)


def test_a_run_with_a_finished_concept_gives_its_settings_and_weights(tmp_path: Path) -> None:
    plan = start_origin(tmp_path, method="lora")
    finish_concept(plan.run.url, plan.run.fingerprint)
    origin = find_origin(str(tmp_path / "run"), source=FakeSource())
    assert origin.spec == SPEC
    assert origin.weights == str(tmp_path / "run" / "concept" / "weights.safetensors")
    assert origin.fields == {"model_weights": "fake", "concept_weights": hashlib.sha256(b"m'").hexdigest()}


def test_a_run_without_fine_tuning_samples_from_the_model_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    start_origin(tmp_path)
    with caplog.at_level(logging.WARNING):
        origin = find_origin(str(tmp_path / "run"), source=FakeSource())
    assert origin.weights is None and origin.fields["concept_weights"] is None
    assert "without fine-tuning" in caplog.text


def test_an_unfinished_concept_and_a_missing_run_are_refused_with_the_way_out(tmp_path: Path) -> None:
    start_origin(tmp_path, method="lora")
    with pytest.raises(RunError, match=r"no finished fine-tuning; run jobs/label\.py"):
        find_origin(str(tmp_path / "run"), source=FakeSource())
    with pytest.raises(RunError, match=r"there is no .*/nowhere/run\.json; run jobs/label\.py"):
        find_origin(str(tmp_path / "nowhere"), source=FakeSource())


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        ({"synthesis.version": 1}, "synthetic images of jobs/synthesize.py"),
        ({"segmenter_weights": "0"}, "predictions of jobs/predict.py"),
        ({"segmenter.version": 1}, "a segmenter of jobs/train.py"),
    ],
)
def test_what_no_diffusion_model_has_labelled_is_refused_by_what_it_is(
    tmp_path: Path, fields: dict[str, object], kind: str
) -> None:
    start_run(str(tmp_path), RunManifest(fingerprint={"concept": "car", **fields}))
    with pytest.raises(RunError, match=rf"holds {kind}; this takes a run of jobs/label\.py"):
        find_origin(str(tmp_path))


def test_a_model_that_has_changed_since_is_refused(tmp_path: Path) -> None:
    start_origin(tmp_path)
    with pytest.raises(RunError, match=r"model_weights: fake -> other.*--model"):
        find_origin(str(tmp_path / "run"), source=FakeSource(model="other"))


def test_the_model_is_the_one_that_the_run_names_unless_another_place_is_given(tmp_path: Path) -> None:
    start_origin(tmp_path, config={"model": {"model": "no/such", "revision": None}})
    with pytest.raises(ValueError, match="'no/such' is no local folder"):
        find_origin(str(tmp_path / "run"))
    with pytest.raises(ValueError, match="no model folder '/nor/this/one'"):
        find_origin(str(tmp_path / "run"), model="/nor/this/one")


def test_a_run_that_does_not_name_its_model_asks_for_it(tmp_path: Path) -> None:
    start_origin(tmp_path)
    with pytest.raises(RunError, match="give it with --model"):
        find_origin(str(tmp_path / "run"))


def test_an_adapter_that_is_missing_or_not_asked_for_is_refused(tmp_path: Path) -> None:
    plan = start_origin(tmp_path)
    with pytest.raises(RunError, match="was labelled without --adapter"):
        find_origin(plan.run.url, source=FakeSource(), adapter="somewhere")
    fields = {**plan.manifest.fingerprint, "distillation.adapter": "0" * 64}
    config = {"stage": {"adapter": str(tmp_path / "gone.safetensors")}}
    start_run(str(tmp_path / "other"), RunManifest(fingerprint=fields, config=config))
    with pytest.raises(RunError, match=r"gone\.safetensors cannot be read"):
        find_origin(str(tmp_path / "other"), source=FakeSource())


def test_a_run_is_gone_on_with_in_any_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "000000.tar").write_bytes(make_corpus_tar([0, 1]))
    (tmp_path / "elsewhere").mkdir()
    notes = {"concept": "car", "model_weights": "fake"}
    (tmp_path / "m.safetensors").write_bytes(write_notes(int.to_bytes(2, 8, "little") + b"{}", notes))
    monkeypatch.chdir(tmp_path)
    given = ["--concept", "car", "--input", "corpus", "--run", "run", "--adapter", "m.safetensors"]
    plan = make_plan(parse_options(Label, job="label", description="", arguments=given), FakeSource())
    start_run(plan.run.url, plan.manifest)
    monkeypatch.chdir("elsewhere")
    assert find_origin("../run", source=FakeSource()).weights == str(tmp_path / "m.safetensors")


def test_of_a_corpus_that_has_moved_commands_that_follow_are_told(tmp_path: Path) -> None:
    run = start_origin(tmp_path).run.url
    assert find_moved(run, str(tmp_path / "corpus")) is None
    assert find_moved(run, "/moved") == "/moved"


def test_a_runs_precision_is_part_of_its_fingerprint_and_found_again(tmp_path: Path) -> None:
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "000000.tar").write_bytes(make_corpus_tar([0, 1]))
    options = {
        "spec": SPEC,
        "source": ModelSource.named("miniature"),
        "input_url": str(tmp_path / "corpus"),
        "run_url": str(tmp_path / "run"),
        "distillation": DistillationSpec(method="none"),
        "config": {"model": {"model": "miniature"}},
    }
    plan = plan_labelling(**options, precision="bfloat16")
    start_run(plan.run.url, plan.manifest)
    source = find_origin(str(tmp_path / "run")).source
    assert isinstance(source, ModelSource) and source.precision == "bfloat16"
    with pytest.raises(RunError, match="precision"):
        plan_labelling(**options)
    assert "precision" not in plan_labelling(**{**options, "run_url": str(tmp_path / "other")}).manifest.fingerprint
