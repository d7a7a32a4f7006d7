"""Flags of the jobs and the settings they stand for."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

from engine.checks import naming_flags
from engine.labelling.spec import LabelSpec, RefinementSpec
from engine.run.command import parse_options
from engine.run.fake import FakeSource
from engine.run.labelling import Label, make_plan
from engine.run.options import (
    Distillation,
    Execution,
    Method,
    Model,
    Refinement,
    What,
    distillation_spec,
    label_spec,
    settings_to_config,
    source_of,
)


@dataclass(frozen=True, kw_only=True)
class Job:
    model: Model


def test_a_run_keeps_the_commit_of_its_model_whatever_becomes_of_the_branch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.diffusion.model.find_model", lambda name, revision: tmp_path / "4b1c")
    job = Job(model=Model(model="owner/name", revision="main"))
    kept = settings_to_config(job, source_of(job.model))["model"]
    assert (kept["model"], kept["revision"]) == ("owner/name", "4b1c")


def test_a_run_keeps_a_model_folder_as_it_is_found_from_any_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "models" / "sd15").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    job = Job(model=Model(model="models/sd15"))
    assert settings_to_config(job, source_of(job.model))["model"]["model"] == str(tmp_path / "models" / "sd15")


def spec(method: Method | None = None, refinement: Refinement | None = None) -> LabelSpec:
    return label_spec(What(concept="fire truck"), method or Method(), refinement or Refinement(), "refined")


def test_the_default_is_the_papers_schedule():
    found = spec()
    assert (found.timesteps, found.attention_steps, found.draws) == (50, 40, 1)
    assert (found.refinement.solver, found.refinement.inpaint_steps) == ("ddim", 50)
    assert found.refinement.inpaintings == 1
    assert found == LabelSpec(concept="fire truck", prompt="a photo of a fire truck", refinement=RefinementSpec())


def test_the_fast_profile_is_a_schedule_and_nothing_else():
    found = spec(Method(profile="fast"))
    assert (found.timesteps, found.attention_steps) == (10, 8)
    assert (found.refinement.solver, found.refinement.inpaint_steps) == ("dpm++", 10)
    assert found.refinement.inpaintings == spec().refinement.inpaintings
    assert found.mixture_rule == spec().mixture_rule


def test_a_flag_overrides_the_profile():
    found = spec(Method(profile="fast", timesteps=20, presence_steps=0), Refinement(solver="ddim"))
    assert (found.timesteps, found.attention_steps, found.presence_steps) == (20, 8, 0)
    assert (found.refinement.solver, found.refinement.inpaint_steps) == ("ddim", 10)


def test_distractors_are_asked_for_in_the_words_that_the_concept_is() -> None:
    what = What(concept="dog", prompt="a drawing of a {concept}", distractor=("cat", "fire truck"))
    found = label_spec(what, Method(), Refinement(), "refined")
    assert found.distractors == ("a drawing of a cat", "a drawing of a fire truck")
    assert LabelSpec.from_fingerprint(json.loads(json.dumps(found.fingerprint_fields()))) == found


def test_the_background_prompt_may_speak_of_the_concept_as_the_prompt_does() -> None:
    what = What(concept="fire truck", background_prompt="a street without a {concept}")
    assert label_spec(what, Method(), Refinement(), "refined").background_prompt == "a street without a fire truck"


def test_a_background_prompt_that_speaks_of_the_concept_is_refused_for_several() -> None:
    given = ["--concept", "car", "--concept", "dog", "--background-prompt", "no {concept}", "--input", "images"]
    with pytest.raises(ValueError, match=r"'no \{concept\}' is one for all concepts; write it without"):
        make_plan(parse_options(Label, job="label", description="", arguments=given), FakeSource())


def test_a_distractor_named_twice_is_one() -> None:
    found = label_spec(What(concept="dog", distractor=("cat", "cat")), Method(), Refinement(), "refined")
    assert found.distractors == ("a photo of a cat",)


@pytest.mark.parametrize("name", ["guidance", "presence_threshold", "heatmap_power", "difference_power"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_settings_that_are_no_finite_numbers_are_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"^--{name.replace('_', '-')} is {value}"):
        label_spec(
            What(concept="dog"),
            Method(**({name: value} if name == "presence_threshold" else {})),
            Refinement(**({name: value} if name != "presence_threshold" else {})),
            "refined",
        )


def test_the_concept_is_no_distractor_of_itself() -> None:
    with pytest.raises(ValueError, match="--distractor 'dog' is the concept itself"):
        label_spec(What(concept="dog", distractor=("cat", "dog")), Method(), Refinement(), "refined")


@pytest.mark.parametrize("word", ["", " "])
def test_a_distractor_without_a_word_is_refused(word: str) -> None:
    with pytest.raises(ValueError, match="--distractor is empty; name something else that the images show"):
        label_spec(What(concept="dog", distractor=("cat", word)), Method(), Refinement(), "refined")


def test_a_distractor_that_asks_what_the_prompt_asks_is_refused() -> None:
    what = What(concept="human", prompt="a photo of a human with a hat", distractor=("hat",))
    with pytest.raises(ValueError, match="'a photo of a human with a hat', which is the prompt itself; write"):
        label_spec(what, Method(), Refinement(), "refined")


def test_a_distractor_without_presence_is_refused() -> None:
    with pytest.raises(ValueError, match="distractors are asked where presence is, and presence_steps is 0"):
        label_spec(What(concept="dog", distractor=("cat",)), Method(presence_steps=0), Refinement(), "refined")


def test_one_distractor_may_come_as_a_string_from_python() -> None:
    what = What(concept="dog", distractor="fire truck")  # type: ignore[arg-type]
    assert label_spec(what, Method(), Refinement(), "refined").distractors == ("a photo of a fire truck",)


def test_settings_that_contradict_a_profile_are_refused_by_name():
    with pytest.raises(ValueError, match="--attention-steps is 8; it must be between 1 and timesteps"):
        spec(Method(profile="fast", timesteps=5, attention_steps=8))


def test_where_the_attention_is_given_the_other_numbers_of_a_profile_stay_what_they_are_in_runs_of_before() -> None:
    found = spec(Method(timesteps=10, attention_steps=10))
    assert (found.attention_steps, found.propagation_steps, found.presence_steps) == (10, 10, 20)


@pytest.mark.parametrize(("profile", "steps"), [("paper", (20, 20, 10, 20)), ("fast", (20, 8, 4, 8))])
def test_fewer_timesteps_alone_are_enough(profile: Literal["paper", "fast"], steps: tuple[int, ...]) -> None:
    found = spec(Method(profile=profile, timesteps=20))
    assert (found.timesteps, found.attention_steps, found.propagation_steps, found.presence_steps) == steps


def test_fewer_timesteps_than_any_count_of_the_profile_are_all_taken() -> None:
    found = spec(Method(timesteps=3))
    assert (found.timesteps, found.attention_steps, found.propagation_steps, found.presence_steps) == (3, 3, 3, 3)


def test_the_batch_size_of_the_training_is_a_flag_of_its_own():
    assert distillation_spec(Distillation(train_batch_size=4)).batch_size == 4


@pytest.mark.parametrize("wrong", [{"workers": 0}, {"batch_size": 0}, {"max_failures": 1.5}])
def test_impossible_ways_to_run_are_refused_with_the_flag_and_value(wrong):
    ((name, value),) = wrong.items()
    with pytest.raises(ValueError, match=f"--{name.replace('_', '-')} is {value}"):
        Execution(**wrong)


def test_the_bundled_model_is_meant_by_its_name_also_beside_a_folder_of_that_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "miniature").mkdir()
    monkeypatch.chdir(tmp_path)
    assert source_of(Model()).model == "miniature"
    assert source_of(Model(model="./miniature")).model == str(tmp_path / "miniature")


def test_a_message_that_begins_with_no_setting_stays_as_it_is() -> None:
    for said in ("the distractor is 3", "steps, which is 0"):
        with pytest.raises(ValueError, match=f"^{said}$"), naming_flags(Distillation(), prefix="x."):
            raise ValueError(said)
