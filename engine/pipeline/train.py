"""Training a segmenter on Ray: Ray Data joins and resizes, Ray Train's workers share every batch.

leases → join, decode, resize (Ray Data, in the leases' order) → blocks in the object store → each worker draws its
share of every batch from all of them
"""

from __future__ import annotations

import json
import time
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from itertools import accumulate
from typing import Any, overload

import numpy as np
import pyarrow as pa
import ray
import ray.data

from engine import storage
from engine.corpus.lease import Lease
from engine.pipeline.cluster import check_address, check_reach
from engine.pipeline.driver import explained, on_cluster
from engine.pipeline.label import quiet_ray_data
from engine.pipeline.trainer import train_on_ray
from engine.pipeline.worker import be_patient
from engine.run.claim import occupy
from engine.run.directory import new_session
from engine.run.quantities import format_counts
from engine.run.segmenter import CHECKPOINTS, SegmenterTask, make_segmenter, read_task
from engine.segmenter.examples import Example
from schemas.training import TrainingReceipt

SCHEMA = pa.schema(
    [
        pa.field("shard", pa.string()),
        pa.field("key", pa.string()),
        pa.field("height", pa.int32()),
        pa.field("width", pa.int32()),
        pa.field("image", pa.binary()),  # height × width × 3 bytes
        pa.field("mask", pa.binary()),  # height × width bits, packed; of several concepts bytes
        pa.field("tally", pa.string()),  # of the last row of a lease, which has nothing else; JSON
    ]
)
"""Examples between Ray Data and the workers."""
BLOCK_EXAMPLES = 256
CACHED_BLOCKS = 16
"""So many blocks a worker keeps within reach at once, of up to 128 MiB each as Ray Data gathers them; the others stay
in the object store, or where that spills."""
SPARE = 1
"""CPUs that training without GPUs leaves to everything else."""


def run_training(
    task: SegmenterTask,
    *,
    workers: int | None = None,
    most: int | None = None,
    tell: Callable[[str], None] = print,
) -> TrainingReceipt:
    """Train the segmenter on a cluster, or go on with it; what is done already is skipped.

    Args:
        workers: that share a batch; default one per GPU of the cluster, without GPUs one per CPU but one.
        most: as many of so many workers as can share a batch and are there now.
        tell: is told what begins, and what is skipped and why.

    Raises:
        ValueError: nothing to learn from, or as `engine.pipeline.driver.drive`.
        TrainingError: it cannot go on; resuming is safe.
        KeyboardInterrupt: interrupted; resuming is safe.
    """
    if receipt := task.find_receipt():
        tell(f"training: skipped, the segmenter is there ({storage.redact(task.url)})")
        return receipt
    check_address()
    with occupy(task.url, task.manifest, new_session(), option="--output"), on_cluster(), explained():
        check_reach(task.places)
        began = time.monotonic()
        examples, tally = ingest(task)
        tell(f"examples: {len(examples)} in {time.monotonic() - began:.0f} s ({format_counts(tally)})")
        work = partial(make_segmenter, task, examples, tally)
        where, size = task.file(CHECKPOINTS), task.spec.batch_size
        train_on_ray(work, batch_size=size, folder=where, workers=workers, most=most, spare=SPARE)
    receipt = task.find_receipt()
    assert receipt is not None, "the first worker writes it last"
    return receipt


def ingest(task: SegmenterTask) -> tuple[BlockExamples, Counter[str]]:
    """All examples of the task, in the object store in the order of its leases, and what became of the rest."""
    quiet_ray_data()
    options = ray.data.DataContext.get_current().execution_options
    leases = [
        {"source": place, "lease": json.dumps(lease.to_json()), "wanted": wanted}
        for place, lease, wanted in task.leases
    ]
    # Each piece of work brings its own lease: all of them would travel with every one.
    bare = replace(task, sources=[source.cut([]) for source in task.sources])
    before, options.preserve_order = options.preserve_order, True
    try:
        blocks = (
            ray.data.from_items(leases, override_num_blocks=len(leases))
            .map_batches(partial(read_lease, task=bare), batch_size=1)
            .materialize()
            .to_arrow_refs()
        )
    finally:
        options.preserve_order = before
    look = ray.remote(num_cpus=0)(_look)
    counts, tally = [], task.unread
    for count, own in ray.get([look.remote(block) for block in blocks]):
        counts.append(count)
        tally.update(own)
    return BlockExamples(blocks, counts), tally


def read_lease(batch: dict[str, Any], task: SegmenterTask) -> Iterator[pa.Table]:
    """The examples of a lease as tables of `SCHEMA`, at the end a row with the account of it."""
    lease = int(batch["source"][0]), Lease.from_json(json.loads(batch["lease"][0])), int(batch["wanted"][0])
    rows, tally = be_patient(partial(_read, task, lease), f"lease {lease[1].id}")
    rows.append({"tally": json.dumps(tally)})
    for start in range(0, len(rows), BLOCK_EXAMPLES):
        yield pa.Table.from_pylist(rows[start : start + BLOCK_EXAMPLES], schema=SCHEMA)


def _read(task: SegmenterTask, lease: tuple[int, Lease, int]) -> tuple[list[dict[str, Any]], Counter[str]]:
    tally: Counter[str] = Counter()
    return [_to_row(example) for example in read_task(task, tally, [lease])], tally


def _to_row(example: Example) -> dict[str, Any]:
    height, width = example.mask.shape
    image = np.ascontiguousarray(example.image).tobytes()
    mask = (np.packbits(example.mask) if example.mask.dtype == np.bool_ else example.mask).tobytes()
    return {"shard": example.shard, "key": example.key, "height": height, "width": width, "image": image, "mask": mask}


def _to_example(block: pa.Table, row: int) -> Example:
    shard, key, height, width = (block[name][row].as_py() for name in ("shard", "key", "height", "width"))
    image, mask = (np.frombuffer(block[name][row].as_buffer(), np.uint8) for name in ("image", "mask"))
    if len(mask) < height * width:
        mask = np.unpackbits(mask, count=height * width).astype(bool)
    size = height, width
    return Example(shard=shard, key=key, image=image.reshape(*size, 3), mask=mask.reshape(size))


def _look(block: pa.Table) -> tuple[int, Counter[str]]:
    """Number of examples of a block, and the accounts in it."""
    tally: Counter[str] = Counter()
    for text in block["tally"].drop_null().to_pylist():
        tally.update(json.loads(text))
    return block.num_rows - block["key"].null_count, tally


class BlockExamples(Sequence[Example]):
    """Examples that lie in blocks of the object store, fetched when they are asked for. Picklable."""

    def __init__(self, blocks: list[Any], counts: list[int]) -> None:
        self._blocks, self._counts = blocks, counts
        self._ends = list(accumulate(counts))
        self._fetch = lru_cache(maxsize=CACHED_BLOCKS)(partial(_fetch, blocks))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    @overload
    def __getitem__(self, index: int) -> Example: ...

    @overload
    def __getitem__(self, index: slice) -> list[Example]: ...

    def __getitem__(self, index: int | slice) -> Example | list[Example]:
        if isinstance(index, slice):
            return [self[i] for i in range(len(self))[index]]
        index = range(len(self))[index]
        block = bisect_right(self._ends, index)
        table, rows = self._fetch(block)
        return _to_example(table, rows[index - (self._ends[block] - self._counts[block])])

    def __reduce__(self) -> tuple[Any, ...]:
        return BlockExamples, (self._blocks, self._counts)


def _fetch(blocks: list[Any], place: int) -> tuple[pa.Table, list[int]]:
    """A block, and which of its rows are examples."""
    table = ray.get(blocks[place])
    return table, [row for row, key in enumerate(table["key"].to_pylist()) if key is not None]
