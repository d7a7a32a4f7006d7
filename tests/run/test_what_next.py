from __future__ import annotations

import pytest

from engine.run.what_next import describe_go_on, describe_next


def test_the_commands_hold_the_places_and_what_they_are_good_for() -> None:
    first, *others = describe_next("label", run="/runs/car").splitlines()
    assert first.startswith("next         python jobs/report.py --run /runs/car  ") and "    # look at" in first
    assert [line.split()[1] for line in others] == ["jobs/evaluate.py", "jobs/synthesize.py", "jobs/train.py"]
    assert len({line.index("#") for line in (first, *others)}) == 1


def test_places_are_quoted_and_keep_their_secrets() -> None:
    said = describe_next("train", model="/runs/fire truck/segmenter", concept="fire truck")
    assert "--model '/runs/fire truck/segmenter' --input" in said and "--output 'fire truck'.onnx" in said
    assert "secret" not in describe_next("label", run="s3://key:secret@bucket/run")


@pytest.mark.parametrize("given", [["--run", "runs/car"], ["--run=runs/car"], []])
def test_another_job_goes_on_with_the_same_options(given: list[str]) -> None:
    said = describe_go_on("label", ["--concept", "fire truck", *given, "--steps", "5"], run="/abs/runs/car")
    assert said == "next         python jobs/label.py --concept 'fire truck' --steps 5 --run /abs/runs/car"


def test_options_that_the_other_job_does_not_have_are_left_out() -> None:
    arguments = ["--price_per_hour", "2", "--concept", "car", "--probe=3"]
    said = describe_go_on("label", arguments, without=("--probe", "--price-per-hour"), run="/run")
    assert said.split("python ")[1] == "jobs/label.py --concept car --run /run"


@pytest.mark.parametrize(
    "job",
    [
        "label",
        "label --stage preliminary",
        "evaluate",
        "report of refined labels",
        "report of preliminary labels",
        "predict",
    ],
)
def test_of_several_concepts_one_is_named_where_a_job_takes_one_at_a_time(job: str) -> None:
    lines = describe_next(job, run="/runs/street", one_of="fire truck").splitlines()
    assert not any("synthesize" in line for line in lines)
    for line in lines:
        alone = any(word in line for word in ("report.py", "--review", "preliminary"))
        assert ("--concept 'fire truck'" in line) == alone


def test_commands_that_read_the_images_of_a_run_name_where_they_lie_now() -> None:
    train, export = describe_next("report of refined labels", run="/run", input_url="/moved/*.tar").splitlines()
    assert "--run /run --review review.csv --input '/moved/*.tar'" in train and "--input '/moved/*.tar'" in export
    predict, *_ = describe_next("train", model="/model", concept="car", input_url="/moved").splitlines()
    assert "/moved" not in predict
