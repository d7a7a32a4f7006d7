"""The training of a segmenter: what it learns from, where it is kept, and doing it. No Ray.

segmenter/run.json              settings, checked whenever the training goes on
segmenter/checkpoints/          the training's state, while it is under way
segmenter/metrics.jsonl         loss, IoU and learning rate of every step; loss.png and progress.png show them
segmenter/model.safetensors     the weights, and config.json beside them
segmenter/receipt.json          says that they are complete
"""

from __future__ import annotations

import io
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from engine import storage
from engine.corpus.lease import Lease
from engine.run.classes import choose_concepts, name_concepts
from engine.run.directory import RunError, check_manifest, make_manifest, read_manifest
from engine.run.example_source import (
    ExampleSource,
    cut_sources,
    find_corpus,
    find_masked,
    find_synthetic,
)
from engine.run.names import results_url
from engine.run.quantities import format_count, format_counts
from engine.run.training import find_training, make_receipt
from engine.segmenter.review import read_review
from engine.segmenter.spec import SegmenterSpec
from schemas.run import RunManifest
from schemas.training import TrainingReceipt

if TYPE_CHECKING:
    from torch import nn

    from engine.segmenter.examples import Example
    from engine.segmenter.train import History

CHECKPOINTS = "checkpoints"


@dataclass(frozen=True, kw_only=True)
class SegmenterTask:
    """All that a worker needs to train a segmenter. Picklable.

    Attributes:
        url: where it is kept, absolute.
        concept: its name; of several, all names.
        concepts: of a training on several, in the order of their classes; empty for one.
        review: decisions of a person by (shard, key) of the corpus.
        resumed: whether such a training was begun before.
        checkpoint_every: steps between checkpoints.
    """

    url: str
    concept: str
    spec: SegmenterSpec
    sources: list[ExampleSource]
    review: dict[tuple[str, str], str]
    manifest: RunManifest
    concepts: tuple[str, ...] = ()
    resumed: bool = False
    checkpoint_every: int = 500

    @property
    def leases(self) -> list[tuple[int, Lease, int]]:
        """All of them in order, between the place of their source and the number of examples wanted."""
        return [
            (place, lease, wanted)
            for place, source in enumerate(self.sources)
            for lease, wanted in zip(source.leases, source.wanted, strict=True)
        ]

    @property
    def places(self) -> set[str]:
        """What every node of a cluster must see."""
        firsts = [source.leases[0].shard.url for source in self.sources if source.leases]
        return {self.url, *firsts, *(source.labels_url for source in self.sources if source.labels_url)}

    @property
    def unread(self) -> Counter[str]:
        """What is not read for want of labels or images, by ``SOURCE.REASON``."""
        counts: Counter[str] = Counter()
        for source in self.sources:
            counts[f"{source.name}.lease_without_label"] = source.unlabelled
            counts[f"{source.name}.label_without_image"] = source.gone_labels
        return +counts

    def file(self, *names: str) -> str:
        return storage.join(self.url, *names)

    def find_receipt(self) -> TrainingReceipt | None:
        """Of a finished training; None if it is still to be done."""
        return find_training(self.url, self.manifest.hash, option="--output")

    def describe(self) -> str:
        """The plan for a person, one fact per line."""
        facts = [("concept", repr(self.concept))]
        if self.concepts:
            classes = [f"{number} {name!r}" for number, name in enumerate(self.concepts, 1)]
            facts = [("classes", ", ".join(["0 background", *classes]))]
        for source in self.sources:
            what = {"refined": "M", "preliminary": "M_pre", "truth": "the corpus's own masks"}[source.labels]
            leases = format_count(len(source.leases), "lease")
            facts.append((source.name, f"{leases}, labels: {what}{source.describe_missing()}"))
        facts += [
            ("training", self.spec.describe()),
            ("fingerprint", self.manifest.hash),
            ("segmenter", storage.redact(self.url) + (" (to be resumed)" if self.resumed else " (new)")),
        ]
        return "\n".join(f"{name:<12}{fact}" for name, fact in facts)


def plan_training(
    *,
    run_url: str | None,
    spec: SegmenterSpec,
    concept: str | Sequence[str] | None = None,
    input_url: str | None = None,
    output_url: str | None = None,
    review_url: str | None = None,
    config: dict[str, Any] | None = None,
) -> SegmenterTask:
    """Checks run, corpus and output; reads all of them and writes nothing.

    Args:
        run_url: None to learn from the masks of a corpus that no run has labelled: then concept, input and output are
            needed.
        concept: of these masks, or several; a run has its own, and of a run's several some can be chosen.
        input_url: the run's corpus, if it is no longer where it was when it was labelled.
        output_url: instead of RUN/segmenter.
        review_url: CSV of a person's decisions (see `engine.segmenter.review`).

    Raises:
        ValueError: something is wrong with what the user asked for; one sentence says what, and what to do.
    """
    review, digest = read_review(review_url)
    spec = replace(spec, review=digest)
    names = (concept,) if isinstance(concept, str) else tuple(concept or ())
    if twice := [name for place, name in enumerate(names) if name in names[:place]]:
        raise RunError(f"--concept {twice[0]} is given twice; a concept is one class")
    if len(names) > 255:
        raise RunError(f"--concept is given {len(names)} times; a segmenter has at most 255 classes")
    if run_url is None:
        url, sources = _without_run(spec, names, input_url, output_url)
        fields = name_concepts(names)
    else:
        run_url = storage.absolute(run_url)
        labelled = read_manifest(run_url)
        names, folder = choose_concepts(names, labelled, spec, run_url)
        url = results_url(output_url if output_url is not None else storage.join(run_url, folder), "--output")
        sources, fields = [find_corpus(run_url, labelled, spec.labels, input_url)], name_concepts(names)
        if spec.labels != "truth":
            fields["labels"] = labelled.hash
        if spec.synthetic:
            synthetic, of_synthetic = find_synthetic(run_url)
            sources.append(synthetic)
            fields["synthetic"] = of_synthetic.hash
    _check_review(review, sources[0])
    fields |= {f"{source.name}.images": source.digest for source in sources}
    manifest = make_manifest({**fields, **spec.fingerprint_fields()}, config)
    return SegmenterTask(
        url=url,
        concept=fields["concept"],
        concepts=tuple(fields.get("concepts", ())),
        spec=spec,
        sources=cut_sources(sources, spec.steps * spec.batch_size),
        review=review,
        manifest=manifest,
        resumed=check_manifest(url, manifest, option="--output"),
    )


def _check_review(review: Mapping[tuple[str, str], str], corpus: ExampleSource) -> None:
    """Refuses the decisions about another run; RunError."""
    shards = {lease.shard.name for lease in corpus.leases}
    if review and not any(shard in shards for shard, _ in review):
        raise RunError(
            f"none of the {len(review)} decisions of --review is about a shard of the corpus; the first is about "
            f"{next(iter(review))[0]!r}. Give those about this run's own images: none is taken about synthetic ones"
        )


def _without_run(
    spec: SegmenterSpec, names: Sequence[str], input_url: str | None, output_url: str | None
) -> tuple[str, list[ExampleSource]]:
    """Output and source of a training on a corpus's own masks."""
    if spec.labels != "truth" or spec.synthetic:
        raise RunError("labels and synthetic images are those of a run; give --run, or learn from --labels truth")
    if not names or input_url is None or output_url is None:
        raise RunError("without --run, --labels truth needs --concept, --input and --output")
    return results_url(output_url, "--output"), [find_masked(input_url, ", ".join(names))]


def read_task(
    task: SegmenterTask, tally: Counter[str], leases: Sequence[tuple[int, Lease, int]] | None = None
) -> Iterator[Example]:
    """The examples of the task, or of some of its leases; `tally` counts by ``SOURCE.REASON``.

    Args:
        leases: as the task's.
    """
    from engine.segmenter.examples import read_examples

    for place, lease, wanted in task.leases if leases is None else leases:
        source, own = task.sources[place], Counter[str]()
        yield from read_examples(
            source.labels_url,
            [lease],
            task.spec,
            own,
            concept=task.concepts or task.concept,
            labels=source.labels,
            alone=source.alone,
            review=task.review if source.name == "corpus" else None,
            most=wanted,
            indexes=source.indexes,
        )
        tally.update({f"{source.name}.{reason}": count for reason, count in own.items() if count})


def make_segmenter(
    task: SegmenterTask,
    examples: Sequence[Example],
    tally: Mapping[str, int],
    *,
    device: str,
    on_progress: Callable = lambda progress: None,
    first: bool = True,
) -> TrainingReceipt | None:
    """Train a segmenter, or go on with it, and write it and its receipt; what is there already is returned at once.

    Args:
        tally: what became of the images and labels that the examples were made from.
        first: of several processes that share the work, the one that writes; the others return None.

    Raises:
        ValueError: no example.
        OSError: the output cannot be reached.
    """
    from engine.segmenter.files import WEIGHTS, SegmenterConfig
    from engine.segmenter.pictures import draw_history, draw_predictions
    from engine.segmenter.segmenter import Segmenter
    from engine.segmenter.train import train_segmenter

    if receipt := task.find_receipt():
        return receipt
    if not examples:
        seen = format_counts(tally) or "no image at all"
        raise ValueError(f"there is nothing to learn {task.concept!r} from ({seen})")
    began = time.perf_counter()

    def keep(step: int, history: History, network: nn.Module) -> None:
        lines = "".join(json.dumps(record) + "\n" for record in history.records(task.spec, len(examples)))
        storage.atomic_put(lines.encode(), task.file("metrics.jsonl"))
        storage.atomic_put(draw_history(history), task.file("loss.png"))
        picture = io.BytesIO()
        draw_predictions(network, examples, task.spec, device).save(picture, "PNG")
        storage.atomic_put(picture.getvalue(), task.file("progress.png"))

    network, history = train_segmenter(
        examples,
        task.spec,
        channels=len(task.concepts) + 1 if task.concepts else 1,
        checkpoint=task.file(CHECKPOINTS, "state.safetensors"),
        checkpoint_every=task.checkpoint_every,
        device=device,
        on_progress=on_progress,
        on_checkpoint=keep,
    )
    if not first:
        return None
    notes = {
        "labels": task.spec.labels,
        "synthetic": task.spec.synthetic,
        "fingerprint": task.manifest.hash,
        "settings": task.manifest.fingerprint,
        "images": dict(sorted(tally.items())),
        "metrics": history.summary(task.spec, len(examples)),
    }
    config = SegmenterConfig(
        concept=task.concept,
        width=task.spec.width,
        short_side=task.spec.short_side,
        concepts=task.concepts,
        notes=notes,
    )
    data = Segmenter(network, config, device=device).save_pretrained(task.url)
    seconds = {"train": time.perf_counter() - began}
    receipt = make_receipt(task.manifest.hash, tally, history.losses, name=WEIGHTS, data=data, seconds=seconds)
    storage.atomic_put(receipt.to_json().encode(), task.file("receipt.json"))
    return receipt
