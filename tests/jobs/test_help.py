from __future__ import annotations

import importlib
import re

import pytest

from tests.jobs.parse import JOBS, parse

FEW = 12
"""Options that fit on a screen without groups."""


@pytest.mark.parametrize("job", JOBS)
def test_the_help_groups_the_options_and_shows_how_to_use_them(job: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        parse(job, ["--help"])
    text = capsys.readouterr().out
    assert end.value.code == 0
    assert f"usage: python jobs/{job}.py" in text
    assert re.search(rf"Examples?:(.|\n)*python jobs/{job}\.py --", text)
    assert "Exit code: 0" in text
    groups = re.findall(r"^╭─ (.*?) ─*╮$", text, re.MULTILINE)
    options = re.findall(r"^│ --[\w.-]+", text, re.MULTILINE)
    assert len(options) <= FEW or len(groups) > 1, f"{len(options)} options in one group"


@pytest.mark.parametrize(
    ("job", "given", "meant"),
    [
        ("label --concept car", "--attention-step", "--attention-steps"),
        ("synthesize --run runs/car", "--guidence", "--guidance"),
        ("train", "--min-qualty", "--min-quality"),
        ("predict --model m --input i --output o", "--windw", "--window"),
        ("distill --concept car", "--training.step", "--training.steps"),
        ("export --output o", "--formt", "--format"),
        ("miniature --output o", "--shard-sizes", "--shard-size"),
        ("pretrain --input i --output o", "--diffusion-loop.step", "--diffusion-loop.steps"),
    ],
)
def test_an_unknown_option_is_answered_with_the_nearest(
    job: str, given: str, meant: str, capsys: pytest.CaptureFixture[str]
) -> None:
    name, *arguments = job.split()
    with pytest.raises(SystemExit) as end:
        parse(name, [*arguments, given, "1"])
    assert end.value.code == 2
    said = capsys.readouterr().err
    assert given in said and re.search(rf"Perhaps you meant:(.|\n)*{re.escape(meant)} ", said)


def test_a_required_option_that_is_misspelt_is_named_beside_the_one_that_is_missing(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as end:
        parse("finetune", ["--concpet", "car"])
    assert end.value.code == 2
    assert re.search(r"--concept STR(.|\n)*Unrecognized(.|\n)*--concpet", capsys.readouterr().err)


@pytest.mark.parametrize("job", ["distill", "finetune"])
def test_a_second_concept_is_refused_where_one_is_taken(job: str, capsys: pytest.CaptureFixture[str]) -> None:
    main = importlib.import_module(f"jobs.{job}").main
    assert main(["--concept", "car", "--concept=dog", "--dry-run"]) == 2
    assert f"--concept is given more than once; jobs/{job}.py takes one" in capsys.readouterr().err
