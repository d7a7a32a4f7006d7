"""How much memory is left, as the system and a container tell it."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine import memory


@pytest.mark.parametrize(
    ("meminfo", "limit", "left"),
    [
        ("MemTotal: 16000 kB\nMemAvailable:   8000 kB\n", "max\n", 8_192_000),
        ("MemAvailable:   8000 kB\n", "1000000\n", 1_000_000),
        ("", "1000000\n", 1_000_000),
        ("", None, None),
    ],
)
def test_a_container_may_hold_less_than_its_machine_has_left(
    meminfo: str, limit: str | None, left: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "_MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "_LIMITS", (tmp_path / "memory.max", tmp_path / "none"))
    (tmp_path / "meminfo").write_text(meminfo)
    if limit is not None:
        (tmp_path / "memory.max").write_text(limit)
    assert memory.available_memory() == left
