"""Looks for bytes that crash, hang or bloat what reads them.

    python -m tests.fuzz --inputs 100000 --json docs/results/fuzz.json

Every target (see `tests.fuzz.targets`) gets its share of the inputs in processes of its own, by hypothesis; and as many
again by atheris, which watches which lines of Python they reach, where that is installed. An input that fails is kept
as a file in tests/fuzz/regressions.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib import metadata, util
from pathlib import Path
from types import FrameType
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

REGRESSIONS = Path(__file__).with_name("regressions")
LONGEST, LARGEST = 5, 1 << 30
"""Seconds and bytes that one input may take."""
_LARGEST_INPUT = 65536


@st.composite
def mutated(draw: st.DrawFn, seeds: list[bytes]) -> bytes:
    """A seed with a few edits, or nothing like one."""
    data = bytearray(draw(st.sampled_from([*seeds, b""])))
    for _ in range(draw(st.integers(0, 6))):
        place = draw(st.integers(0, len(data)))
        match draw(st.integers(0, 4)):
            case 0:
                data[place : place + 1] = bytes([draw(st.integers(0, 255))])
            case 1:
                del data[place : place + draw(st.integers(1, 600))]
            case 2:
                data[place:place] = draw(st.binary(max_size=12))
            case 3:  # what a length or a number is likely to be written as
                number = draw(st.sampled_from([b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff", b"77777777777\0", b"-1"]))
                data[place : place + len(number)] = number
            case 4:
                data[place:place] = data[: draw(st.integers(0, 600))]
    return bytes(data[:_LARGEST_INPUT])


class Guard:
    """Runs a target's check on one input after the other; the one at hand is in a file, should the process die."""

    def __init__(self, name: str, file: str) -> None:
        from tests.fuzz.targets import TARGETS

        self.target = TARGETS[name]
        self.seeds = self.target.seeds()
        self.count = 0
        self.slowest = 0.0
        self._file = os.open(file, os.O_RDWR | os.O_CREAT)
        signal.signal(signal.SIGALRM, self._alarm)

    def check(self, data: bytes) -> None:
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, data, 0)
        signal.setitimer(signal.ITIMER_REAL, LONGEST)
        began = time.perf_counter()
        try:
            self.target.check(data)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        self.slowest = max(self.slowest, time.perf_counter() - began)
        self.count += 1
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
        assert peak < LARGEST, f"{peak >> 20} MiB of memory"

    def _alarm(self, number: int, frame: FrameType | None) -> None:
        # No exception that anybody on the way might catch.
        os.write(2, f"an input has taken more than {LONGEST} s\n".encode())
        os._exit(70)


def run_hypothesis(name: str, inputs: int, file: str, begin: int) -> Guard:
    """Checks so many inputs; an error ends it."""
    guard = Guard(name, file)

    @seed(begin)
    @settings(
        max_examples=inputs,
        database=None,
        deadline=None,
        phases=(Phase.generate,),
        suppress_health_check=list(HealthCheck),
    )
    @given(mutated(guard.seeds))
    def explore(data: bytes) -> None:
        guard.check(data)

    explore()
    return guard


def run_atheris(name: str, inputs: int, file: str, begin: int) -> None:
    """The same by coverage; ends the process."""
    import atheris

    with atheris.instrument_imports(include=["tarfile", "PIL", "engine.corpus", "schemas"]):
        guard = Guard(name, file)
    with tempfile.TemporaryDirectory() as corpus, tempfile.TemporaryDirectory() as artifacts:
        for number, data in enumerate(guard.seeds):
            Path(corpus, str(number)).write_bytes(data[:_LARGEST_INPUT])
        options = [f"-runs={inputs}", f"-seed={begin + 1}", f"-max_len={_LARGEST_INPUT}", "-timeout=5"]
        options += [f"-rss_limit_mb={LARGEST >> 20}", f"-artifact_prefix={artifacts}/"]
        atheris.Setup([sys.argv[0], *options, corpus], guard.check)
        atheris.Fuzz()


def run_child(engine: str, name: str, inputs: int, begin: int) -> dict[str, Any]:
    """One process of fuzzing; what it fails on is kept."""
    with tempfile.NamedTemporaryFile() as at_hand:
        command = [sys.executable, "-m", "tests.fuzz", "--child", engine, name, str(inputs), at_hand.name, str(begin)]
        began = time.monotonic()
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        found: dict[str, Any] = {"inputs": inputs, "seconds": round(time.monotonic() - began, 1)}
        if done.returncode == 0:
            last = done.stdout.strip().splitlines()[-1:] if engine == "hypothesis" else []
            return {**found, **(json.loads(last[0]) if last else {})}
        data = Path(at_hand.name).read_bytes()
        kept = REGRESSIONS / f"{name}-{hashlib.sha256(data).hexdigest()[:12]}.bin"
        kept.write_bytes(data)
        error = [line for line in done.stderr.splitlines() if line.strip()][-1:]
        return {**found, "failed": kept.name, "code": done.returncode, "error": error}


def fuzz(inputs: int, engines: list[str], names: list[str], keep: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Fuzzes the targets one after the other; `keep` gets the outcome so far after each."""
    from tests.fuzz.targets import TARGETS

    results: dict[str, dict[str, Any]] = {}
    found: dict[str, Any] = {}
    for name in names:
        count = round(inputs * TARGETS[name].share)
        results[name] = {engine: run_child(engine, name, count, 0) for engine in engines}
        print(name, results[name], file=sys.stderr)
        runs = [run for result in results.values() for run in result.values()]
        found = {
            "command": "python -m tests.fuzz " + " ".join(sys.argv[1:]),
            "date": time.strftime("%Y-%m-%d"),
            "inputs": sum(run.get("checked", run["inputs"]) for run in runs if "failed" not in run),
            "failures": sum("failed" in run for run in runs),
            "engines": {engine: metadata.version(engine) for engine in engines},
            "targets": results,
        }
        keep(found)
    return found


def main() -> None:
    from tests.fuzz.targets import TARGETS

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--inputs", type=int, default=100_000, help="in all, for each engine")
    parser.add_argument("--targets", default=",".join(TARGETS))
    parser.add_argument("--json", help="write the outcome there, too")
    parser.add_argument("--child", nargs=5, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        engine, name, inputs, file, begin = options.child
        logging.disable(logging.CRITICAL)
        if engine == "atheris":
            run_atheris(name, int(inputs), file, int(begin))
        guard = run_hypothesis(name, int(inputs), file, int(begin))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
        print(json.dumps({"checked": guard.count, "slowest_ms": round(guard.slowest * 1000, 1), "peak_rss_mb": peak}))
        return
    engines = ["hypothesis", *(["atheris"] if util.find_spec("atheris") else [])]

    def keep(found: dict[str, Any]) -> None:
        if options.json:
            Path(options.json).write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")

    found = fuzz(options.inputs, engines, options.targets.split(","), keep)
    print(json.dumps(found, indent=1, ensure_ascii=False))
    sys.exit(int(found["failures"] > 0))


if __name__ == "__main__":
    main()
