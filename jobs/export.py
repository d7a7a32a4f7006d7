"""Exports the labels of a run for other tools, or a trained segmenter for programs without PyTorch."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, get_args

import tyro

# Where the project is not installed (a job's working directory), it is found beside this file.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from engine import storage
from engine.checks import naming_flags
from engine.labelling.label import USELESS
from engine.run.command import run_command

Format = Literal["onnx", "coco", "yolo-seg", "cvat", "label-studio", "png", "hf", "webdataset"]
OF_LABELS = get_args(Format)[1:]
TOLERANCE = 1e-4
"""Largest difference of a probability that still counts as the same."""


@dataclass(frozen=True, kw_only=True)
class Labels:
    """Which labels; not for onnx."""

    run: Annotated[str | None, tyro.conf.arg(metavar="DIR")] = None
    """The run directory, a folder or URL, with labels in it: of jobs/label.py or jobs/predict.py, or of
    jobs/synthesize.py (RUN/synthetic)."""
    input: Annotated[str | None, tyro.conf.arg(metavar="CORPUS")] = None
    """The images that the labels are of. Default: where they were when they were labelled."""
    concept: Annotated[str | None, tyro.conf.arg(metavar="WORD")] = None
    """Of a run of several concepts, the one whose labels to export. Default: those of all."""
    stage: Annotated[Literal["refined", "preliminary"] | None, tyro.conf.arg(metavar="{refined,preliminary}")] = None
    """Which masks. Default: refined ones; of a run of jobs/label.py --stage preliminary the coarse ones it made."""
    min_quality: float = 0.0
    """Leave out labels of smaller quality."""
    drop_flags: tuple[str, ...] = tuple(sorted(USELESS))
    """Leave out labels with one of these flags. Without a value: none, so that images without object come along."""
    review: Annotated[str | None, tyro.conf.arg(metavar="CSV")] = None
    """Decisions of a person, with the columns shard, key, decision (jobs/report.py makes them): accept (export it
    whatever its quality and flags), reject, unsure (no decision)."""
    polygons: bool = False
    """With coco: polygons instead of run lengths."""


@dataclass(frozen=True, kw_only=True)
class Export:
    """All settings of the job."""

    format: Annotated[Format | None, tyro.conf.arg(metavar="{" + ",".join(get_args(Format)) + "}")] = None
    """onnx is a segmenter, with any batch size and any height and width that are multiples of 16, from 32 on; all
    others are labels with their images. Default: onnx with --model; with --run one has to be given."""
    output: Annotated[str, tyro.conf.arg(metavar="PATH")]
    """The file to write for onnx; else a new folder or URL."""
    model: Annotated[str | None, tyro.conf.arg(metavar="DIR")] = None
    """With onnx: the segmenter, a folder or URL that jobs/train.py wrote."""
    labels: Labels


DESCRIPTION = """Exports the labels of a run, with their images, in the format of another tool.

coco: annotations.json, run lengths or polygons. yolo-seg: data.yaml, a polygon for each part of a mask. cvat: cvat.zip,
"CVAT for images 1.1". label-studio: tasks.json, brush masks as predictions. png: images/, masks/, labels.csv. hf: for
datasets.load_dataset. webdataset: tars with KEY.mask.png. The folder appears when all is written, and not before.

Of a run of several concepts all are exported, in its order. coco, yolo-seg, cvat, label-studio: a category for each.
png, hf: masks hold class numbers, 0 background, 1 the first. webdataset: KEY.CONCEPT.mask.png. --min-quality and
--drop-flags judge each label; an image comes along for one of them. Where another was left out, class maps say 255, and
tars have no mask of its concept; the other formats have nothing to say it with, and its object looks like background.
--review judges the image: reject leaves it out, accept takes all its labels.

Of a run that is under way the labels that are finished are exported; what is missing is told, here and in export.json.

With --format onnx, exports a trained segmenter as an ONNX file, and compares what both say. The file's input is
"image", float32 RGB in 0..1 of shape [batch, 3, height, width]; its output "probability" has the shape [batch, 1,
height, width], of several concepts [batch, 1 + concepts, height, width], background first. Its metadata say which short
side images are to be resized to.

Examples:
  python jobs/export.py --run runs/car --format coco --output car-coco --min-quality 0.6 --review review.csv
  python jobs/export.py --run runs/car --format hf --output car-hf
  python jobs/export.py --run runs/street --format yolo-seg --output street-yolo
  python jobs/export.py --model runs/car/segmenter --format onnx --output car.onnx

Exit code: 0 done, 1 stopped, or the ONNX file says something else than the segmenter, 2 wrong usage."""


def main(arguments: list[str] | None = None) -> int:
    """Parses and exports; returns the exit code."""

    def run(options: Export) -> int:
        if options.format is None and options.labels.run is not None:
            raise ValueError(f"labels of a --run can be written in several ways; give --format: {', '.join(OF_LABELS)}")
        if options.format is None or options.format == "onnx":
            return _export_onnx(options)
        return _export_labels(options, options.format)

    return run_command(Export, run, job="export", description=DESCRIPTION, arguments=arguments, resumes=False)


def _export_labels(options: Export, format: str) -> int:
    from engine.export.export import ExportOptions, export_labels
    from engine.segmenter.review import read_review

    labels = options.labels
    if labels.run is None or options.model is not None:
        raise ValueError(f"--format {format} exports the labels of a --run, not a --model; give --run")
    review = read_review(labels.review)[0]
    with naming_flags(labels):
        settings = ExportOptions(
            format=format,
            polygons=labels.polygons,
            min_quality=labels.min_quality,
            drop_flags=labels.drop_flags,
            review=review,
        )
    exported = export_labels(
        labels.run, options.output, settings, input_url=labels.input, concept=labels.concept, stage=labels.stage
    )
    print(exported.extent.describe())
    print(f"exported    {exported.count} images with masks, {exported.empty} of them without the object")
    if len(exported.shown) > 1:
        print("of them     " + ", ".join(f"{count} show {name}" for name, count in exported.shown.items()))
    for reason, count in sorted(exported.left_out.items()):
        if count:
            print(f"left out    {count}: {reason.replace('_', ' ')}")
    if exported.strangers:
        print(f"decisions   {exported.strangers} are about no label of this run")
    print(f"wrote       {storage.redact(exported.url)}")
    return 0


def _export_onnx(options: Export) -> int:
    from engine.segmenter.export import compare_onnx, segmenter_to_onnx
    from engine.segmenter.segmenter import Segmenter

    if options.model is None and options.format is None:
        raise ValueError("nothing to export is named; give a --model, or the --run and the --format of labels")
    if options.model is None or options.labels != Labels():
        raise ValueError("--format onnx exports a --model; for labels name their --format and their --run")
    segmenter = Segmenter.from_pretrained(options.model)
    data = segmenter_to_onnx(segmenter)
    error = compare_onnx(data, segmenter)
    print(f"largest difference to PyTorch: {error:.2e}")
    if not error <= TOLERANCE:
        problem = f"the exported network differs by {error:.2e}, more than {TOLERANCE:g}; nothing written"
        print(f"stopped: {problem}", file=sys.stderr)
        return 1
    url = storage.absolute(options.output)
    storage.atomic_put(data, url)
    print(f"wrote {storage.redact(url)} ({len(data) / 1e6:.3g} MB)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
