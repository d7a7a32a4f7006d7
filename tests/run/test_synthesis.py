"""Shards of samples without a model: what is written, and what stays the same whatever happens."""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Sequence
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from engine import storage
from engine.run.attempts import ATTEMPTS
from engine.run.directory import RunError, start_run
from engine.run.fake import FakeSource, FakeSynthesizer
from engine.run.harvest import LabellerBroken, LeaseProgress
from engine.run.origin import Origin, find_origin
from engine.run.synthesis import SynthesisPlan, plan_synthesis
from engine.run.synthetic_shard import synthesize_shard
from engine.synthesis.sample import Start, SyntheticSample
from engine.synthesis.spec import BATCH, SynthesisSpec
from schemas.label import LABEL_SCHEMA
from tests.run.origins import SPEC, start_origin

SIZE = 12
"""Samples per shard: more than one batch, and no multiple of it."""


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Origin:
    folder = tmp_path_factory.mktemp("origin")
    start_origin(folder, labelled=True, shards=(range(5), range(5, 9)))
    return find_origin(str(folder / "run"), source=FakeSource())


def settings(count: int, **changes: object) -> SynthesisSpec:
    return SynthesisSpec(**{"count": count, "shard_size": SIZE, **changes})  # type: ignore[arg-type]


def make(origin: Origin, url: Path | str, spec: SynthesisSpec) -> SynthesisPlan:
    """Plans, and makes what is left, as workers would."""
    plan = plan_synthesis(origin, spec, output=str(url))
    start_run(plan.run.url, plan.manifest)
    samples = FakeSynthesizer("fake", SPEC, spec)
    for lease in plan.remaining:
        synthesize_shard(lease, samples, spec, plan.run, plan.starts)
    return plan


def files(folder: Path) -> dict[str, bytes]:
    """All but receipts, which hold times, and the manifest."""
    found = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return {name: data for name, data in found.items() if not name.endswith(".json")}


def members(url: Path | str) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(storage.read_bytes(str(url)))) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]


def rows(folder: Path) -> list[dict]:
    return [row for path in sorted((folder / "labels").glob("*.parquet")) for row in pq.read_table(path).to_pylist()]


@pytest.mark.parametrize("strength", [0.6, 1.0])
def test_every_sample_has_one_row_and_its_members(origin: Origin, tmp_path: Path, strength: float) -> None:
    plan = make(origin, tmp_path, settings(30, strength=strength))
    found = rows(tmp_path)
    assert [row["key"] for row in found] == [f"{index:08d}" for index in range(30)]
    assert [row["shard"] for row in found] == [f"{index // SIZE:06d}.tar" for index in range(30)]
    assert sum("background" in row["flags"] for row in found) == 6
    for row in found:
        inside = members(tmp_path / "images" / row["shard"])
        assert inside[f"{row['key']}.mask.png"] == row["mask"]["bytes"]
        facts = json.loads(inside[f"{row['key']}.json"])
        assert facts["background"] == ("background" in row["flags"]) and facts["index"] == int(row["key"])
        assert facts["fingerprint"] == plan.run.fingerprint
        assert (facts["start"] is None) == (facts["background"] or strength == 1)
    schema = pq.read_schema(tmp_path / "labels" / "000000.parquet")
    assert schema.remove_metadata().equals(LABEL_SCHEMA)


def test_the_default_place_is_in_the_run_directory(origin: Origin) -> None:
    assert plan_synthesis(origin, settings(1)).run.url == f"{origin.url}/synthetic"


def test_a_set_that_grows_is_the_set_that_was_made_at_once(origin: Origin, tmp_path: Path) -> None:
    make(origin, tmp_path / "grown", settings(15))
    before = members(tmp_path / "grown" / "images" / "000001.tar")
    untouched = (tmp_path / "grown" / "images" / "000000.tar").stat().st_mtime_ns
    plan = make(origin, tmp_path / "grown", settings(30))
    assert [lease.id for lease in plan.remaining] == ["000001", "000002"]
    make(origin, tmp_path / "whole", settings(30))
    assert files(tmp_path / "grown") == files(tmp_path / "whole")
    after = members(tmp_path / "grown" / "images" / "000001.tar")
    assert {name: after[name] for name in before} == before
    assert (tmp_path / "grown" / "images" / "000000.tar").stat().st_mtime_ns == untouched


def test_a_smaller_count_leaves_nothing_to_do(origin: Origin, tmp_path: Path) -> None:
    make(origin, tmp_path, settings(30))
    before = files(tmp_path)
    assert make(origin, tmp_path, settings(15)).remaining == []
    assert files(tmp_path) == before


def test_samples_of_the_last_batch_do_not_depend_on_the_count(origin: Origin, tmp_path: Path) -> None:
    asked: list[list[int]] = []

    class Watched(FakeSynthesizer):
        def __call__(self, indices: Sequence[int], starts: Sequence[Start | None]) -> list[SyntheticSample]:
            asked.append(list(indices))
            return super().__call__(indices, starts)

    for count in (3, BATCH):
        spec = settings(count)
        plan = plan_synthesis(origin, spec, output=str(tmp_path / str(count)))
        receipt = synthesize_shard(plan.leases[0], Watched("fake", SPEC, spec), spec, plan.run, plan.starts)
        assert receipt.labelled == count
    assert asked[0] == asked[1] == list(range(BATCH))


def test_other_settings_are_refused_and_each_difference_is_named(origin: Origin, tmp_path: Path) -> None:
    make(origin, tmp_path, settings(5))
    other = settings(5, guidance=1.0, seed=1)
    with pytest.raises(RunError, match=r"synthesis\.guidance: 4\.0 -> 1\.0; synthesis\.seed: 0 -> 1.*--output"):
        plan_synthesis(origin, other, output=str(tmp_path))


@pytest.mark.parametrize("struck", ["images/000001.tar", "labels/000001.parquet", "labels/000001.json"])
def test_killed_before_any_of_its_files_appears_a_shard_is_made_again(
    origin: Origin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, struck: str
) -> None:
    make(origin, tmp_path / "whole", settings(30))
    replace = os.replace

    def interrupted(source: str, target: str) -> None:
        if target.endswith(struck):
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        make(origin, tmp_path / "cut", settings(30))
    assert "labels/000001.json" not in [str(p.relative_to(tmp_path / "cut")) for p in tmp_path.rglob("cut/labels/*")]
    monkeypatch.setattr(os, "replace", replace)
    make(origin, tmp_path / "cut", settings(30))
    assert files(tmp_path / "cut") == files(tmp_path / "whole")


def test_what_a_killed_worker_was_writing_is_swept_up(origin: Origin, tmp_path: Path) -> None:
    spec = settings(5)
    plan = plan_synthesis(origin, spec, output=str(tmp_path))
    token = "0" * 32
    storage.touch(storage.join(plan.run.url, ATTEMPTS, f"000000~{plan.run.session}-{token}"))
    storage.touch(storage.temporary_url(plan.run.images_url("000000"), token))
    synthesize_shard(plan.leases[0], FakeSynthesizer("fake", SPEC, spec), spec, plan.run, plan.starts)
    assert storage.list_names(str(tmp_path / "images")) == ["000000.tar"]


def test_no_sample_is_given_up_when_workers_die(origin: Origin, tmp_path: Path) -> None:
    spec = settings(5)
    plan = plan_synthesis(origin, spec, output=str(tmp_path))
    for number in range(3):
        storage.touch(storage.join(plan.run.url, ATTEMPTS, f"000000~{plan.run.session}-{number:032x}"))
    with pytest.raises(LabellerBroken, match=r"3 worker processes died while they made 000000\.tar"):
        synthesize_shard(plan.leases[0], FakeSynthesizer("fake", SPEC, spec), spec, plan.run, plan.starts)
    make(origin, tmp_path, spec)  # another session
    assert len(rows(tmp_path)) == 5


def test_a_model_that_fails_stops_the_work_and_leaves_no_receipt(origin: Origin, tmp_path: Path) -> None:
    def broken(indices: Sequence[int], starts: Sequence[Start | None]) -> list[SyntheticSample]:
        raise RuntimeError("device lost")

    plan = plan_synthesis(origin, settings(5), output=str(tmp_path))
    with pytest.raises(LabellerBroken, match="RuntimeError: device lost"):
        synthesize_shard(plan.leases[0], broken, settings(5), plan.run, plan.starts)
    assert files(tmp_path) == {}


def test_progress_is_told_and_a_finished_shard_is_returned_at_once(origin: Origin, tmp_path: Path) -> None:
    told: list[LeaseProgress] = []
    spec = settings(10)
    plan = plan_synthesis(origin, spec, output=str(tmp_path))
    (lease,) = plan.leases
    receipt = synthesize_shard(lease, FakeSynthesizer("fake", SPEC, spec), spec, plan.run, plan.starts, told.append)
    assert [(p.labelled, p.planned, p.finished) for p in told] == [
        (0, 10, False),
        (8, 10, False),
        (10, 10, False),
        (10, 10, True),
    ]

    def never(indices: Sequence[int], starts: Sequence[Start | None]) -> list[SyntheticSample]:
        raise AssertionError("there is nothing to make")

    assert synthesize_shard(lease, never, spec, plan.run, plan.starts) == receipt


def test_shards_are_made_on_an_object_store(origin: Origin) -> None:
    plan = make(origin, "memory://synthetic", settings(3))
    assert storage.list_names("memory://synthetic/images") == ["000000.tar"]
    assert len(members("memory://synthetic/images/000000.tar")) == 3 * 6
    assert make(origin, "memory://synthetic", settings(3)).remaining == []
    assert plan.leases[0].shard.url == "memory://synthetic/images/000000.tar"
