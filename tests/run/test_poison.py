"""Samples that kill the process that touches them, in processes that truly die."""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from engine import storage
from engine.corpus.catalogue import list_shards
from engine.corpus.lease import Lease, plan_leases
from engine.labelling.label import Label
from engine.run import prefetch
from engine.run.attempts import ATTEMPTS, MAX_ALONE, MAX_DEATHS, Attempt, Span
from engine.run.directory import LabelRun
from engine.run.fake import FakeLabeller
from engine.run.shard import label_lease
from tests.corpus.hostile import make_corpus_tar
from tests.run.test_shard import SPEC, make_run

SAMPLES, BATCH = 21, 8


class Poisoned(FakeLabeller):
    """Kills its process when it is shown one of the keys."""

    keys: tuple[str, ...] = ()

    def __call__(self, images: list[np.ndarray], keys: list[str]) -> list[Label]:
        if set(keys) & set(self.keys):
            faulthandler.disable()
            os.kill(os.getpid(), signal.SIGSEGV)
        return super().__call__(images, keys)


@pytest.fixture
def lease(tmp_path: Path) -> Lease:
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "000000.tar").write_bytes(make_corpus_tar(range(SAMPLES)))
    (lease,) = plan_leases(list_shards(str(tmp_path / "corpus")))
    return lease


def label_until_done(work: Callable[[], object], run: LabelRun, lease: Lease, *, most: int = 40) -> int:
    """Starts one process after another, as a cluster does; returns how many died."""
    for deaths in range(most):
        process = multiprocessing.get_context("fork").Process(target=work)
        process.start()
        process.join()
        if process.exitcode == 0:
            assert run.find_receipt(lease)
            return deaths
    raise AssertionError(f"the lease has killed {most} processes and goes on doing so")


def rows(run: LabelRun, lease: Lease) -> dict[str, dict]:
    return {row["key"]: row for row in pq.read_table(run.labels_url(lease.id)).to_pylist()}


def quarantined(run: LabelRun, lease: Lease) -> list[tuple[str, str]]:
    table = pq.read_table(run.quarantine_url(lease.id))
    return [(row["key"], row["reason"]) for row in table.to_pylist()]


@pytest.mark.parametrize("poison", [("000013",), ("000000", "000001", "000020")])
def test_only_the_samples_that_kill_are_quarantined(lease: Lease, tmp_path: Path, poison: tuple[str, ...]) -> None:
    whole, run = make_run(tmp_path / "whole"), make_run(tmp_path / "run", batch_size=BATCH)
    label_lease(lease, FakeLabeller("fake", SPEC), whole)
    labeller = Poisoned("fake", SPEC)
    labeller.keys = poison
    deaths = label_until_done(lambda: label_lease(lease, labeller, run), run, lease)
    # Each is found by halving its batch of eight, and then given one more chance.
    assert deaths <= MAX_DEATHS + len(poison) * (3 + MAX_ALONE)
    assert quarantined(run, lease) == [(key, "worker_died") for key in poison]
    assert rows(run, lease) == {key: row for key, row in rows(whole, lease).items() if key not in poison}
    assert storage.list_names(storage.join(run.url, ATTEMPTS)) != [], "the marks stay until the run is over"


def test_an_image_that_kills_its_decoder_is_found_as_well(
    lease: Lease, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decode = prefetch.decode_sample

    def crash(index: int, sample: object) -> object:
        if index == 5:
            os.kill(os.getpid(), signal.SIGKILL)
        return decode(index, sample)  # type: ignore[arg-type]

    for module in ("prefetch", "shard"):
        monkeypatch.setattr(f"engine.run.{module}.decode_sample", crash)
    run = make_run(tmp_path / "run", batch_size=BATCH)
    label_until_done(lambda: label_lease(lease, FakeLabeller("fake", SPEC), run), run, lease)
    assert quarantined(run, lease) == [("000005", "worker_died")]
    assert len(rows(run, lease)) == SAMPLES - 1


def test_machines_that_go_away_cost_no_sample(lease: Lease, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", batch_size=BATCH)
    died = tmp_path / "died"

    class Unlucky(FakeLabeller):
        def __call__(self, images: list[np.ndarray], keys: list[str]) -> list[Label]:
            count = len(died.read_bytes()) if died.exists() else 0
            if count < 9 and keys[0] == f"{(7 * count) % SAMPLES:06d}":
                died.write_bytes(b"x" * (count + 1))
                os.kill(os.getpid(), signal.SIGKILL)
            return super().__call__(images, keys)

    label_until_done(lambda: label_lease(lease, Unlucky("fake", SPEC), run), run, lease)
    assert died.exists()
    assert len(rows(run, lease)) == SAMPLES
    assert not storage.exists(run.quarantine_url(lease.id))


def test_suspects_come_first_and_are_halved() -> None:
    attempt = Attempt(folder="", lease_id="a", session="s", token="t")
    assert attempt.divide(5, 2) == [Span(start=0, stop=2), Span(start=2, stop=4), Span(start=4, stop=5)]
    attempt.deaths.update([None, None, None, Span(start=2, stop=4)])
    assert [span.start for span in attempt.divide(5, 2)] == [2, 3, 0, 4]
    assert attempt.careful and not attempt.hopeless
    assert not attempt.kills(Span(start=3, stop=4))
    attempt.deaths.update([Span(start=3, stop=4)] * MAX_ALONE)
    assert attempt.kills(Span(start=3, stop=4)) and not attempt.kills(Span(start=2, stop=3))
