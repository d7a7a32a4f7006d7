"""How a job that labels starts and ends: options from the command line, errors as sentences and exit codes."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Callable
from typing import TypeVar

import tyro

from engine import storage
from engine.run.help import make_registry
from engine.run.termination import Terminated, terminable

Options = TypeVar("Options")

RESUME = "What is done is kept; run the same command to resume."


class _Discreet(logging.Formatter):
    """Log lines, tracebacks included, whose URLs tell no secrets."""

    def format(self, record: logging.LogRecord) -> str:
        return storage.redact(super().format(record))


def parse_options(
    options: type[Options],
    *,
    job: str,
    description: str,
    arguments: list[str] | None = None,
    prefixes: bool = False,
    once: str | None = None,
) -> Options:
    """What the arguments say, as `run_command` takes them.

    Raises:
        ValueError: `once` is there twice.
        SystemExit: wrong usage, which has been explained on stderr, or --help.
    """
    given = sys.argv[1:] if arguments is None else arguments
    if once and sum(argument.partition("=")[0] == once for argument in given) > 1:
        raise ValueError(f"{once} is given more than once; jobs/{job}.py takes one (jobs/label.py takes several)")
    return tyro.cli(
        options,
        args=arguments,
        prog=f"python jobs/{job}.py",
        description=description,
        config=() if prefixes else (tyro.conf.OmitArgPrefixes,),
        registry=make_registry(),
    )


def run_command(
    options: type[Options],
    body: Callable[[Options], int],
    *,
    job: str,
    description: str,
    arguments: list[str] | None = None,
    prefixes: bool = False,
    once: str | None = None,
    resumes: bool = True,
) -> int:
    """Parse `options`, call `body` with them, and return the exit code of the process.

    That is what `body` returns, or 2 for a ValueError (wrong usage), 1 for a RuntimeError or OSError (stopped on the
    way), 128 + the number of the signal for an interrupt.

    Args:
        options: dataclass whose fields are groups of flags.
        job: name of the file in jobs/, without its ending.
        arguments: instead of those of the process.
        prefixes: put a group's name before its flags, where it does not say otherwise.
        once: a flag that other jobs take more than once, and this one must not.
        resumes: whether the same command goes on where this one stopped.
    """
    # Their warnings are about parts that labelling does not use.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    handler = logging.StreamHandler()
    handler.setFormatter(_Discreet("%(levelname)s %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    try:
        with terminable():
            given = parse_options(
                options, job=job, description=description, arguments=arguments, prefixes=prefixes, once=once
            )
            return body(given)
    except ValueError as error:
        print(f"error: {storage.redact(str(error))}", file=sys.stderr)
        return 2
    except (RuntimeError, OSError) as error:
        print(f"stopped: {storage.redact(str(error))}" + (f"\n{RESUME}" if resumes else ""), file=sys.stderr)
        return 1
    except KeyboardInterrupt as interrupt:
        print("\nInterrupted." + (f" {RESUME}" if resumes else ""), file=sys.stderr)
        return 128 + (signal.SIGTERM if isinstance(interrupt, Terminated) else signal.SIGINT)
