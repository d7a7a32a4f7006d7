"""What becomes of a lease's receipt while the lease is worked on."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from engine.corpus.catalogue import list_shards
from engine.corpus.lease import plan_leases
from engine.labelling.label import Label
from engine.run.fake import FakeLabeller
from engine.run.shard import label_lease
from tests.corpus.hostile import make_corpus_tar
from tests.run.test_shard import SPEC, make_run


class Watching(FakeLabeller):
    """Notes whether a receipt is there while it labels."""

    def __init__(self, receipt: Path) -> None:
        super().__init__("fake", SPEC)
        self.receipt = receipt
        self.seen: list[bool] = []

    def __call__(self, images: list[np.ndarray], keys: list[str]) -> list[Label]:
        self.seen.append(self.receipt.exists())
        return super().__call__(images, keys)


def test_a_receipt_under_a_smaller_limit_goes_before_the_labels_change(tmp_path: Path) -> None:
    (tmp_path / "000000.tar").write_bytes(make_corpus_tar(range(8)))
    shards = list_shards(str(tmp_path))
    (short,), (whole,) = plan_leases(shards, limit=3), plan_leases(shards)
    run = make_run(tmp_path / "run")
    label_lease(short, FakeLabeller("fake", SPEC), run)
    labeller = Watching(Path(run.receipt_url(whole.id)))
    assert label_lease(whole, labeller, run).labelled == 8
    assert labeller.seen and not any(labeller.seen)


def test_a_receipt_that_another_attempt_has_written_meanwhile_is_left_alone(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "000000.tar").write_bytes(make_corpus_tar(range(3)))
    (lease,) = plan_leases(list_shards(str(tmp_path)))
    run = make_run(tmp_path / "run")
    attempt = type(run).attempt

    def after_another(self, lease_id: str):
        with monkeypatch.context() as patch:
            patch.setattr(type(run), "attempt", attempt)
            label_lease(lease, FakeLabeller("fake", SPEC), run)
        return attempt(self, lease_id)

    monkeypatch.setattr(type(run), "attempt", after_another)
    labeller = Watching(Path(run.receipt_url(lease.id)))
    label_lease(lease, labeller, run)
    assert all(labeller.seen) and labeller.seen
