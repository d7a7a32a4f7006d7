"""Figures of a benchmark, each beside its goal."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from engine.memory import free_memory, is_out_of_memory

UNFIT = "does not fit into the device's memory"


@dataclass(frozen=True, kw_only=True)
class Goal:
    """What a ratio should be: at least (`more`) or at most (`less`) the floor, better the target.

    Attributes:
        devices, shapes: what it was set for; elsewhere the figure stands without a goal.
    """

    floor: float
    target: float
    better: Literal["more", "less"]
    devices: tuple[str, ...] = ("cpu", "cuda")
    shapes: tuple[str, ...] = ("sd15", "miniature")

    def verdict(self, value: float) -> str:
        sign = 1 if self.better == "more" else -1
        if sign * value >= sign * self.target:
            return "target met"
        return "floor met" if sign * value >= sign * self.floor else "MISSED"


GOALS = {
    "capture ÷ plain forward, time": Goal(floor=1.05, target=1.02, better="less"),
    "capture ÷ plain forward, peak memory": Goal(floor=1.05, target=1.02, better="less"),
    "paper ÷ naive, images/s": Goal(floor=1.5, target=2.5, better="more", devices=("cpu",), shapes=("miniature",)),
    "paper ÷ naive at 512², images/s": Goal(floor=3, target=5, better="more", devices=("cuda",), shapes=("sd15",)),
    "fast ÷ paper, images/s": Goal(floor=2.8, target=3.3, better="more"),
    "fast against paper, mask IoU": Goal(floor=0.95, target=0.95, better="more", shapes=("miniature",)),
    "paper against float32 eager, mask IoU": Goal(floor=0.99, target=0.99, better="more", shapes=("miniature",)),
    "paper, achieved ÷ P": Goal(floor=0.30, target=0.40, better="more", devices=("cuda",), shapes=("sd15",)),
    "attention, achieved ÷ P": Goal(floor=0.35, target=0.45, better="more", devices=("cuda",), shapes=("sd15",)),
    "paper, mixtures' share": Goal(floor=0.03, target=0.01, better="less"),
    "fast, mixtures' share": Goal(floor=0.03, target=0.01, better="less"),
    "Ray ÷ bare loop, images/s": Goal(floor=0.93, target=0.97, better="more"),
    "lease, share without the labeller": Goal(floor=0.05, target=0.02, better="less"),
}


@dataclass(frozen=True, kw_only=True)
class Row:
    """One figure; without a value, `note` says why there is none.

    Attributes:
        unit: empty for a ratio.
        verdict: of its goal, empty where there is none.
    """

    name: str
    value: float | None
    unit: str = ""
    note: str = ""
    goal: Goal | None = None

    @property
    def verdict(self) -> str:
        if self.value is None:
            return "SKIPPED"
        return self.goal.verdict(self.value) if self.goal else ""

    def to_json(self) -> dict[str, Any]:
        value = None if self.value is None else float(f"{self.value:.4g}")
        texts = {"unit": self.unit, "note": self.note, "verdict": self.verdict}
        goal = self.goal
        aim = {"better": goal.better, "floor": goal.floor, "target": goal.target} if goal else {}
        return {"name": self.name, "value": value, **{key: text for key, text in texts.items() if text}, **aim}


@dataclass(kw_only=True)
class Report:
    """All figures of one run of the benchmark.

    Attributes:
        about: device, precision, versions, command.
    """

    about: dict[str, Any]
    rows: list[Row] = field(default_factory=list)

    def add(self, name: str, value: float | None, unit: str = "", *, note: str = "") -> None:
        """A figure, with its goal if there is one for this device and shape."""
        goal = GOALS.get(name)
        if goal and not (self.about["kind"] in goal.devices and self.about["shape"] in goal.shapes):
            goal = None
        self.rows.append(Row(name=name, value=value, unit=unit, note=note, goal=goal))

    def attempt(self, name: str, measure: Callable[[], None]) -> bool:
        """Have something measured; where the memory does not suffice, the row says so and the answer is False."""
        try:
            measure()
            return True
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        self.add(name, None, note=UNFIT)
        # Only here, with the error gone, is nothing held by the frames it came through.
        free_memory()
        return False

    def value(self, name: str) -> float | None:
        """Of a row that is there."""
        return next(row.value for row in self.rows if row.name == name)

    def describe(self) -> str:
        """A table for a person: ratios first named, then their goals."""
        lines = [f"{key:<12}{value}" for key, value in self.about.items()]
        lines += ["", f"{'':<42}{'value':>10} {'':<9}{'floor':>7}{'target':>7}"]
        for row in self.rows:
            value = "–" if row.value is None else f"{row.value:.4g}"
            floor, target = (f"{row.goal.floor:g}", f"{row.goal.target:g}") if row.goal else ("", "")
            tail = " · ".join(text for text in (row.verdict, row.note) if text)
            lines.append(f"{row.name:<42}{value:>10} {row.unit:<9}{floor:>7}{target:>7}  {tail}".rstrip())
        return "\n".join(lines)

    def to_json(self) -> str:
        """The same as a JSON file's text."""
        values = {**self.about, "rows": [row.to_json() for row in self.rows]}
        return json.dumps(values, indent=1, ensure_ascii=False) + "\n"
