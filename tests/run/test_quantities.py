from __future__ import annotations

import pytest

from engine.run.quantities import format_count


@pytest.mark.parametrize(("number", "told"), [(0, "0 leases"), (1, "1 lease"), (2, "2 leases")])
def test_one_of_a_thing_is_told_in_the_singular(number: int, told: str) -> None:
    assert format_count(number, "lease") == told
