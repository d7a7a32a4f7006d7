"""What settings have in common: how a value that makes no sense is refused."""

from __future__ import annotations

import math


def check_finite(owner: object, *names: str) -> None:
    """Raises ValueError for the first of the owner's attributes that is infinite or no number."""
    for name in names:
        if not math.isfinite(getattr(owner, name)):
            raise ValueError(f"{name} is {getattr(owner, name)}; it must be a finite number")


def check_at_least(owner: object, minimum: float, *names: str) -> None:
    """Raises ValueError for the first of the owner's attributes that is not finite or smaller than `minimum`."""
    check_finite(owner, *names)
    for name in names:
        if not getattr(owner, name) >= minimum:
            raise ValueError(f"{name} is {getattr(owner, name)}; it must be at least {minimum:g}")
