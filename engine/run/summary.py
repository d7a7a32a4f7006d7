"""What a labelling run came to, for the person who started it."""

from __future__ import annotations

import glob
from collections import Counter
from dataclasses import dataclass
from itertools import islice

from engine import storage
from engine.run.directory import QUARANTINE_FOLDERS, STAGE_FOLDERS
from engine.run.harvest import LeasePlan
from engine.run.plan import count_quarantined
from engine.run.quantities import format_count, format_counts
from schemas.receipt import Receipt

FAILURES_SHOWN = 10
"""A corpus that is gone fails every lease."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The end of a run.

    Attributes:
        receipts: of all leases that are done, from this start of the run and earlier ones, by lease id.
        failed_leases: what kept a lease from being labelled, by lease id; starting the run again tries again.
        loading: seconds until the first worker had loaded its model.
        seconds: spent labelling from then on.
    """

    plan: LeasePlan
    receipts: dict[str, Receipt]
    failed_leases: dict[str, str]
    loading: float = 0.0
    seconds: float = 0.0

    @property
    def seen(self) -> int:
        return sum(receipt.seen for receipt in self.receipts.values())

    @property
    def quarantined(self) -> int:
        return sum(receipt.failed for receipt in self.receipts.values())

    @property
    def labelled(self) -> int:
        return sum(receipt.labelled for receipt in self.receipts.values())

    @property
    def new(self) -> int:
        """Images seen in this start; what was labelled before in a lease that is tried again is not."""
        before = sum(receipt.seen for receipt in self.plan.receipts.values())
        kept = sum(receipt.kept for lease, receipt in self.receipts.items() if lease not in self.plan.receipts)
        return self.seen - before - kept

    def failed(self, max_failures: float) -> bool:
        """Whether more than this fraction of the images is in quarantine, or leases are left."""
        return bool(self.failed_leases) or self.quarantined > max_failures * self.seen

    def describe(self, *, contact_sheet: str | None = None, predicted: tuple[float, int] | None = None) -> str:
        """The summary, one fact per line.

        Args:
            predicted: images per second, by so many workers.
        """
        run = self.plan.run
        labels = storage.redact(storage.join(run.url, STAGE_FOLDERS[run.stage]))
        if self.plan.remaining:
            rate = f" ({self.new / self.seconds:.3g} images/s)" if self.seconds > 0 else ""
            earlier = self.seen - self.new
            images = f"{self.new} in {self.seconds:.0f} s{rate} after {self.loading:.0f} s of loading"
            images += f", {earlier} before" if earlier else ""
        else:
            images = f"{self.seen}, everything was done already"
        shards = len({lease.shard.name for lease in self.plan.leases})
        reasons = format_counts(count_quarantined(self.receipts.values()))
        flags = sum((Counter(receipt.flags) for receipt in self.receipts.values()), Counter[str]())
        quarantine = storage.redact(storage.join(run.url, QUARANTINE_FOLDERS[run.stage]))
        facts = [
            ("images", images),
            ("shards", f"{shards}, in {format_count(len(self.plan.leases), 'lease')}"),
            ("quarantined", f"{self.quarantined}" + (f": {reasons}; see {quarantine}" if reasons else "")),
            ("flags", format_counts(flags)),
            ("labels", f"{labels}/*.parquet"),
            ("to open", open_labels_line(labels)),
        ]
        if predicted and self.new and self.seconds > 0:
            expected, workers = predicted
            share = self.new / self.seconds / expected
            line = f"{expected:.3g} images/s by {workers} worker(s); this was {share:.2f} of it"
            facts.insert(1, ("predicted", line))
        if contact_sheet:
            facts.append(("to look at", contact_sheet))
        for lease_id, error in islice(self.failed_leases.items(), FAILURES_SHOWN):
            facts.append(("failed", f"{lease_id}: {error}"))
        if (more := len(self.failed_leases) - FAILURES_SHOWN) > 0:
            facts.append(("failed", f"and {format_count(more, 'more lease')}"))
        return "\n".join(f"{name:<13}{fact}" for name, fact in facts if fact)


def open_labels_line(folder: str) -> str:
    """One line of Python that gives all labels of a folder as a pandas frame."""
    pattern = repr(f"{glob.escape(folder)}/*.parquet")  # of a folder whose name looks like one, or holds quotes
    if storage.is_local(folder):
        return f"import glob, pandas; pandas.concat(map(pandas.read_parquet, glob.glob({pattern})))"
    return (
        "import fsspec, pandas; pandas.concat(pandas.read_parquet(file.full_name) "
        f"for file in fsspec.open_files({pattern}))"
    )
