"""Jobs as far as their options, and the commands that texts name."""

from __future__ import annotations

import re
import shlex
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest.mock import patch

from engine.run.command import parse_options

ROOT = Path(__file__).resolve().parents[2]
JOBS = sorted(path.stem for path in (ROOT / "jobs").glob("*.py"))

_COMMAND = re.compile(r"python (jobs/\w+\.py)([^`\n]*)")


def parse(job: str, arguments: list[str]) -> Any:
    """What the job's own parser makes of the arguments; SystemExit as it raises it."""
    module = import_module(f"jobs.{job}")
    with patch.object(
        module, "run_command", lambda options, body, resumes=True, **given: parse_options(options, **given)
    ):
        return module.main(arguments)


def find_commands(text: str) -> list[tuple[str, list[str]]]:
    """Job and arguments of every ``python jobs/JOB.py …`` of a text, in its order, without comments and ellipses."""
    found = []
    for file, options in _COMMAND.findall(text.replace("\\\n", " ")):
        arguments = shlex.split(options, comments=True)
        found.append((Path(file).stem, [argument for argument in arguments if argument not in ("…", "...")]))
    return found


def find_python(text: str) -> list[str]:
    """The indented blocks of Python of a text, each of which begins with an import."""
    blocks = re.findall(r"(?:^    .*\n|^\n(?=    ))+", text, re.MULTILINE)
    dedented = [re.sub(r"^    ", "", block, flags=re.MULTILINE).strip() for block in blocks]
    return [block for block in dedented if block.startswith(("import ", "from "))]
