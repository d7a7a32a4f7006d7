"""How much memory is left, as the system and a container tell it."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine import memory


@pytest.mark.parametrize(
    ("meminfo", "limit", "left"),
    [
        ("MemTotal: 16000 kB\nMemAvailable:   8000 kB\n", "max\n", 8_192_000),
        ("MemAvailable:   8000 kB\n", "1000000\n", 750_000),
        ("", "1000000\n", 750_000),
        ("", "100000\n", 0),
        ("", None, None),
    ],
)
def test_a_container_may_hold_less_than_its_machine_has_left(
    meminfo: str, limit: str | None, left: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "_MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "_CGROUPS", tuple((tmp_path, *names) for _, *names in memory._CGROUPS))
    (tmp_path / "memory.current").write_text("300000\n")
    (tmp_path / "memory.stat").write_text("active_file 7\ninactive_file 50000\nworkingset 9\n")
    (tmp_path / "meminfo").write_text(meminfo)
    if limit is not None:
        (tmp_path / "memory.max").write_text(limit)
    assert memory.available_memory() == left
