"""The images of a run's corpus that synthetic objects begin from: such as its labels find the concept in.

A shard of samples takes its images from as few leases as give enough, so that it opens few files of a corpus. Which
ones derives from (seed, shard, its size) and the labels alone.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
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


Found = tuple[LeaseReader, int]
"""An image to begin from: the place of its sample in an open lease."""


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
        with ExitStack() as stack:
            found = self._choose(shard, stack)
            order = np.random.default_rng((self.settings.seed, 1, shard)).permutation(len(found))
            yield ShardStarts([found[place] for place in order], shard, self.settings)

    def _choose(self, shard: int, stack: ExitStack) -> list[Found]:
        """The images that the shard chooses from: enough for its objects, if there are so many.

        Args:
            stack: closes what is opened.
        """
        settings, leases = self.settings, self.source.leases
        wanted = settings.objects_before((shard + 1) * settings.shard_size)
        wanted -= settings.objects_before(shard * settings.shard_size)
        if not wanted:  # pure backgrounds and nothing else
            return []
        turn, first = divmod(shard, len(leases))
        order = np.random.default_rng((settings.seed, 0, turn)).permutation(len(leases))
        found: list[Found] = []
        lost: list[str] = []
        for looked, place in enumerate(np.roll(order, -first)):
            if len(found) >= wanted or (found and looked >= MOST_LEASES):
                break
            if keys := self._usable(leases[place]):
                reader = stack.enter_context(open_lease(leases[place], keys=keys, indexes=self.source.indexes))
                places = {key: number for number, key in reader.samples().items()}
                found += [(reader, places[key]) for key in sorted(places)]
                if gone := len(keys) - len(places):
                    lost.append(reader.lease.id)
                    logger.warning("%d labelled images of %s are gone; others are begun from", gone, lost[-1])
        if not found:
            raise NoStart(_explain(lost) if lost else f"none of the labels finds {self.concept!r}; {WAY_OUT}")
        return found

    def _usable(self, lease: Lease) -> set[str]:
        """Keys of the images in which the labels find the concept."""
        from engine.segmenter.examples import read_rows, why_left_out  # imports torch, which planning does without

        url, columns = self.source.labels_url or "", ["quality", "flags"]
        try:
            rows = read_rows(url, lease, columns, Counter(), concepts=[self.concept])
        except ValueError as error:
            raise NoStart(str(error)) from error
        return {
            key
            for key, own in rows.items()
            if why_left_out(own[self.concept], "", min_quality=0.0, drop_flags=USELESS) is None
        }


class ShardStarts:
    """The images of one shard of samples, read as they are asked for.

    Args:
        images: as objects take them, one after the other and then all over again.
    """

    def __init__(self, images: Sequence[Found], shard: int, settings: SynthesisSpec) -> None:
        self._images, self._settings = images, settings
        self._before = settings.objects_before(shard * settings.shard_size)

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
            reader, place = self._images[(number + turn) % len(self._images)]
            sample = reader.read(place)
            if isinstance(sample, Defect):
                logger.warning("%s %s: %s Another image is begun from", sample.shard, sample.key, sample.message)
                continue
            try:
                return Start(shard=sample.shard, key=sample.key, image=_shrink(decode_image(sample.image)))
            except DecodeError as error:
                if error.reason == "out_of_memory":  # says nothing about the image
                    raise NoStart(f"{sample.shard} {sample.key}: {error}") from error
                logger.warning("%s %s: %s; another image is begun from", sample.shard, sample.key, error)
        raise NoStart(_explain({reader.lease.id for reader, _ in self._images}))


def _explain(leases: Iterable[str]) -> str:
    names = ", ".join(sorted(leases))
    return f"none of the labelled images of {names} can be read any more; mend the corpus, {WAY_OUT}"


def _shrink(image: np.ndarray) -> np.ndarray:
    height, width = image.shape[:2]
    if max(height, width) <= LARGEST:
        return image
    scale = LARGEST / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS))
