"""A run of several concepts: a run of each, and the joining of their labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from engine import storage
from engine.corpus.lease import Lease
from engine.run.directory import LabelRun, RunError, check_manifest, make_manifest, read_receipts
from engine.run.join import JoinTask
from engine.run.names import concept_run_url, to_folder
from engine.run.plan import LabelPlan, split_done
from schemas.label import LABEL_SCHEMA_VERSION
from schemas.receipt import Receipt
from schemas.run import RunManifest

JOIN_VERSION = 3
"""Raised whenever the joined labels change for unchanged labels of the concepts."""


@dataclass(frozen=True, kw_only=True)
class SeveralPlan:
    """A checked run of several concepts; a `LeasePlan` for the joining, which comes last.

    Attributes:
        concepts: the plan of each, in order.
        leases: of the corpus; `remaining` are those to be joined, `receipts` those of the others.
    """

    concepts: tuple[LabelPlan, ...]
    run: LabelRun
    manifest: RunManifest
    remaining: list[Lease]
    receipts: dict[str, Receipt]
    resumed: bool

    @property
    def leases(self) -> list[Lease]:
        return self.concepts[0].leases

    @property
    def input_url(self) -> str:
        return self.concepts[0].input_url

    @property
    def task(self) -> JoinTask:
        return JoinTask(runs=tuple(plan.run for plan in self.concepts), run=self.run)

    @property
    def places(self) -> set[str]:
        return {self.run.url}

    @property
    def done(self) -> bool:
        """Whether nothing is left to do."""
        return not self.remaining and not any(plan.remaining for plan in self.concepts)

    def after_concepts(self) -> SeveralPlan:
        """The plan of what is to be joined now that the concepts' labels are there; stale receipts are taken back."""
        for lease_id in find_stale(self.run, self.concepts):
            storage.remove(self.run.receipt_url(lease_id))
        remaining, done = split_done(self.leases, self.run)
        return replace(self, remaining=remaining, receipts=done)

    def describe(self) -> str:
        """The plan for a person: each concept's, then the joining."""
        parts = [plan.describe() for plan in self.concepts]
        facts = [
            ("concepts", ", ".join(repr(plan.run.concept) for plan in self.concepts)),
            ("fingerprint", self.run.fingerprint),
            ("run", storage.redact(self.run.url) + (" (to be resumed)" if self.resumed else " (new)")),
            ("to join", f"{len(self.remaining)} of {len(self.leases)} leases"),
        ]
        return "\n\n".join([*parts, "\n".join(f"{name:<12}{fact}" for name, fact in facts)])


def plan_several(
    concepts: Sequence[str], plan_one: Callable[[str, str], LabelPlan], run_url: str, config: dict[str, Any]
) -> SeveralPlan:
    """Checks everything that the concepts' runs and their joining need; writes nothing.

    Args:
        plan_one: the plan of a concept in the run directory of that URL.

    Raises:
        ValueError: something is wrong with what the user asked for; one sentence says what, and what to do.
    """
    run_url = storage.absolute(run_url)
    plans = tuple(plan_one(concept, concept_run_url(run_url, concept)) for concept in concepts)
    first = plans[0]
    manifest = make_manifest(
        {
            "label_schema": LABEL_SCHEMA_VERSION,
            "concept": ", ".join(concepts),
            "concepts": list(concepts),
            "join_version": JOIN_VERSION,
            **{f"labels.{plan.run.concept}": plan.run.fingerprint for plan in plans},
        },
        {**config, "input_url": first.input_url},
    )
    resumed = check_manifest(run_url, manifest)
    run = replace(
        first.run,
        url=run_url,
        concept=", ".join(concepts),
        prompt="",
        fingerprint=manifest.hash,
        retry=False,
    )
    remaining, done = first.leases, dict[str, Receipt]()
    if resumed:
        _, receipts = split_done(first.leases, run)
        stale = find_stale(run, plans)
        done = {lease_id: receipt for lease_id, receipt in receipts.items() if lease_id not in stale}
        remaining = [lease for lease in first.leases if lease.id not in done]
    return SeveralPlan(concepts=plans, run=run, manifest=manifest, remaining=remaining, receipts=done, resumed=resumed)


def find_stale(run: LabelRun, plans: Sequence[LabelPlan]) -> set[str]:
    """Leases that were joined from other labels than the concepts have of them now, by id."""
    own = {plan.run.concept: read_receipts(plan.run.url, plan.run.stage) for plan in plans}
    stale = set()
    for lease_id, receipt in read_receipts(run.url, run.stage).items():
        sessions = {name: found[lease_id].session for name, found in own.items() if lease_id in found}
        if receipt.sources != sessions:
            stale.add(lease_id)
    return stale


def read_concepts(concepts: Sequence[str], file: str | None) -> tuple[str, ...]:
    """The concepts that the options name, each once.

    Args:
        file: URL of a text file with a word or phrase in every line; what follows a # is left out.

    Raises:
        ValueError: none, one twice, two whose folders would be one, or a file that cannot be read.
    """
    named = list(concepts)
    if file is not None:
        try:
            text = storage.read_bytes(storage.absolute(file)).decode()
        except (OSError, ValueError) as error:
            raise ValueError(f"--concept-file {storage.redact(file)} cannot be read: {error}") from error
        named += [line for line in (line.partition("#")[0].strip() for line in text.splitlines()) if line]
    if not named:
        raise ValueError("no concept is named; give --concept WORD, once or more often, or --concept-file FILE")
    folders: set[str] = set()
    for concept in named:
        if to_folder(concept) in folders:
            raise RunError(f"--concept {concept!r} is there already, or another one like it; name each once")
        folders.add(to_folder(concept))
    return tuple(named)
