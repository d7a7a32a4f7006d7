"""What settings have in common: how a value that makes no sense is refused."""

from __future__ import annotations


def check_at_least(owner: object, minimum: float, *names: str) -> None:
    """Raises ValueError for the first of the owner's attributes that is smaller than `minimum`."""
    for name in names:
        if not getattr(owner, name) >= minimum:
            raise ValueError(f"{name} is {getattr(owner, name)}; it must be at least {minimum:g}")
