"""What a labelling run is going to do, settled and checked before anything starts."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from engine import storage
from engine.corpus.catalogue import list_shards
from engine.corpus.lease import LEASE_VERSION, Lease, plan_leases
from engine.distillation.spec import DistillationSpec
from engine.labelling.spec import LabelSpec, SeveralSpec
from engine.run.concept import WEIGHTS, ConceptTask, check_adapter
from engine.run.counts import read_counts
from engine.run.directory import (
    LabelRun,
    RunError,
    check_manifest,
    make_manifest,
    new_session,
    read_receipts,
    subtract_receipts,
)
from engine.run.names import concept_url, index_folder, results_url
from engine.run.quantities import format_bytes, format_count
from engine.run.shard import LabelTask
from engine.run.source import LabellerSource, Precision, RunSpec
from engine.run.training import plan_sample
from schemas.label import LABEL_SCHEMA_VERSION
from schemas.receipt import Receipt
from schemas.run import RunManifest


@dataclass(frozen=True, kw_only=True)
class LabelPlan:
    """A checked run.

    Attributes:
        spec: as the source's labellers take it.
        input_url: the corpus, absolute.
        leases: all leases of the corpus (up to the limit); `remaining` are those without a receipt.
        receipts: of the leases that are done, by lease id.
        resumed: whether the run directory has a manifest already.
        weights: URL of m′ of each concept; none where m does all.
        concepts: the fine-tunings that are still to make m′.
        sample: the labelling of what they learn from.
    """

    sized: ClassVar[bool] = True

    spec: RunSpec
    source: LabellerSource
    run: LabelRun
    manifest: RunManifest
    input_url: str
    leases: list[Lease]
    remaining: list[Lease]
    receipts: dict[str, Receipt]
    resumed: bool
    weights: tuple[str, ...] = ()
    concepts: tuple[ConceptTask, ...] = ()
    sample: LabelPlan | None = None

    @property
    def shards(self) -> int:
        return len({lease.shard.name for lease in self.leases})

    @property
    def done(self) -> bool:
        """Whether nothing is left to do."""
        return not self.remaining

    @property
    def task(self) -> LabelTask:
        weights = self.weights if self.run.stage == "refined" else ()
        return LabelTask(source=self.source, spec=self.spec, run=self.run, weights=weights)

    @property
    def places(self) -> set[str]:
        local = [self.source.model] if os.path.isabs(self.source.model) else []
        return {self.run.url, *(lease.shard.url for lease in self.remaining[:1]), *local, *self.task.weights}

    def describe(self) -> str:
        """The plan for a person, one fact per line."""
        done = sum(receipt.seen for receipt in self.receipts.values())
        finished = len(self.leases) - len(self.remaining)
        size = sum(lease.shard.size / lease.parts for lease in self.leases)
        model = storage.redact(self.run.model) + (f" at {self.run.revision}" if self.run.revision else "")
        if self.run.model == "miniature":
            model += " (of drawn scenes; for photographs give --model)"
        facts = [
            ("concept", repr(self.spec.concept) + (f" in the prompt {self.spec.prompt!r}" if self.spec.prompt else "")),
            ("stage", self.spec.stage),
            ("input", storage.redact(self.input_url)),
            ("shards", f"{self.shards} ({format_bytes(size)}), in {format_count(len(self.leases), 'lease')}"),
            ("model", model),
            ("fingerprint", self.run.fingerprint),
            ("run", storage.redact(self.run.url) + (" (to be resumed)" if self.resumed else " (new)")),
            ("done", f"{format_count(finished, 'lease')} with {format_count(done, 'image')}"),
            ("to do", format_count(len(self.remaining), "lease")),
        ]
        if self.concepts and self.sample:
            settings = self.concepts[0].distillation
            leases = format_count(len(self.sample.leases), "lease")
            images = f"of up to {format_count(settings.sample, 'image')} in {leases}"
            facts.insert(-2, ("fine-tuning", f"{settings.method}, on masks {images}, to be done"))
        elif self.weights:
            facts.insert(-2, ("fine-tuning", f"done: {', '.join(map(storage.redact, self.weights))}"))
        return "\n".join(f"{name:<12}{fact}" for name, fact in facts)


def plan_labelling(
    *,
    spec: LabelSpec | SeveralSpec,
    source: LabellerSource,
    input_url: str,
    run_url: str,
    distillation: DistillationSpec,
    adapter: str | None = None,
    limit: int | None = None,
    batch_size: int = 8,
    precision: Precision = "float32",
    retry: bool = False,
    config: dict[str, Any] | None = None,
) -> LabelPlan:
    """Checks model, corpus and run directory; reads all of them and writes nothing.

    Args:
        precision: of the source's labellers, for the fingerprint.
        adapter: URL of an m′ made before, which replaces the fine-tuning; of one concept only.
        retry: try again what is in quarantine.

    Raises:
        ValueError: something is wrong with what the user asked for; one sentence says what, and what to do.
    """
    model_fields = source.check(spec)
    weights: tuple[str, ...] = ()
    if adapter is not None:
        if isinstance(spec, SeveralSpec):
            raise RunError("--adapter is for one concept; label each concept with its own")
        url, distillation_fields = check_adapter(storage.absolute(adapter), spec, model_fields)
        weights = (url,)
    else:
        distillation_fields = distillation.fingerprint_fields()
    fields = {
        **spec.fingerprint_fields(),
        **distillation_fields,
        **model_fields,
        **({} if precision == "float32" else {"precision": precision}),  # older runs say nothing of it
    }
    plan = plan_run(
        spec=spec,
        source=source,
        fields=fields,
        weights=weights,
        input_url=input_url,
        run_url=run_url,
        limit=limit,
        batch_size=batch_size,
        retry=retry,
        config=config,
    )
    if spec.stage == "refined" and distillation.method != "none" and adapter is None:
        plan = _plan_concepts(plan, spec, distillation, limit)
    return plan


def plan_run(
    *,
    spec: RunSpec,
    source: LabellerSource,
    fields: dict[str, Any],
    input_url: str,
    run_url: str,
    weights: tuple[str, ...] = (),
    limit: int | None = None,
    batch_size: int = 8,
    retry: bool = False,
    config: dict[str, Any] | None = None,
    option: str = "--run",
) -> LabelPlan:
    """The plan for labellers of any kind: checks corpus and run directory, as `plan_labelling`.

    Args:
        fields: all that shapes the labels of an image, for the fingerprint.
        weights: URLs of what the labellers load besides their model.
        option: by which the user names the run directory.
    """
    input_url, run_url = storage.absolute(input_url), results_url(run_url, option)
    fields = {"label_schema": LABEL_SCHEMA_VERSION, "lease_version": LEASE_VERSION, **fields}
    manifest = make_manifest(fields, {**(config or {}), "input_url": input_url})
    resumed = check_manifest(run_url, manifest, option=option)
    run = LabelRun(
        url=run_url,
        stage=spec.stage,
        concept=spec.concept,
        prompt=spec.prompt,
        fingerprint=manifest.hash,
        model=source.model,
        revision=source.revision,
        seed=spec.seed,
        session=new_session(),
        batch_size=batch_size,
        retry=retry,
        option=option,
    )
    counts = read_counts(run) if resumed and limit is not None else None
    leases = plan_leases(list_shards(input_url), limit=limit, known=counts, indexes=index_folder(run_url))
    plan = LabelPlan(
        spec=spec,
        source=source,
        run=run,
        manifest=manifest,
        input_url=input_url,
        leases=leases,
        remaining=leases,
        receipts={},
        resumed=resumed,
        weights=weights,
    )
    return _without_done(plan)


def _without_done(plan: LabelPlan) -> LabelPlan:
    """The plan without the leases that have a receipt of the same fingerprint."""
    if not plan.resumed:
        return plan
    remaining, done = split_done(plan.leases, plan.run)
    return replace(plan, remaining=remaining, receipts=done)


def split_done(leases: list[Lease], run: LabelRun) -> tuple[list[Lease], dict[str, Receipt]]:
    """The leases that are still to be done, and the receipts of the others.

    Raises:
        RunError: a receipt of another fingerprint or corpus.
    """
    receipts = read_receipts(run.url, run.stage)
    remaining = subtract_receipts(leases, receipts, run)
    open_ids = {lease.id for lease in remaining}
    done = {lease.id: receipts[lease.id] for lease in leases if lease.id not in open_ids}
    for receipt in done.values():
        if receipt.fingerprint != run.fingerprint:
            raise RunError(
                f"the receipt of {receipt.lease_id} in {storage.redact(run.url)} has the fingerprint "
                f"{receipt.fingerprint}, the run has {run.fingerprint}; use another folder"
            )
    return remaining, done


def _plan_concepts(
    plan: LabelPlan, spec: LabelSpec | SeveralSpec, distillation: DistillationSpec, limit: int | None
) -> LabelPlan:
    """The plan with the fine-tunings that its labels need, unless they are done."""
    run = replace(plan.run, stage="preliminary")
    tasks = [
        ConceptTask(
            run=run,
            spec=own,
            folder=concept_url(run.url, own.concept if isinstance(spec, SeveralSpec) else None),
            distillation=distillation,
            source=plan.source,
            leases=[],
            limit=limit,
        )
        for own in spec.specs
    ]
    plan = replace(plan, weights=tuple(task.url(WEIGHTS) for task in tasks))
    receipts = {task.folder: task.find_receipt() for task in tasks} if plan.resumed else {}
    made = {folder: receipt.limit for folder, receipt in receipts.items() if receipt}
    if all(task.folder in made and not (plan.remaining and task.may_outgrow(made[task.folder])) for task in tasks):
        return plan  # to plan a sample, a shard has to be opened
    leases = plan_sample(plan.leases, distillation.sample, index_folder(run.url))
    tasks = [replace(task, leases=leases) for task in tasks]
    if anew := {task.folder for task in tasks if task.outgrows(made.get(task.folder))}:
        plan = replace(plan, remaining=plan.leases, receipts={})  # what they have labelled is labelled anew, too
    left = tuple(task for task in tasks if task.folder not in made or task.folder in anew)
    if not left:
        return plan
    sample = replace(plan, spec=spec.at("preliminary"), run=run, leases=leases, remaining=leases, receipts={})
    return replace(plan, concepts=left, sample=_without_done(sample))


def count_quarantined(receipts: Iterable[Receipt]) -> Counter[str]:
    """Quarantined samples by reason, over all receipts."""
    total: Counter[str] = Counter()
    for receipt in receipts:
        total.update(receipt.quarantined)
    return total
