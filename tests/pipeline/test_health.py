"""When a worker that fails is tried again, waits, or is taken for a sign that all fail."""

from __future__ import annotations

import pytest

from engine.pipeline.health import Health


def workers(*names: str, expected: int | None = None) -> Health:
    health = Health(len(names) if expected is None else expected)
    for name in names:
        health.starting(name)
    health.started()
    return health


def test_starts_that_came_to_nothing_are_counted_until_one_succeeds() -> None:
    health = Health()
    assert [health.starting("a"), health.starting("b"), health.starting("a")] == [0, 0, 1]
    health.started()
    assert health.starting("a") == 0


def test_a_worker_that_ends_its_broken_process_has_not_died() -> None:
    health = workers("a", "b")
    for _ in range(9):
        assert health.starting("a") == 0
        health.breaks("a", "1")


def test_what_is_broken_from_the_start_in_all_workers_ends_the_run() -> None:
    assert workers("a").breaks("a", "1") == "fail the run"
    health = workers("a", "b")
    assert [health.breaks("a", "1"), health.breaks("b", "2")] == ["try again", "fail the run"]


def test_one_of_several_that_is_broken_costs_leases_but_never_the_run_as_long_as_others_get_on() -> None:
    health = workers("a", "b", "c")
    told = []
    for n in range(30):
        told.append(health.breaks("a", str(n // 3)))
        if n % 9 == 8:
            health.stride()
    assert told == ["try again", "try again", "fail the lease"] * 10


def test_the_first_that_has_begun_is_not_taken_for_all() -> None:
    health = workers("a", expected=8)
    assert health.breaks("a", "1") == "try again"


def test_where_nobody_gets_on_any_more_the_run_ends_whoever_there_was_before() -> None:
    health = workers("a", "b", "gone")
    health.stride()
    told = [health.breaks("ab"[n % 2], str(n // 3)) for n in range(12)]
    assert told == ["try again", "try again", "fail the lease"] * 3 + ["try again", "try again", "fail the run"]


def test_fewer_workers_than_there_was_room_for_end_the_run_too_if_none_ever_labels_anything() -> None:
    health = workers("a", expected=8)
    assert [health.breaks("a", str(n // 3)) for n in range(12)][-1] == "fail the run"


@pytest.mark.parametrize("broken", [False, True])
def test_a_worker_that_fails_while_others_do_not_waits_longer_and_longer(broken: bool) -> None:
    health = workers("a", "b")
    waits = []
    for _ in range(5):
        health.stride()
        waits.append(health.hold("a", broken=broken))
    assert waits == [0.0, 5.0, 30.0, 120.0, 120.0]
    health.succeed("a")
    health.stride()
    assert health.hold("a", broken=broken) == 0.0


def test_a_broken_worker_waits_also_while_others_are_at_their_leases_and_no_other_does() -> None:
    health = workers("a", "b")
    assert [health.hold("a", broken=True) for _ in range(3)] == [0.0, 5.0, 30.0]
    assert [health.hold("b", broken=False) for _ in range(3)] == [0.0, 0.0, 0.0], "nobody gets on with anything"


def test_the_only_worker_waits_for_nobody() -> None:
    health = workers("a")
    health.stride()
    assert [health.hold("a", broken=broken) for broken in (False, True, True)] == [0.0, 0.0, 0.0]
