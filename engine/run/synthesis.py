"""The synthetic set of one run: its plan.

RUN/synthetic/ is laid out as a run directory of its own, with images that it has made itself:

run.json                    settings and their fingerprint
images/000000.tar           WebDataset: image, mask, cut-out, background, facts, caption
labels/000000.parquet       rows as of any labelled image, and the receipt
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from engine import storage
from engine.corpus.catalogue import Shard
from engine.corpus.lease import Lease
from engine.labelling.spec import LabelSpec
from engine.run.directory import LabelRun, check_manifest, make_manifest, new_session
from engine.run.fitting import Fitting
from engine.run.harvest import Complete
from engine.run.names import results_url
from engine.run.origin import Origin
from engine.run.plan import split_done
from engine.run.quantities import format_count
from engine.run.source import SynthesizerSource
from engine.run.starts import Starts
from engine.run.synthetic_shard import synthesize_shard
from engine.synthesis.spec import SynthesisSpec
from schemas.label import LABEL_SCHEMA_VERSION
from schemas.receipt import Receipt
from schemas.run import RunManifest

FOLDER = "synthetic"


@dataclass(frozen=True, kw_only=True)
class SynthesisPlan:
    """A checked synthesis; an `engine.run.harvest.LeasePlan`.

    Attributes:
        settings: of the samples.
        origin: the run that they come from.
        starts: the images that they begin from; None where it is noise.
        leases: one for each shard, limited to the samples it is to hold.
        resumed: whether there is a manifest already.
    """

    sized: ClassVar[bool] = False

    settings: SynthesisSpec
    origin: Origin
    starts: Starts | None
    run: LabelRun
    manifest: RunManifest
    leases: list[Lease]
    remaining: list[Lease]
    receipts: dict[str, Receipt]
    resumed: bool

    @property
    def task(self) -> SynthesisTask:
        return SynthesisTask(
            source=self.origin.source,
            spec=self.origin.spec,
            settings=self.settings,
            starts=self.starts,
            run=self.run,
            weights=self.origin.weights,
        )

    @property
    def places(self) -> set[str]:
        source = self.starts.source if self.starts else None
        begun = [source.leases[0].shard.url, source.labels_url] if source else []
        return {url for url in (self.run.url, self.origin.weights, *begun) if url}

    def describe(self) -> str:
        """The plan for a person, one fact per line."""
        settings, spec = self.settings, self.origin.spec
        pure = sum(map(settings.is_background, range(settings.count)))
        done = sum(receipt.seen for receipt in self.receipts.values())
        finished = len(self.leases) - len(self.remaining)
        begun = (
            f"from images of {self.starts.source.digest}, strength {settings.strength:g}"
            f"{self.starts.source.describe_missing()}"
            if self.starts
            else "from noise"
        )
        facts = [
            ("objects", f"{settings.count - pure} of {spec.prompt!r}, guidance {settings.guidance:g}"),
            ("begun", begun),
            ("backgrounds", f"{pure} of {spec.background_prompt!r}, guidance {settings.background_guidance:g}"),
            ("model", self.run.model + (f" at {self.run.revision}" if self.run.revision else "")),
            ("fine-tuned", storage.redact(self.origin.weights) if self.origin.weights else "no"),
            ("fingerprint", self.run.fingerprint),
            ("output", storage.redact(self.run.url) + (" (to be resumed)" if self.resumed else " (new)")),
            ("done", f"{format_count(finished, 'shard')} with {format_count(done, 'sample')}"),
            ("to do", format_count(len(self.remaining), "shard")),
        ]
        return "\n".join(f"{name:<12}{fact}" for name, fact in facts)


@dataclass(frozen=True, kw_only=True)
class SynthesisTask:
    """The synthesis as it travels to a worker.

    Attributes:
        starts: the images that samples begin from; None where it is noise.
        weights: URL of m′, None where m does all.
    """

    source: SynthesizerSource
    spec: LabelSpec
    settings: SynthesisSpec
    starts: Starts | None
    run: LabelRun
    weights: str | None

    @property
    def model(self) -> str:
        return self.run.model

    def load(self, *, device: str, threads: int | None) -> Complete:
        """What makes one shard after another."""
        concept = storage.read_bytes(self.weights) if self.weights else None
        samples = self.source.build_synthesizer(
            self.spec, self.settings, device=device, threads=threads, weights=concept
        )
        fitting = Fitting(samples)
        return lambda lease, report: synthesize_shard(lease, fitting, self.settings, self.run, self.starts, report)


def plan_synthesis(
    origin: Origin,
    settings: SynthesisSpec,
    *,
    output: str | None = None,
    input_url: str | None = None,
    config: dict[str, Any] | None = None,
) -> SynthesisPlan:
    """Checks the place that samples shall go to; reads it and writes nothing.

    Args:
        origin: the run to take model, m′ and settings of the labels from (see `engine.run.origin.find_origin`).
        output: folder or URL; default RUN/synthetic.
        input_url: where the run's corpus is, if it is no longer where it was labelled.

    Raises:
        RunError: it holds samples of other settings, or there are no labels of images to begin from.
        ValueError: the corpus is missing, or the model cannot make such samples.
    """
    url = results_url(output if output is not None else storage.join(origin.url, FOLDER), "--output")
    spec, source = origin.spec, origin.source
    source.check_synthesis(settings)
    starts = Starts.find(origin.url, spec.concept, settings, input_url)
    fields = {
        "label_schema": LABEL_SCHEMA_VERSION,
        **spec.fingerprint_fields(),
        **origin.fields,
        **settings.fingerprint_fields(),
        **({"synthesis.starts": starts.source.digest} if starts else {}),
    }
    manifest = make_manifest(fields, config)
    run = LabelRun(
        url=url,
        stage=spec.stage,
        concept=spec.concept,
        prompt=spec.prompt,
        fingerprint=manifest.hash,
        model=source.model,
        revision=source.revision,
        seed=spec.seed,
        session=new_session(),
        option="--output",
    )
    resumed = check_manifest(url, manifest, option=run.option)
    leases = plan_shards(run, settings)
    remaining, receipts = split_done(leases, run) if resumed else (leases, {})
    return SynthesisPlan(
        settings=settings,
        origin=origin,
        starts=starts,
        run=run,
        manifest=manifest,
        leases=leases,
        remaining=remaining,
        receipts=receipts,
        resumed=resumed,
    )


def plan_shards(run: LabelRun, settings: SynthesisSpec) -> list[Lease]:
    """A lease for each shard, whose limit says how many samples it shall hold."""
    leases = []
    for number, start in enumerate(range(0, settings.count, settings.shard_size)):
        name = f"{number:06d}"
        # In place of a size that is not known yet: the same whatever the count, as what identifies a shard must be.
        shard = Shard(url=run.images_url(name), name=f"{name}.tar", size=settings.shard_size, kind="tar")
        leases.append(Lease(shard=shard, limit=min(settings.shard_size, settings.count - start)))
    return leases
