from __future__ import annotations

import importlib
import re
from itertools import pairwise

import pytest

from engine.run.command import RESUME, parse_options, run_command
from engine.run.options import Refinement
from tests.jobs.parse import JOBS, parse

FEW = 13
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
    # What is captured has no frames.
    groups = re.findall(r"^ (\w.*?) *\n -{40,} $", text, re.MULTILINE)
    options = re.findall(r"^  --[\w.-]+", text, re.MULTILINE)
    assert groups and options
    assert len(options) <= FEW or len(groups) > 1, f"{len(options)} options in one group"


def read_help(job: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The lines of a help for a terminal of 100 columns from the first box on."""
    monkeypatch.setenv("COLUMNS", "100")
    with pytest.raises(SystemExit):
        parse(job, ["--help"])
    text = capsys.readouterr().out
    return [line.rstrip() for line in text[text.index(" options  ") :].splitlines()]


@pytest.mark.parametrize("job", JOBS)
def test_the_texts_of_options_fill_their_lines_and_show_no_default_that_is_none(
    job: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = read_help(job, capsys, monkeypatch)
    assert not [line for line in lines if "default: None" in line]
    # A line of a text ends where the next one's first word has no room any more.
    texts = [(line, after) for line, after in pairwise(lines) if re.match(" {7,}", line) and re.match(" {7,}", after)]
    assert [line for line, after in texts if len(line) + 1 + len(after.split()[0]) < 97] == []


@pytest.mark.parametrize(
    ("job", "option"),
    [
        ("label", "--fill-holes, --no-fill-holes Fill holes of the masks. (default: True)"),
        ("train", "--flip, --no-flip Mirror half of the crops. (default: True)"),
        ("train", "--synthetic Learn from RUN/synthetic as well (see jobs/synthesize.py). (default: False)"),
        ("distill", "--training.synthetic, --training.no-synthetic Learn from RUN/synthetic as well"),
        ("bench", "--ray, --no-ray Measure what Ray costs, too. (default: True)"),
        ("pretrain", "--diffusion.positions, --diffusion.no-positions"),
        ("label", "--dry-run Check everything, print the plan, and stop. (default: False)"),
    ],
)
def test_what_is_on_by_default_is_shown_beside_what_turns_it_off(
    job: str, option: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert option in " ".join(" ".join(read_help(job, capsys, monkeypatch)).split())


@pytest.mark.parametrize(("flag", "value"), [("--fill-holes", True), ("--no-fill-holes", False)])
def test_what_is_on_by_default_is_turned_on_and_off(flag: str, value: bool) -> None:
    assert parse_options(Refinement, job="label", description="", arguments=[flag]).fill_holes is value


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


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("plan --concept car --device nope", "--device is 'nope', which cannot be used here ("),
        ("pretrain --input i --output o --device nope", "--device is 'nope', which cannot be used here ("),
        ("evaluate --run r --json /proc/x/y.json", "--json /proc/x/y.json cannot be written ("),
    ],
)
def test_a_device_or_a_file_that_is_none_is_wrong_usage(
    command: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    job, *arguments = command.split()
    assert importlib.import_module(f"jobs.{job}").main(arguments) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"error: {said}") and len(err.splitlines()) == 1


@pytest.mark.parametrize(("resumes", "told"), [(True, f"\n{RESUME}"), (False, "")])
@pytest.mark.parametrize("end", [OSError("no space"), KeyboardInterrupt()])
def test_only_what_goes_on_says_so(
    end: BaseException, resumes: bool, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def body(options: Refinement) -> int:
        raise end

    run_command(Refinement, body, job="label", description="", arguments=[], resumes=resumes)
    assert capsys.readouterr().err.replace(" What", "\nWhat").endswith((f"no space{told}\n", f"Interrupted.{told}\n"))


@pytest.mark.parametrize("job", ["distill", "finetune"])
def test_a_second_concept_is_refused_where_one_is_taken(job: str, capsys: pytest.CaptureFixture[str]) -> None:
    main = importlib.import_module(f"jobs.{job}").main
    assert main(["--concept", "car", "--concept=dog", "--dry-run"]) == 2
    assert f"--concept is given more than once; jobs/{job}.py takes one" in capsys.readouterr().err


def test_jobs_that_begin_anew_do_not_speak_of_resuming(monkeypatch: pytest.MonkeyPatch) -> None:
    resuming = set()
    for job in JOBS:
        module = importlib.import_module(f"jobs.{job}")

        def note(options: object, body: object, resumes: bool = True, job: str = job, **given: object) -> int:
            resuming.update([job] if resumes else [])
            return 0

        monkeypatch.setattr(module, "run_command", note)
        module.main([])
    assert resuming == {"distill", "finetune", "label", "predict", "pretrain", "synthesize", "train"}
