"""Exports a trained segmenter for programs without PyTorch."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

# Where the project is not installed (a job's working directory), it is found beside this file.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from engine import storage
from engine.run.command import run_command

TOLERANCE = 1e-4
"""Largest difference of a probability that still counts as the same."""


@dataclass(frozen=True, kw_only=True)
class Export:
    """All settings of the job."""

    model: Annotated[str, tyro.conf.arg(metavar="DIR")]
    """The segmenter: a folder or URL that jobs/train.py wrote."""
    output: Annotated[str, tyro.conf.arg(metavar="FILE")]
    """The file to write."""
    format: Literal["onnx"] = "onnx"
    """ONNX, with any batch size and any height and width that are multiples of 16, from 32 on."""


DESCRIPTION = """Exports a trained segmenter as an ONNX file, and compares what both say.

The file's input is "image", float32 RGB in 0..1 of shape [batch, 3, height, width]; its output "probability" has the
shape [batch, 1, height, width]. Its metadata say which short side images are to be resized to.

Example:
  python jobs/export.py --model runs/car/segmenter --format onnx --output car.onnx

Exit code: 0 done, 1 the file says something else than the segmenter, 2 wrong usage."""


def main(arguments: list[str] | None = None) -> int:
    """Parses, exports, compares; returns the exit code."""

    def run(options: Export) -> int:
        from engine.segmenter.export import compare_onnx, segmenter_to_onnx
        from engine.segmenter.segmenter import Segmenter

        segmenter = Segmenter.from_pretrained(options.model)
        data = segmenter_to_onnx(segmenter)
        error = compare_onnx(data, segmenter)
        print(f"largest difference to PyTorch: {error:.2e}")
        if not error <= TOLERANCE:
            print(f"nothing written: the exported network differs by more than {TOLERANCE:g}", file=sys.stderr)
            return 1
        url = storage.absolute(options.output)
        storage.atomic_put(data, url)
        print(f"wrote {storage.redact(url)} ({len(data) / 1e6:.3g} MB)")
        return 0

    return run_command(Export, run, job="export", description=DESCRIPTION, arguments=arguments)


if __name__ == "__main__":
    sys.exit(main())
