"""How many samples the leases of a run hold, as its receipts tell: else a limit opens shards only to count them."""

from __future__ import annotations

from collections.abc import Callable

from engine.corpus.lease import Lease
from engine.run.directory import STAGE_FOLDERS, LabelRun, read_receipts
from schemas.receipt import Receipt


def read_counts(run: LabelRun) -> Callable[[Lease], int | None]:
    """Tells how many samples a lease holds, whatever its limit; None if no receipt does, or no longer.

    Raises:
        RunError: a receipt is unreadable.
    """
    stages = [read_receipts(run.url, stage) for stage in STAGE_FOLDERS]

    def count(lease: Lease) -> int | None:
        for receipts in stages:
            receipt = receipts.get(lease.id)
            if receipt is None or receipt.samples is None or not _is_of(receipt, lease):
                continue
            if not (run.retry and receipt.failed):  # else its shard may have been mended
                return receipt.samples
        return None

    return count


def _is_of(receipt: Receipt, lease: Lease) -> bool:
    was = receipt.lease
    return (was["shard"]["size"], was["parts"]) == (lease.shard.size, lease.parts)
