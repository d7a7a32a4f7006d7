"""The images of a run's corpus that synthetic objects begin from: such as its labels find the concept in.

A shard of samples takes its images from as few leases as give enough, so that it opens few files of a corpus. Which
ones derives from (seed, shard, its size) and the labels alone.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import numpy as np
from PIL import Image

from engine.corpus.decode import DecodeError, decode_image
from engine.corpus.lease import Lease
from engine.corpus.reader import LeaseReader, open_lease
from engine.corpus.sample import Defect
from engine.labelling.label import USELESS
from engine.run.directory import RunError, read_manifest
from engine.run.example_source import ExampleSource, find_corpus
from engine.synthesis.sample import Start
from engine.synthesis.spec import SynthesisSpec

logger = logging.getLogger(__name__)

MOST_LEASES = 8
"""Leases that a shard takes images from; more are read only until one of them has any."""
LARGEST = 2048
"""Side of the starts, pixels: larger images are held at this size, which is still beyond what models see."""
WAY_OUT = "or let samples begin from noise, with a strength of 1"


class NoStart(ValueError):
    """No image can be begun from."""


@dataclass(frozen=True, kw_only=True)
class Starts:
    """Where objects begin.

    Attributes:
        source: the corpus and its labels.
        concept: whose labels.
    """

    source: ExampleSource
    concept: str
    settings: SynthesisSpec

    @classmethod
    def find(cls, run_url: str, concept: str, settings: SynthesisSpec, input_url: str | None = None) -> Starts | None:
        """Those of a run; None where all samples begin from noise.

        Args:
            input_url: where the corpus is, if it is no longer where it was labelled.

        Raises:
            RunError: no corpus or no labels; the message says what to do.
        """
        if not settings.begins_from_images:
            return None
        try:
            source = find_corpus(run_url, read_manifest(run_url), "refined", input_url)
        except ValueError as error:
            raise RunError(f"{error}; {WAY_OUT}") from error
        return cls(source=source, concept=concept, settings=settings)

    @contextmanager
    def open(self, shard: int) -> Iterator[ShardStarts]:
        """Those of a shard of samples.

        Raises:
            NoStart: no lease has an image with the concept, or a label file is missing or damaged.
            OSError: labels or corpus cannot be reached.
        """
        found = self._choose(shard)
        order = np.random.default_rng((self.settings.seed, 1, shard)).permutation(len(found))
        with ExitStack() as stack:
            yield ShardStarts([found[place] for place in order], shard, self.settings, stack)

    def _choose(self, shard: int) -> list[tuple[Lease, str]]:
        """Lease and key of the images that the shard chooses from: enough for its objects, if there are so many."""
        settings, leases = self.settings, self.source.leases
        wanted = settings.objects_before((shard + 1) * settings.shard_size)
        wanted -= settings.objects_before(shard * settings.shard_size)
        if not wanted:  # pure backgrounds and nothing else
            return []
        turn, first = divmod(shard, len(leases))
        order = np.random.default_rng((settings.seed, 0, turn)).permutation(len(leases))
        found: list[tuple[Lease, str]] = []
        for looked, place in enumerate(np.roll(order, -first)):
            if len(found) >= wanted or (found and looked >= MOST_LEASES):
                break
            found += [(leases[place], key) for key in self._usable(leases[place])]
        if not found:
            raise NoStart(f"none of the labels finds {self.concept!r}; {WAY_OUT}")
        return found

    def _usable(self, lease: Lease) -> list[str]:
        """Keys of the images in which the labels find the concept, sorted."""
        from engine.segmenter.examples import read_rows, why_left_out  # imports torch, which planning does without

        url, columns = self.source.labels_url or "", ["quality", "flags"]
        try:
            rows = read_rows(url, lease, columns, Counter(), concepts=[self.concept])
        except ValueError as error:
            raise NoStart(str(error)) from error
        return sorted(
            key
            for key, own in rows.items()
            if why_left_out(own[self.concept], "", min_quality=0.0, drop_flags=USELESS) is None
        )


class ShardStarts:
    """The images of one shard of samples, read as they are asked for.

    Args:
        images: lease and key, as objects take them, one after the other and then all over again.
        stack: closes what is opened.
    """

    def __init__(
        self, images: Sequence[tuple[Lease, str]], shard: int, settings: SynthesisSpec, stack: ExitStack
    ) -> None:
        self._images, self._settings, self._stack = images, settings, stack
        self._before = settings.objects_before(shard * settings.shard_size)
        self._readers: dict[str, tuple[LeaseReader, dict[str, int]]] = {}

    def __call__(self, indices: Sequence[int]) -> list[Start | None]:
        """What these samples begin from; None for pure backgrounds.

        Raises:
            NoStart: none of the images can be read any more.
            OSError: the corpus cannot be reached.
        """
        settings = self._settings
        return [
            None if settings.is_background(index) else self._read(settings.objects_before(index) - self._before)
            for index in indices
        ]

    def _read(self, number: int) -> Start:
        """The start of the shard's object of this number."""
        for turn in range(len(self._images)):
            # One that has become unreadable since it was labelled is passed over.
            lease, key = self._images[(number + turn) % len(self._images)]
            reader, places = self._open(lease)
            sample = reader.read(places[key]) if key in places else None
            if sample is None or isinstance(sample, Defect):
                logger.warning("%s of %s is gone; another image is begun from", key, lease.id)
                continue
            try:
                return Start(shard=sample.shard, key=sample.key, image=_shrink(decode_image(sample.image)))
            except DecodeError as error:
                if error.reason == "out_of_memory":  # says nothing about the image
                    raise NoStart(f"{sample.shard} {sample.key}: {error}") from error
                logger.warning("%s %s: %s; another image is begun from", sample.shard, sample.key, error)
        leases = ", ".join(sorted({lease.id for lease, _ in self._images}))
        raise NoStart(f"none of the labelled images of {leases} can be read any more; mend the corpus, {WAY_OUT}")

    def _open(self, lease: Lease) -> tuple[LeaseReader, dict[str, int]]:
        if lease.id not in self._readers:
            keys = {key for other, key in self._images if other is lease}
            reader = self._stack.enter_context(open_lease(lease, keys=keys))
            self._readers[lease.id] = reader, {key: place for place, key in reader.samples().items()}
        return self._readers[lease.id]


def _shrink(image: np.ndarray) -> np.ndarray:
    height, width = image.shape[:2]
    if max(height, width) <= LARGEST:
        return image
    scale = LARGEST / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS))
