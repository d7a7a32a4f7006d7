"""Reads and decodes a lease's images ahead of the labeller, in a thread, within a budget of pixels."""

from __future__ import annotations

import threading
import time
import traceback
from collections import defaultdict, deque
from collections.abc import Container, Iterator
from dataclasses import dataclass
from types import TracebackType

import numpy as np

from engine.corpus.decode import DecodeError, decode_image
from engine.corpus.indexes import IndexFolder
from engine.corpus.lease import Lease
from engine.corpus.reader import open_lease
from engine.corpus.sample import Defect, Sample

AHEAD_PIXELS = 64_000_000
AHEAD_ITEMS = 64


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A decoded sample: its place in the lease, and the upright image, (H, W, 3) uint8 RGB."""

    index: int
    shard: str
    key: str
    image: np.ndarray


Item = Picture | tuple[int, Defect]


class Prefetch:
    """Iterates over a lease's pictures and defects in the corpus's order; use as a context manager.

    `planned` is the exact number of items, `held` that of the lease's samples whatever its limit, `ignored` how many
    files of which kind are left out. `seconds` and
    `bytes_read` are complete once the iteration is. `skipped` are the keys left out, by place.

    Args:
        skip: keys of samples that are not wanted.
        indexes: as `open_lease` takes them.

    Raises:
        OSError: the shard cannot be opened.
    """

    def __init__(self, lease: Lease, *, skip: Container[str] = (), indexes: IndexFolder | None = None) -> None:
        began = time.perf_counter()
        self._reader = open_lease(lease, must_open=True, indexes=indexes)
        self.skipped = {place: key for place, key in self._reader.samples().items() if key in skip}
        self.planned, self.held, self.ignored = self._reader.planned, self._reader.held, self._reader.ignored
        self.seconds: defaultdict[str, float] = defaultdict(float, open=time.perf_counter() - began)
        self.bytes_read = 0
        self._items: deque[Item] = deque()
        self._pixels = 0
        self._changed = threading.Condition()
        self._stopped = self._ended = False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="prefetch", daemon=True)

    @property
    def waiting(self) -> int:
        """Items that are there and have not been asked for."""
        return len(self._items)

    def __enter__(self) -> Prefetch:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        self._thread.join()
        self._reader.close()

    def __iter__(self) -> Iterator[Item]:
        while True:
            began = time.perf_counter()
            with self._changed:
                self._changed.wait_for(lambda: self._items or self._ended)
                self.seconds["wait"] += time.perf_counter() - began
                if not self._items:
                    break
                item = self._items.popleft()
                self._pixels -= _pixels(item)
                self._changed.notify_all()
            yield item
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            began = time.perf_counter()
            for index in range(self.planned):
                if index in self.skipped:
                    continue
                sample = self._reader.read(index)
                self.seconds["read"] += time.perf_counter() - began
                began = time.perf_counter()
                self.bytes_read += len(sample.image) if isinstance(sample, Sample) else 0
                item = decode_sample(index, sample)
                self.seconds["decode"] += time.perf_counter() - began
                if not self._put(item):
                    return
                began = time.perf_counter()
        except BaseException as error:
            # No fault of one sample (the corpus is out of reach, say): the iterating thread raises it.
            self._error = error
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify_all()

    def _put(self, item: Item) -> bool:
        """Queues the item when there is room (always for the first); False when nobody wants it any more."""
        size = _pixels(item)
        with self._changed:
            self._changed.wait_for(
                lambda: (
                    self._stopped
                    or not self._items
                    or (self._pixels + size <= AHEAD_PIXELS and len(self._items) < AHEAD_ITEMS)
                )
            )
            if self._stopped:
                return False
            self._items.append(item)
            self._pixels += size
            self._changed.notify_all()
            return True


def _pixels(item: Item) -> int:
    return item.image.shape[0] * item.image.shape[1] if isinstance(item, Picture) else 0


def decode_sample(index: int, sample: Sample | Defect) -> Item:
    """What has been read, decoded; what does not decode becomes a defect."""
    if isinstance(sample, Defect):
        return index, sample
    try:
        return Picture(index=index, shard=sample.shard, key=sample.key, image=decode_image(sample.image))
    except DecodeError as error:
        reason, message, trace = error.reason, str(error), ""
    except Exception as error:
        # A decoder may raise anything on hostile bytes; one image must not stop the shard.
        reason, message, trace = "decode_error", f"{type(error).__name__}: {error}", traceback.format_exc()
    defect = Defect(shard=sample.shard, key=sample.key, stage="decode", reason=reason, message=message, traceback=trace)
    return index, defect
