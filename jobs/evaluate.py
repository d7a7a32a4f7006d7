"""Compares a run's labels with the ground truth of its corpus, or studies one choice of the method."""

from __future__ import annotations

import functools
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

# Where the project is not installed (a job's working directory), it is found beside this file.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from engine import storage
from engine.checks import naming_flags, prepare_file
from engine.evaluation.evaluate import evaluate_run
from engine.evaluation.report import compare_concepts, format_mean, format_report
from engine.evaluation.rows import EvaluationError, find_labels
from engine.run.command import run_command
from engine.run.directory import find_corpus_url, find_input, find_moved, read_manifest
from engine.run.example_source import refuse_segmenter
from engine.run.names import to_folder
from engine.run.options import Int, Moved
from engine.run.what_next import describe_next


@dataclass(frozen=True, kw_only=True)
class Studies:
    """Settings of a study; each has a use for some of them."""

    limit: int = 40
    """Images to measure on, at most."""
    timesteps: Int = None
    """T of timesteps. Default: the run's."""
    draws: int = 8
    """Largest N of draws."""
    repeats: int = 5
    """Seeds of draws."""
    prompt: Annotated[str | None, tyro.conf.arg(metavar="TEXT")] = None
    """The prompt of parts. Default: the run's."""
    parts: Annotated[str | None, tyro.conf.arg(metavar="A,B,…")] = None
    """The words of it that are looked for: --parts human,arms,legs --prompt "a photo of a human with arms and legs"."""
    weights: tuple[float, ...] = (-6.5, -4.5, -2.5, -1, 0, 1, 2, 3, 4.5, 6, 7.5)
    """Guidance weights of guidance: 1 follows the prompt, 0 the background's."""
    seeds: int = 6
    """Rows of its picture."""
    test: Annotated[str | None, tyro.conf.arg(metavar="CORPUS")] = None
    """The corpus that ablation measures on: with ground truth, and none of the images that the run labelled."""
    steps: Int = None
    """Optimizer steps of each U-Net of ablation. Default: the paper's 12000."""
    train_batch_size: Int = None
    """Crops per step. Default: 32."""
    width: Int = None
    """Channels of its first level. Default: 32."""
    crop: Int = None
    """Side of the crops. Default: 128."""
    short_side: Int = None
    """Of the images, which are resized to it. Default: 128."""
    scale: float = 1.0
    """Crops show up to so many times more, or less, of an image than their side does."""
    min_quality: float = 0.0
    """Final labels of smaller quality are not learned from, and neither are the preliminary masks of their images."""
    features: Annotated[str | None, tyro.conf.arg(metavar="FILE")] = None
    """A feature network, an ONNX file, for FID and KID of guidance. miniature: the one that comes with the project,
    which knows miniature scenes only."""


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """All settings of the job."""

    run: str
    """The run directory, a folder or URL, with labels in it; a study only needs its run.json and fine-tuned model."""
    input: Annotated[str | None, tyro.conf.arg(metavar="CORPUS")] = None
    """The corpus that was labelled, with ground truth: KEY.mask.png, or KEY.CONCEPT.mask.png, or {"bbox": [x, y,
    width, height]} in KEY.json. miniature: the small corpus that comes with the project. Default: what the run says."""
    concept: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """Name of the ground truth. Default: the concept of the run; of several all, but a study takes one."""
    json: Annotated[str | None, tyro.conf.arg(metavar="FILE")] = None
    """Also write the result to this file or URL."""
    study: Annotated[
        Literal["ablation", "timesteps", "tokens", "layers", "draws", "guidance", "parts"] | None,
        tyro.conf.arg(metavar="NAME"),
    ] = None
    """ablation, timesteps, tokens, layers, draws, guidance or parts."""
    output: Annotated[str | None, tyro.conf.arg(metavar="DIR")] = None
    """Folder or URL for the study's STUDY.json, STUDY.md and pictures. Default: RUN/studies, or RUN/studies-NAME in a
    run of several concepts."""
    moved: Moved
    studies: Studies


DESCRIPTION = """Compares a run's labels with ground truth: AUROC of the heatmaps, accuracy, IoU and mIoU of the masks.

In the paper's protocol: everything is brought to the size of the image, its short side resized to 128 pixels, and the
central 128 x 128 compared; accuracy and IoU pool the pixels of all images. Where a corpus has boxes only, the boxes
around the masks are compared with them.

With --study, one choice of the method is studied instead, with the settings and the model of the run: ablation (labels
and the U-Nets that learn from them), timesteps (T0), tokens (of the prompt), layers (of cross-attention), draws (N),
guidance (w), parts (several concepts of one prompt).

Examples:
  python jobs/evaluate.py --run runs/bird --input 'tars/{000000..000003}.tar' --json bird.json
  python jobs/evaluate.py --run runs/bird --study ablation --test 'test/*.tar'
  python jobs/evaluate.py --run runs/bird --study tokens
  python jobs/evaluate.py --run runs/bird --study guidance --features inception.onnx

Exit code: 0 done, 1 stopped, 2 wrong usage."""


def main(arguments: list[str] | None = None) -> int:
    """Parses, compares or studies, prints; returns the exit code."""

    def run(job: Evaluate) -> int:
        if job.json is not None:
            prepare_file(job.json, "--json")
        if job.study:
            return _study(job)
        if job.output is not None or job.moved != Moved() or job.studies != Studies():
            raise ValueError("--output, --model and the settings of studies belong to a study; name it with --study")
        return _compare(job)

    return run_command(Evaluate, run, job="evaluate", description=DESCRIPTION, arguments=arguments, resumes=False)


def _compare(job: Evaluate) -> int:
    run = storage.absolute(job.run)
    if storage.exists(storage.join(run, "run.json")):
        refuse_segmenter(run, read_manifest(run))
    labels = find_labels(run)
    there = labels[0].concepts
    several = len(there) > 1
    names = [job.concept] if job.concept else there
    results, not_compared = [], {}
    for name in names:
        try:
            results.append(evaluate_run(run, _corpus(job, name), name, negatives=several, labels=labels))
        except EvaluationError as error:
            not_compared[name] = str(error)
    if not results:
        raise EvaluationError(next(iter(not_compared.values())))
    whole = compare_concepts(results, not_compared) if len(names) > 1 else results[0]
    if job.json is not None:
        _write(whole, job.json)
    texts = [*map(format_report, results), *(f"{name}: {reason}" for name, reason in not_compared.items())]
    print("\n\n".join([*texts, *([format_mean(whole)] if len(names) > 1 else [])]))
    moved = _find_moved(job, run, names[0])
    print(describe_next("evaluate", run=run, one_of=names[0] if several else None, input_url=moved))
    return 0


def _find_moved(job: Evaluate, run: str, concept: str) -> str | None:
    """Where the images lie, if the next command has to be told; labels without a run.json are compared as well."""
    if job.input is None or not storage.exists(storage.join(run, "run.json")):
        return None
    return find_moved(run, _corpus(job, concept))


def _study(job: Evaluate) -> int:
    # Imported here because a comparison needs no model.
    import torch

    from engine.evaluation.studies.registry import run_study
    from engine.evaluation.studies.study import StudyOptions, StudyTask
    from engine.run.origin import find_origin

    assert job.study
    of_m_prime = job.study in ("ablation", "guidance")
    origin = find_origin(job.run, concept=job.concept, **vars(job.moved), unfinished=not of_m_prime)
    values = {name: value for name, value in vars(job.studies).items() if value is not None}
    if "train_batch_size" in values:
        values["batch_size"] = values.pop("train_batch_size")
    values["parts"] = tuple(filter(None, map(str.strip, values.get("parts", "").split(","))))
    if job.studies.test is not None:
        values["test"] = storage.absolute(find_input(job.studies.test, origin.spec.concept))
    with naming_flags(job.studies, batch_size="train_batch_size"):
        options = StudyOptions(**values)
    folder = f"studies-{to_folder(origin.spec.concept)}" if origin.several else "studies"
    task = StudyTask(
        origin=origin,
        corpus=_corpus(job, origin.spec.concept),
        output=storage.absolute(job.output if job.output is not None else storage.join(origin.url, folder)),
        device="cuda" if torch.cuda.is_available() else "cpu",
        options=options,
        tell=functools.partial(print, flush=True),
    )
    study = run_study(job.study, task)
    print(study.table)
    for url in study.write(task.output):
        print(storage.redact(url))
    if job.json is not None:
        _write(study.figures, job.json)
    return 0


def _corpus(job: Evaluate, concept: str) -> str:
    if job.input is not None:
        return storage.absolute(find_input(job.input, concept))
    found = find_corpus_url(read_manifest(storage.absolute(job.run)))
    if found is None:
        raise ValueError("the run does not say which images it labelled; give --input")
    return found


def _write(result: dict[str, Any], file: str) -> None:
    storage.atomic_put((json.dumps(result, indent=2) + "\n").encode(), storage.absolute(file))


if __name__ == "__main__":
    sys.exit(main())
