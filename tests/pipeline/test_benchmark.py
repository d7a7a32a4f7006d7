"""What Ray costs, measured on the small Ray of these tests."""

from __future__ import annotations

from engine.benchmark.rows import Report
from engine.pipeline.benchmark import measure_ray


def test_the_rate_on_ray_is_compared_with_a_bare_loop(ray_address: str) -> None:
    report = Report(about={"kind": "cpu", "shape": "miniature"})
    measure_ray(report, images=2, repeats=1, shorten=25)
    (row,) = report.rows
    assert row.name == "Ray ÷ bare loop, images/s" and row.goal is not None
    assert row.value is not None and row.value > 0
    assert "2 miniature images on cpu" in row.note
