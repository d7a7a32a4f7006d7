"""What the texts tell people to type is what the code understands."""

from __future__ import annotations

from importlib import import_module

import pytest

from engine.run.what_next import AFTER
from tests.jobs.parse import JOBS, ROOT, find_commands, parse

TEXTS = ("README.md", "deploy/README.md")


def check(commands: list[tuple[str, list[str]]]) -> None:
    wrong = []
    for job, arguments in commands:
        try:
            assert job in JOBS, f"there is no jobs/{job}.py"
            parse(job, arguments)
        except SystemExit as end:
            if end.code:
                wrong.append([job, *arguments])
    assert not wrong


@pytest.mark.parametrize("text", TEXTS)
def test_every_command_of_the_texts_is_understood(text: str) -> None:
    commands = find_commands((ROOT / text).read_text())
    assert len(commands) > 4
    check(commands)


def test_every_example_of_the_help_is_understood() -> None:
    for job in JOBS:
        commands = find_commands(import_module(f"jobs.{job}").DESCRIPTION)
        assert job in [name for name, _ in commands], f"the help of jobs/{job}.py has no example"
        check(commands)


def test_every_command_that_a_job_ends_with_is_understood() -> None:
    values = dict.fromkeys(("run", "model", "output", "images"), "/some/place") | {"concept": "car"}
    for commands in AFTER.values():
        for command, _ in commands:
            job, _, options = command.format(**values).partition(" ")
            check(find_commands(f"python jobs/{job}.py {options}"))


def test_a_command_that_is_wrong_is_found() -> None:
    text = "`python jobs/label.py --concept car --limt 3` or\n    python jobs/label.py \\\n      --concept dog  # all\n"
    commands = find_commands(text)
    assert commands == [("label", ["--concept", "car", "--limt", "3"]), ("label", ["--concept", "dog"])]
    with pytest.raises(AssertionError, match="--limt"):
        check(commands)
