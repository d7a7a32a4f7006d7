"""What to do after a job: commands that go on from what it made."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from engine import storage

EXPORT_REVIEWED = (
    "export --run {run} --review review.csv --format coco --output FOLDER",
    "take what the page saved as review.csv to other tools",
)

AFTER: dict[str, tuple[tuple[str, str], ...]] = {
    "label": (
        ("report --run {run}", "look at the labels, and decide about them"),
        ("evaluate --run {run}", "compare them with ground truth, if the images have any"),
        ("synthesize --run {run}", "make more images, with masks"),
        ("train --run {run}", "train a segmentation model on them"),
    ),
    "label --stage preliminary": (
        ("report --run {run}", "look at the labels"),
        ("train --run {run} --labels preliminary", "train a segmentation model on them"),
    ),
    "synthesize": (("train --run {run} --synthetic", "train a segmentation model on images and samples"),),
    "synthesize --output": (("report --run {run}", "look at the samples"),),
    "train": (
        ("predict --model {model} --input IMAGES --output MASKS", "segment any images"),
        ("export --model {model} --output {concept}.onnx", "use it without PyTorch"),
    ),
    "predict": (
        ("report --run {run}", "look at the masks"),
        ("export --run {run} --format coco --output FOLDER", "take them to other tools"),
    ),
    "distill": (
        ("predict --model {model} --input IMAGES --output MASKS", "segment any images"),
        ("export --model {model} --output {concept}.onnx", "use it without PyTorch"),
        ("report --run {run}", "look at the labels that it learned from"),
    ),
    "evaluate": (("report --run {run}", "look at the labels, the worst first"),),
    "report of refined labels": (
        ("train --run {run} --review review.csv", "train on what the page saved as review.csv"),
        EXPORT_REVIEWED,
    ),
    "report of preliminary labels": (
        ("train --run {run} --labels preliminary --review review.csv", "train on what the page saved as review.csv"),
        (f"{EXPORT_REVIEWED[0]} --stage preliminary", EXPORT_REVIEWED[1]),
    ),
    "report of synthetic labels": (EXPORT_REVIEWED,),
    "features": (("evaluate --run RUN --study guidance --features {output}", "measure FID and KID in them"),),
    "miniature": (("label --concept {concept} --input {output}", "label them"),),
    "pretrain": (("label --concept CONCEPT --model {model} --input IMAGES", "label images with it"),),
}
"""By job, or by job and what it was asked for: commands and what they are good for."""


FOR_ONE = (
    "report ",
    "export --run {run} --review",
    "train --run {run} --review",
    "train --run {run} --labels preliminary",
)
"""Beginnings of commands that take one concept of a run of several at a time."""
NOT_FOR_SEVERAL = "synthesize "
"""Beginning of what such a run cannot be given to."""


def describe_next(after: str, *, one_of: str | None = None, input_url: str | None = None, **values: str) -> str:
    """Lines that name the commands.

    Args:
        after: a key of `AFTER`.
        one_of: where the run is of several concepts, one to name.
        input_url: where the run's images lie, if it is not where the run says.
        values: of the names in its commands.
    """
    quoted = {name: shlex.quote(storage.redact(value)) for name, value in values.items()}
    commands = []
    for command, purpose in AFTER[after]:
        if one_of and command.startswith(NOT_FOR_SEVERAL):
            continue
        command_line = command.format(**quoted)
        if input_url and "--run {run}" in command:
            command_line += f" --input {shlex.quote(storage.redact(input_url))}"
        if one_of and command.startswith(FOR_ONE):
            command_line += f" --concept {shlex.quote(one_of)}"
        commands.append((_name(command_line), purpose))
    width = max(len(command) for command, _ in commands)
    return _align([f"{command:<{width}}    # {purpose}" for command, purpose in commands])


def describe_go_on(job: str, arguments: Sequence[str], *, without: Sequence[str] = (), run: str) -> str:
    """A line that names another job with the same options and this run directory.

    Args:
        arguments: of the job that ends.
        without: flags of it that the other one does not have; each has a value.
    """
    kept: list[str] = []
    left = list(arguments)
    while left:
        argument = left.pop(0)
        name, equals, _ = argument.partition("=")
        if name.replace("_", "-") not in {"--run", *without}:
            kept.append(argument)
        elif not equals:
            del left[:1]
    return _align([_name(storage.redact(shlex.join([job, *kept, "--run", run])))])


def _name(command: str) -> str:
    job, _, options = command.partition(" ")
    return f"python jobs/{job}.py {options}"


def _align(lines: list[str]) -> str:
    return "\n".join(f"{name:<13}{line}" for name, line in zip(["next", *[""] * len(lines)], lines, strict=False))
