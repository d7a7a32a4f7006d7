"""The fine-tuning of a run on its concept: what it learns from, where it is kept, and doing it. No Ray.

concept/weights.safetensors      m′: adapters or the whole U-Net
concept/receipt.json             says that they are complete
concept/training/                checkpoint and latents, for a training that was killed
concept/progress/000500.png      samples of y_f, samples of y_b, objects removed; loss.png

A run of several concepts has the same in concepts/NAME for each of them.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.parquet as pq

from engine import storage
from engine.corpus.lease import Lease
from engine.corpus.listing import file_name
from engine.distillation.notes import read_notes
from engine.distillation.spec import DistillationSpec
from engine.labelling.label import USELESS
from engine.labelling.png import png_to_array
from engine.labelling.spec import LabelSpec
from engine.memory import free_memory, is_out_of_memory
from engine.run.directory import QUARANTINE_FOLDERS, STAGE_FOLDERS, LabelRun, RunError
from engine.run.names import concept_url, index_folder
from engine.run.prefetch import Picture, Prefetch
from engine.run.quantities import format_counts
from engine.run.source import LabellerSource
from engine.run.training import estimate_counts, find_training, make_receipt
from schemas.training import TrainingReceipt

if TYPE_CHECKING:
    from engine.diffusion.model import LatentDiffusion
    from engine.distillation.examples import Examples

logger = logging.getLogger(__name__)

WEIGHTS = "weights.safetensors"
SAMPLE = "sample.json"
"""Of a training that is under way: the limit of the run, and what became of the images."""
PICTURES_EVERY = 100
"""Steps between pictures of what m′ has learned."""


@dataclass(frozen=True, kw_only=True)
class ConceptTask:
    """All that a worker needs to make m′. Picklable.

    Attributes:
        run: of the preliminary stage, whose labels of the sample are there.
        folder: URL of where m′ is kept.
        leases: of the sample.
        limit: of the run: the sample is of its first so many images; None where it is of all.
        checkpoint_every: steps between checkpoints.
    """

    run: LabelRun
    spec: LabelSpec
    folder: str
    distillation: DistillationSpec
    source: LabellerSource
    leases: list[Lease]
    limit: int | None = None
    checkpoint_every: int = 100

    def url(self, *names: str) -> str:
        return storage.join(self.folder, *names)

    def find_receipt(self) -> TrainingReceipt | None:
        """Of a finished fine-tuning; None if it is still to be done.

        Raises:
            RunError: it is unreadable, or of other settings.
        """
        return find_training(self.folder, self.run.fingerprint)

    def is_outgrown(self) -> bool:
        """Whether m′ is there and learned from much fewer images than this sample has.

        Raises:
            RunError: as `find_receipt`.
        """
        receipt = self.find_receipt()
        return receipt is not None and self.outgrows(receipt.limit)

    def may_outgrow(self, limit: int | None) -> bool:
        """The same as `outgrows` where the corpus has as many images as are asked for."""
        return limit is not None and 2 * limit < min(self.distillation.sample, self.limit or self.distillation.sample)

    def outgrows(self, limit: int | None) -> bool:
        """Whether a sample under that limit has less than half of this one's images.

        A corpus that has grown, or a limit that was raised a little, is no reason to learn anew.
        """
        if limit is None or not self.may_outgrow(limit):  # to count the images, a shard has to be opened
            return False
        counts = zip(self.leases, estimate_counts(self.leases, index_folder(self.run.url)), strict=True)
        return 2 * limit < sum(min(lease.limit or n, n) for lease, n in counts)

    def clear_outgrown(self) -> None:
        """Removes what a fine-tuning on a sample that this one outgrows has left, and the labels which it made: those
        of a run are all by one. Other leavings are gone on with."""
        if self.is_outgrown():
            folder = storage.redact(self.folder)
            logger.warning("%s learned from few images (--limit); it and its labels are made anew", folder)
            self._clear_labels()
            storage.remove(self.url("receipt.json"))
        with suppress(FileNotFoundError):
            begun = json.loads(storage.read_bytes(self.url("training", SAMPLE)))
            if self.outgrows(begun["limit"]):
                storage.remove_folder(self.url("training"))

    def _clear_labels(self) -> None:
        """Receipts go first: none vouches for what is gone, and labels without one are found when this is resumed."""
        labels, quarantine = STAGE_FOLDERS["refined"], QUARANTINE_FOLDERS["refined"]
        for folder, ending in ((labels, ".json"), (labels, ".parquet"), (quarantine, ".parquet")):
            place = storage.join(self.run.url, folder)
            for name in storage.list_names(place):
                if name.endswith(ending) and not name.startswith("."):
                    storage.remove(storage.join(place, name))


def weights_url(run_url: str, one_of: str | None = None) -> str:
    """Where a run keeps m′ of its concept, or of one of several."""
    return storage.join(concept_url(run_url, one_of), WEIGHTS)


def check_adapter(url: str, spec: LabelSpec, model: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """The file of an m′ made before, and what a fingerprint says about it.

    Args:
        url: the file, or a folder (a run's concept/) with weights.safetensors in it.
        model: the fingerprint fields of m.

    Raises:
        RunError: no such file, or one that was made for another concept or of another model.
    """
    file = url if file_name(url).endswith(".safetensors") else storage.join(url, WEIGHTS)
    try:
        data = storage.read_bytes(file)
        notes = read_notes(data)
    except (OSError, ValueError, KeyError) as error:
        raise RunError(
            f"--adapter {storage.redact(file)} cannot be read ({error}); give a run's concept/weights.safetensors"
        ) from error
    wanted = {"concept": spec.concept, **{name: str(value) for name, value in model.items()}}
    for name, value in wanted.items():
        if notes.get(name) != value:
            raise RunError(f"--adapter {storage.redact(file)} was made for {name} {notes.get(name)!r}, not {value!r}")
    return file, {"distillation.adapter": hashlib.sha256(data).hexdigest()}


def read_sample(task: ConceptTask, tally: Counter[str]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Image and M_pre of every usable image of the sample; counts all of them in `tally`."""
    for lease in task.leases:
        data = storage.read_bytes(task.run.labels_url(lease.id))
        table = pq.read_table(io.BytesIO(data), columns=["key", "concept", "preliminary_mask", "flags"])
        rows = {row["key"]: row for row in table.to_pylist() if row["concept"] == task.spec.concept}
        with Prefetch(lease, indexes=index_folder(task.run.url)) as pictures:
            for item in pictures:
                if not isinstance(item, Picture) or item.key not in rows:
                    tally["quarantined"] += 1
                    continue
                row = rows[item.key]
                if reason := sorted(USELESS & set(row["flags"])):
                    tally[reason[0]] += 1
                    continue
                tally["used"] += 1
                yield item.image, png_to_array(row["preliminary_mask"])


def make_concept(
    task: ConceptTask, *, device: str, on_progress: Callable = lambda progress: None, first: bool = True
) -> TrainingReceipt | None:
    """Make m′, or go on with making it, and write weights and receipt; what is there already is returned at once.

    Args:
        first: of several processes that share the work, the one that writes; the others return None.

    Raises:
        ValueError: no usable image in the sample.
        OSError: corpus or run directory cannot be reached.
    """
    from engine.distillation.distil import distil

    if receipt := task.find_receipt():
        return receipt
    began = time.perf_counter()
    model = task.source.load(device=device)
    examples, images, limit = _gather(task, model, keep=first)
    encoded = time.perf_counter()
    prompts = (task.spec.prompt, task.spec.background_prompt)
    concept, losses = distil(
        model,
        examples,
        prompts,
        task.distillation,
        seed=task.spec.seed,
        checkpoint=task.url("training", "checkpoint.safetensors"),
        checkpoint_every=task.checkpoint_every,
        on_progress=on_progress,
        on_checkpoint=partial(_draw, task, examples, prompts),
    )
    if not first:
        return None
    notes = {**{k: str(v) for k, v in task.source.check(task.spec).items()}, "concept": task.spec.concept}
    data = concept.pack(rank=task.distillation.rank, notes={**notes, "fingerprint": task.run.fingerprint})
    storage.atomic_put(data, task.url(WEIGHTS))
    seconds = {"encode": encoded - began, "train": time.perf_counter() - encoded}
    receipt = make_receipt(task.run.fingerprint, images, losses, name=WEIGHTS, data=data, seconds=seconds, limit=limit)
    storage.atomic_put(receipt.to_json().encode(), task.url("receipt.json"))
    return receipt


def _gather(task: ConceptTask, model: LatentDiffusion, *, keep: bool) -> tuple[Examples, Counter[str], int | None]:
    """What a training that was killed has encoded, or the sample encoded now; what became of its images, and the limit
    of the run that it is of.

    Args:
        keep: write it down for a training that goes on.
    """
    from engine.distillation.examples import Examples, encode_examples

    cache, account = task.url("training", "examples.safetensors"), task.url("training", SAMPLE)
    with suppress(FileNotFoundError):
        examples = Examples.from_bytes(storage.read_bytes(cache))
        begun = json.loads(storage.read_bytes(account))
        return examples, Counter(begun["images"]), begun["limit"]
    tally: Counter[str] = Counter()
    try:
        examples = encode_examples(model, read_sample(task, tally), flip=task.distillation.flip)
    except ValueError as error:
        found = format_counts(tally) or "no image at all"
        raise ValueError(
            f"nothing to learn {task.spec.concept!r} from: {error} ({found}); "
            "give a larger --sample, a lower --presence-threshold (absent), or another --concept or --prompt"
        ) from error
    if keep:
        storage.atomic_put(json.dumps({"limit": task.limit, "images": tally}).encode(), account)
        storage.atomic_put(examples.to_bytes(), cache)
    return examples, tally, task.limit


def _draw(
    task: ConceptTask, examples: Examples, prompts: tuple[str, str], step: int, losses: list[float], tuned: Any
) -> None:
    """The curve of the loss, and now and then what m′ paints; not a step is lost where the memory does not suffice."""
    from engine.distillation.pictures import draw_losses, draw_progress

    if step % PICTURES_EVERY and step != task.distillation.steps:
        return
    storage.atomic_put(draw_losses(losses), task.url("progress", "loss.png"))
    picture = io.BytesIO()
    try:
        draw_progress(tuned, examples, prompts, seed=task.spec.seed).save(picture, "PNG")
        storage.atomic_put(picture.getvalue(), task.url("progress", f"{step:06d}.png"))
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        logger.warning("no picture of step %d: the memory does not suffice for one beside the training", step)
    # Only here, with the error gone, is nothing held by the frames it came through.
    free_memory()
