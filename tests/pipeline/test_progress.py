from __future__ import annotations

import io
import time

import pytest

from engine.corpus.catalogue import Shard
from engine.corpus.lease import Lease
from engine.pipeline.progress import Board, ProgressLine, Tally, count, format_line
from engine.run.quantities import format_duration
from engine.run.shard import LeaseProgress
from schemas.receipt import Receipt


def make_lease(name: str, size: int = 100, parts: int = 1, part: int = 0) -> Lease:
    shard = Shard(url=f"/c/{name}.tar", name=f"{name}.tar", size=size, kind="tar")
    return Lease(shard=shard, parts=parts, part=part)


def make_receipt(lease: Lease, labelled: int, bad: int = 0) -> Receipt:
    return Receipt(
        lease=lease.to_json(),
        lease_id=lease.id,
        stage="preliminary",
        fingerprint="f",
        seen=labelled + bad,
        labelled=labelled,
        quarantined={"empty": bad} if bad else {},
    )


def test_what_is_planned_is_estimated_by_bytes_until_every_lease_is_opened() -> None:
    a, b, c = make_lease("a"), make_lease("b", 300), make_lease("c", 200)
    receipts = {"a": make_receipt(a, 9, 1)}
    report = LeaseProgress(lease_id="b", planned=30, labelled=12, quarantined=2)
    early = count([a, b, c], receipts, [report])
    assert early == Tally(done=24, planned=60, estimated=True, quarantined=3, leases_done=1, leases=3)
    late = LeaseProgress(lease_id="c", planned=5, labelled=0, quarantined=0)
    assert count([a, b, c], receipts, [report, late]).planned == 45
    assert not count([a, b, c], receipts, [report, late]).estimated
    assert count([a, b, c], {}, []).planned is None


def test_where_sizes_are_not_told_the_rest_is_estimated_by_the_number_of_leases() -> None:
    leases = [make_lease(name, 0) for name in "abcd"]
    assert count(leases, {}, []) == Tally(done=0, planned=None, estimated=True, quarantined=0, leases_done=0, leases=4)
    begun = count(leases, {"a": make_receipt(leases[0], 10)}, [])
    assert (begun.planned, begun.estimated) == (40, True)
    whole = count(leases, {lease.id: make_receipt(lease, 10) for lease in leases}, [])
    assert (whole.planned, whole.estimated) == (40, False)


def test_a_receipt_counts_more_than_an_older_report() -> None:
    lease = make_lease("a")
    report = LeaseProgress(lease_id="a", planned=10, labelled=3, quarantined=0)
    assert count([lease], {"a": make_receipt(lease, 10)}, [report]).done == 10


def test_parts_of_a_shard_share_its_bytes() -> None:
    leases = [make_lease("a", 400, 4, part) for part in range(4)]
    tally = count(leases, {leases[0].id: make_receipt(leases[0], 5)}, [])
    assert (tally.planned, tally.estimated) == (20, True)


def test_the_line_says_what_is_exact_and_what_is_not() -> None:
    tally = Tally(done=128, planned=400, estimated=True, quarantined=1, leases_done=2, leases=8)
    line = format_line(tally, rate=3.2)
    assert line == "128 of ~400 images · 3.2 images/s · 1 quarantined · 2 of 8 leases · ETA 1m25s"
    done = Tally(done=400, planned=400, estimated=False, quarantined=1, leases_done=8, leases=8)
    assert format_line(done, rate=3.2) == "400 of 400 images · 3.2 images/s · 1 quarantined · 8 of 8 leases"
    nothing = Tally(done=0, planned=None, estimated=True, quarantined=0, leases_done=0, leases=8)
    assert format_line(nothing, rate=None) == "workers are loading the model · 8 leases to do"


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0s"), (59.4, "59s"), (85, "1m25s"), (7500, "2h05m"), (274000, "3d04h"), (-1, "0s")]
)
def test_durations_read_well(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


def test_reporting_twice_counts_once() -> None:
    board = Board()
    for labelled in (1, 4, 4):
        board.report(LeaseProgress(lease_id="a", planned=9, labelled=labelled, quarantined=0))
    assert [progress.labelled for progress in board.state()[0]] == [4]


def test_only_images_that_are_labelled_show_that_a_worker_gets_on() -> None:
    board = Board()
    board.starting("a")
    for labelled, quarantined, expected in ((0, 0, "fail the run"), (0, 9, "fail the run"), (1, 9, "try again")):
        board.report(LeaseProgress(lease_id="1", planned=20, labelled=labelled, quarantined=quarantined))
        assert board.breaks("a", str(labelled)) == expected


def test_the_board_forgets_leases_of_which_the_driver_knows_the_end() -> None:
    board = Board()
    for name in "abc":
        board.report(LeaseProgress(lease_id=name, planned=1, labelled=1, quarantined=0, finished=True))
    for settled, left in ((("a",), "bc"), ((), "bc"), (("c", "x"), "b")):
        assert [progress.lease_id for progress in board.state(settled)[0]] == list(left)


def test_a_log_gets_whole_lines_and_always_the_last_one() -> None:
    stream = io.StringIO()
    tally = Tally(done=4, planned=4, estimated=False, quarantined=0, leases_done=1, leases=1)
    with ProgressLine(lambda: (tally, 2.0), stream=stream, every=0.01):
        while stream.getvalue().count("\n") < 1:
            time.sleep(0.01)
    lines = stream.getvalue().splitlines()
    assert len(lines) >= 2
    assert set(lines) == {"4 of 4 images · 2 images/s · 0 quarantined · 1 of 1 leases"}


def test_a_terminal_is_written_in_place() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    stream = Terminal()
    tally = Tally(done=4, planned=4, estimated=False, quarantined=0, leases_done=1, leases=1)
    with ProgressLine(lambda: (tally, None), stream=stream):
        pass
    assert stream.getvalue().startswith("\r4 of 4 images")
    assert stream.getvalue().count("\n") == 1
