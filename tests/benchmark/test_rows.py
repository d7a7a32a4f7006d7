"""Figures beside their goals."""

from __future__ import annotations

import json

import pytest

from engine.benchmark.rows import GOALS, Goal, Report

MORE = Goal(floor=2, target=3, better="more")
LESS = Goal(floor=1.05, target=1.02, better="less")


@pytest.mark.parametrize(
    ("goal", "value", "verdict"),
    [
        (MORE, 3.0, "target met"),
        (MORE, 2.5, "floor met"),
        (MORE, 1.9, "MISSED"),
        (LESS, 1.0, "target met"),
        (LESS, 1.04, "floor met"),
        (LESS, 1.06, "MISSED"),
    ],
)
def test_a_value_is_judged_by_its_goal(goal, value, verdict):
    assert goal.verdict(value) == verdict


def test_goals_of_other_devices_do_not_apply_and_what_is_missing_says_why():
    report = Report(about={"kind": "cpu", "shape": "miniature"})
    report.add("paper, achieved ÷ P", 0.1)
    report.add("paper ÷ naive, images/s", 1.8)
    report.add("Ray ÷ bare loop, images/s", None, note="no Ray here")
    assert [row.verdict for row in report.rows] == ["", "floor met", "SKIPPED"]
    rows = json.loads(report.to_json())["rows"]
    assert rows[0] == {"name": "paper, achieved ÷ P", "value": 0.1}
    assert rows[1]["floor"] == GOALS["paper ÷ naive, images/s"].floor
    assert rows[2]["value"] is None and rows[2]["note"] == "no Ray here"
    assert "SKIPPED · no Ray here" in report.describe()


def test_what_does_not_fit_the_memory_is_a_row_and_other_errors_are_errors():
    report = Report(about={"kind": "cpu", "shape": "miniature"})

    def fail(error: Exception) -> None:
        raise error

    assert report.attempt("one", lambda: report.add("one", 1.0))
    assert not report.attempt("two", lambda: fail(RuntimeError("CUDA out of memory")))
    with pytest.raises(RuntimeError, match="shapes differ"):
        report.attempt("three", lambda: fail(RuntimeError("shapes differ")))
    assert [(row.name, row.value) for row in report.rows] == [("one", 1.0), ("two", None)]
    assert "SKIPPED · does not fit into the device's memory" in report.describe()
