"""The one line that matters of what Ray wraps around an error of another process."""

from __future__ import annotations

import re

_CAUSE = re.compile(r"(?!ray\.)[\w.]+(Error|Exception|Interrupt|Exit): .")
"""The line of a traceback's text that names an exception of ours and not of Ray's."""


def find_cause(error: BaseException) -> str | None:
    """The last line that names an exception, the original one; what else may stand below it says less."""
    causes = [line for line in _lines(error) if _CAUSE.match(line)]
    return causes[-1] if causes else None


def first_line(error: BaseException) -> str:
    return next(iter(_lines(error)), type(error).__name__)


def last_line(error: BaseException) -> str:
    return next(reversed(_lines(error)), type(error).__name__)


def _lines(error: BaseException) -> list[str]:
    return [line.strip() for line in str(error).splitlines() if line.strip()]
