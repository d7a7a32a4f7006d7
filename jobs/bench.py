"""Measures what labelling costs on this machine, as ratios within one run.

The tables: docs/results/bench-cpu.json, whose command is in it, and, where there is a GPU,

    python jobs/bench.py --shape sd15 --device cuda --precision bfloat16 --images 24 --compile all \\
        --json docs/results/bench-gpu.json

SPEED: what each change was expected to gain, and what it gained (one thread of a CPU, the miniature, CPU time). Version
1 is the labeller before there was this benchmark.

| version | change | expected | measured |
| --- | --- | --- | --- |
| 1 | timesteps and images share batches | 1.7-2.5 on a GPU | U-Net: 1.2 against batches of 4, 1.8 against 1 |
| 1 | one more value channel reads the attention | 1.25 | see "capture ÷ plain forward" |
| 1 | no second pass where guidance does nothing | 1.5 | a pass less for each of 50 steps |
| 2 | adapters of m′ are merged into a U-Net of its own | 1.2 | U-Net: 1.5, in half of the passes at most |
| 2 | channels_last | 1.0-1.1 | fast profile 1.09, masks equal |
| 2 | deviations around a pixel in two passes | 1.05 | smoothing 52 -> 33 ms an image, masks equal |
| 2 | both starts of a count of contrasts at once | 1.01 | 8.3 -> 4.6 ms an image, counts equal |
| 2 | --compile | 1.3-1.5 on a GPU | U-Net: 1.2; minutes to compile, so not by default |
| 2 | --model-precision bfloat16 | 4-8 on a GPU | 0.4 on a CPU; IoU with float32 0.997 to 1 on 4 scenes |
| 2 | batches that fit the free memory | no failure | not tried on a GPU yet |
| - | early exit after the last cross-attention | 1.002 | left out: 20 of 135 passes need no output, 1.4% of each |
| - | text keys and values once in every pass | 1.004 | left out; passes that read the attention have it |
"""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

# Where the project is not installed (a job's working directory), it is found beside this file.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from engine import storage
from engine.benchmark.bench import BenchSpec, run_bench, start_report
from engine.benchmark.rows import Report
from engine.checks import prepare_file
from engine.memory import free_memory
from engine.run.command import run_command
from engine.run.options import Int

RAY_ROW = "Ray ÷ bare loop, images/s"


@dataclass(frozen=True, kw_only=True)
class Bench:
    """All settings of the job."""

    shape: Literal["sd15", "miniature"] = BenchSpec.shape
    """sd15: Stable Diffusion 1.5's shape at 512 x 512 with random weights, which cost the same. miniature: the bundled
    model."""
    device: str = BenchSpec.device
    """cpu, cuda, cuda:1 ..."""
    precision: Literal["float32", "bfloat16"] = BenchSpec.precision
    """Of the networks. P is measured in the same."""
    batches: tuple[int, ...] = BenchSpec.batches
    """Latents per pass, where the U-Net is measured alone."""
    images: int = BenchSpec.images
    """Images labelled at once."""
    repeats: int = BenchSpec.repeats
    """Measurements, of which the median counts."""
    clock: Literal["wall", "cpu"] = BenchSpec.clock
    """cpu: CPU time instead of the wall's clock, where other processes disturb a measurement on the CPU."""
    threads: Int = None
    """CPU threads. Default: torch's."""
    shorten: int = BenchSpec.shorten
    """Divide the profiles' numbers of steps by this, for a quick try whose ratios mean little."""
    matmul: Int = None
    """Side of the matrices whose product gives the device's peak P. Default: 8192 on a GPU, 1024 on a CPU."""
    compile: Literal["none", "forward", "all"] = BenchSpec.compile
    """forward: measure the U-Net under torch.compile, too. all: compile the labellers as well, as --compile of
    jobs/label.py does. Takes minutes and a C++ compiler."""
    ray: bool = True
    """Measure what Ray costs, too."""
    json: Annotated[str | None, tyro.conf.arg(metavar="FILE")] = None
    """Also write the figures to this file or URL."""


DESCRIPTION = """Measures what labelling costs on this machine: the U-Net, reading its attention, every stage, whole
profiles, beside a naive implementation of the same and beside what the device can do. Nothing is downloaded.

Examples:
  python jobs/bench.py --json cpu.json
  python jobs/bench.py --shape sd15 --device cuda --precision bfloat16 --images 32 --json gpu.json

Exit code: 0 done, 1 stopped (what was measured until then is told and written all the same), 2 wrong usage."""


def main(arguments: list[str] | None = None) -> int:
    """Measures, prints the table, writes JSON; returns the exit code."""
    given = sys.argv[1:] if arguments is None else arguments

    def run(options: Bench) -> int:
        import torch

        figures = None if options.json is None else prepare_file(options.json, "--json")
        if options.threads is not None:
            torch.set_num_threads(options.threads)
        torch.set_flush_denormal(True)
        spec = BenchSpec(**{name: getattr(options, name) for name in BenchSpec.__dataclass_fields__})
        report = start_report(spec, command=shlex.join(["python", "jobs/bench.py", *given]))
        try:
            run_bench(report, spec, tell=_tell)
            _add_ray(report, options)
        except BaseException as error:
            report.about["stopped"] = (str(error) or type(error).__name__).partition("\n")[0]
            raise
        finally:
            if report.rows:
                _hand_out(report, figures)
        return 0

    return run_command(Bench, run, job="bench", description=DESCRIPTION, arguments=arguments, resumes=False)


def _hand_out(report: Report, url: str | None) -> None:
    print(report.describe())
    if url is not None:
        storage.atomic_put(report.to_json().encode(), url)


def _add_ray(report: Report, options: Bench) -> None:
    """The one row that needs Ray, or why there is none."""
    if not options.ray:
        report.add(RAY_ROW, None, note="not asked for")
        return
    try:
        from engine.pipeline.benchmark import measure_ray
    except ImportError as error:
        report.add(RAY_ROW, None, note=f"Ray cannot be imported here ({error})")
        return
    _tell("Ray")
    free_memory()  # its worker is another process, for which what this one keeps is taken
    measure_ray(report, images=4 * options.images, repeats=options.repeats, shorten=options.shorten)


def _tell(text: str) -> None:
    print(f"measuring: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
