"""Fine-tunes the diffusion model on a concept: the second step of labelling, alone."""

from __future__ import annotations

import functools
import sys
from dataclasses import dataclass
from pathlib import Path

# Where the project is not installed (a job's working directory), it is found beside this file.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from engine import storage
from engine.run.command import run_command
from engine.run.directory import find_input
from engine.run.ignored import tell_ignored_training
from engine.run.names import choose_run_url, concept_url
from engine.run.options import (
    Distillation,
    Execution,
    Method,
    Model,
    Refinement,
    What,
    Where,
    distillation_spec,
    label_spec,
    settings_to_config,
    source_of,
)
from engine.run.plan import plan_labelling
from engine.run.quantities import format_counts
from engine.run.source import LabellerSource
from engine.run.training import find_training
from engine.run.what_next import describe_go_on


@dataclass(frozen=True, kw_only=True)
class Finetune:
    """All settings of the job."""

    what: What
    where: Where
    model: Model
    distillation: Distillation
    method: Method
    refinement: Refinement
    execution: Execution


DESCRIPTION = """Fine-tunes the diffusion model on a concept, from preliminary masks of a sample of the images.

The model learns to synthesise images of the concept, and to paint background where it is not. jobs/label.py with the
same settings and run directory goes on from there; with --adapter it labels other images with the result. Look at
RUN/concept/progress: samples of the concept, samples of background, images with the object removed, and the loss.

Examples:
  python jobs/finetune.py --concept car --run runs/car --method full --steps 2000
  python jobs/label.py --concept car --adapter runs/car/concept --input more-images --run runs/more-cars

Exit code: 0 done, 1 stopped (the same command resumes) or more of the sample in quarantine than --max-failures, 2 wrong
usage."""


def main(arguments: list[str] | None = None, *, source: LabellerSource | None = None) -> int:
    """Parses, plans, fine-tunes; returns the exit code. Tests pass another `source` of models."""

    given = sys.argv[1:] if arguments is None else arguments

    def run(options: Finetune) -> int:
        what, where, settings = options.what, options.where, distillation_spec(options.distillation)
        if settings.method == "none":
            raise ValueError("--method none leaves nothing to do; give lora or full")
        tell_ignored_training(options.distillation)
        model = source or source_of(options.model)
        plan = plan_labelling(
            spec=label_spec(what, options.method, options.refinement, "refined"),
            source=model,
            input_url=find_input(where.input, what.concept),
            run_url=choose_run_url(where.run, what.concept),
            distillation=settings,
            limit=where.limit,
            batch_size=options.execution.batch_size,
            precision=options.model.model_precision,
            config=settings_to_config(options, model),
        )
        print(plan.describe(), flush=True)
        if options.execution.dry_run:
            return 0
        # Imported here because Ray takes seconds, and many calls end before they need it.
        from engine.pipeline.driver import make_concepts_of

        make_concepts_of(plan, workers=options.execution.workers, tell=functools.partial(print, flush=True))
        receipt = find_training(concept_url(plan.run.url), plan.run.fingerprint)
        assert receipt is not None, "it was just made, or there before"
        print(f"weights      {', '.join(map(storage.redact, plan.weights))}")
        print(f"images       {format_counts(receipt.images)}")
        print(describe_go_on("label", given, run=plan.run.url))
        return int(receipt.quarantined > options.execution.max_failures)

    return run_command(Finetune, run, job="finetune", description=DESCRIPTION, arguments=arguments, once="--concept")


if __name__ == "__main__":
    sys.exit(main())
