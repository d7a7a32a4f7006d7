"""Sizes, durations and counts as a person reads them."""

from __future__ import annotations

from collections.abc import Mapping


def format_bytes(size: float) -> str:
    """A size for a person: ``12.3 MB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"


def format_duration(seconds: float) -> str:
    """``9s``, ``1m25s``, ``2h05m``, ``3d04h``."""
    whole = max(0, round(seconds))
    for big, small, unit, rest in ((86400, 3600, "d", "h"), (3600, 60, "h", "m"), (60, 1, "m", "s")):
        if whole >= big:
            return f"{whole // big}{unit}{whole % big // small:02d}{rest}"
    return f"{whole}s"


def format_count(number: int, noun: str) -> str:
    """``1 lease``, ``2 leases``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def format_counts(counts: Mapping[str, int]) -> str:
    """``used 12, flag:empty 3``, the most first; "" of nothing."""
    return ", ".join(f"{name} {n}" for name, n in sorted(counts.items(), key=lambda item: (-item[1], item[0])))
