from __future__ import annotations

import dataclasses
import math
from fractions import Fraction

import pytest

from engine.synthesis.spec import BATCH, SynthesisSpec, key_of, plan_batches


@pytest.mark.parametrize("share", [0.0, 0.07, 0.2, 0.29, 1 / 3, 0.5, 0.999, 1.0])
def test_any_first_samples_hold_the_asked_for_share_of_backgrounds_rounded_down(share: float) -> None:
    spec = SynthesisSpec(backgrounds=share)
    found = 0
    for index in range(1000):
        found += spec.is_background(index)
        assert found == math.floor((index + 1) * Fraction(str(share)))


def test_batches_cover_every_sample_of_a_shard_once_whatever_the_count() -> None:
    for count in (1, 7, 8, 9, 20, 21, 40, 41):
        spec = SynthesisSpec(count=count, shard_size=20)
        for shard in range(-(-count // 20)):
            indices = [index for batch in plan_batches(shard, spec) for index in batch]
            wanted = range(shard * 20, min((shard + 1) * 20, count))
            assert indices[: len(wanted)] == list(wanted)
            assert len(indices) - len(wanted) < BATCH


def test_a_set_that_grows_keeps_the_batches_it_had() -> None:
    small, large = SynthesisSpec(count=5, shard_size=20), SynthesisSpec(count=50, shard_size=20)
    assert plan_batches(0, small) == plan_batches(0, large)[:1]


def test_every_setting_but_the_count_is_in_the_fingerprint() -> None:
    fields = SynthesisSpec().fingerprint_fields()
    names = {field.name for field in dataclasses.fields(SynthesisSpec)} - {"count"}
    assert set(fields) == {"synthesis.version", *(f"synthesis.{name}" for name in names)}
    assert SynthesisSpec(count=3).fingerprint_fields() == fields


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("count", 0, "count is 0; it must be at least 1"),
        ("steps", 0, "steps is 0"),
        ("shard_size", -1, "shard_size is -1"),
        ("backgrounds", 1.5, "backgrounds is 1.5; it is a fraction between 0 and 1"),
        ("backgrounds", math.nan, "backgrounds is nan"),
        ("seed", -1, "seed is -1; it must be at least 0"),
        ("strength", 0, "strength is 0; it must be above 0 and at most 1"),
        ("strength", 1.1, "strength is 1.1"),
        ("strength", math.nan, "strength is nan"),
        ("guidance", math.inf, "guidance is inf; it must be a finite number"),
        ("background_guidance", math.nan, "background_guidance is nan"),
    ],
)
def test_a_setting_that_makes_no_sense_is_refused_by_name(name: str, value: float, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        SynthesisSpec(**{name: value})


def test_keys_sort_as_their_indices_do() -> None:
    assert sorted(map(key_of, (10, 9, 123456))) == [key_of(index) for index in (9, 10, 123456)]
