"""Which images of the corpus samples begin from."""

from __future__ import annotations

import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from engine.corpus.decode import DecodeError
from engine.run.directory import RunError, start_run
from engine.run.fake import FakeSource
from engine.run.origin import Origin, find_origin
from engine.run.starts import LARGEST, MOST_LEASES, NoStart, Starts
from engine.run.synthesis import plan_synthesis
from engine.synthesis.spec import SynthesisSpec
from tests.run.origins import SHARDS, change_labels, start_labelled, start_origin


@pytest.fixture
def origin(tmp_path: Path) -> Origin:
    return start_labelled(tmp_path)


def settings(**changes: object) -> SynthesisSpec:
    return SynthesisSpec(**{"backgrounds": 0.0, "shard_size": 6, **changes})  # type: ignore[arg-type]


def starts_of(origin: Origin, spec: SynthesisSpec, shard: int) -> list[tuple[str, str]]:
    starts = Starts.find(origin.url, "car", spec)
    assert starts
    first = shard * spec.shard_size
    with starts.open(shard) as begin:
        found = begin(range(first, first + spec.shard_size))
    return [(start.shard, start.key) for start in found if start]


def test_a_shard_takes_each_image_once_before_any_comes_again_and_no_more_leases_than_it_needs(origin: Origin) -> None:
    few = [starts_of(origin, settings(shard_size=3), shard) for shard in range(3)]
    assert {len({name for name, _ in found}) for found in few} == {1}, "each lease has enough for three"
    assert len({found[0][0] for found in few}) == 3, "shards that follow each other take different leases"
    assert all(len(set(found)) == 3 for found in few)
    (all_of_them,) = {frozenset(starts_of(origin, settings(shard_size=14), shard)) for shard in range(3)}
    assert len(all_of_them) == 14
    twice = Counter(starts_of(origin, settings(shard_size=28), 0))
    assert set(twice.values()) == {2} and twice.keys() == all_of_them


def test_pure_backgrounds_take_no_image_from_objects(origin: Origin) -> None:
    spec = settings(backgrounds=0.2, shard_size=17)  # 14 objects or 13
    starts = Starts.find(origin.url, "car", spec)
    assert starts
    for shard in range(4):
        indices = range(shard * 17, shard * 17 + 17)
        with starts.open(shard) as begin:
            found = begin(indices)
        assert [start is None for start in found] == [spec.is_background(index) for index in indices]
        names = [start.name for start in found if start]
        assert len(set(names)) == len(names) in (13, 14)


def test_a_shard_of_pure_backgrounds_alone_needs_no_image(origin: Origin, tmp_path: Path) -> None:
    for place in range(len(SHARDS)):
        (tmp_path / "run" / "labels" / f"{place:06d}.parquet").unlink()
    spec = settings(backgrounds=0.9, shard_size=6)  # every tenth sample is an object
    assert starts_of(origin, spec, 2) == [] and all(map(spec.is_background, range(12, 18)))


def test_what_samples_begin_from_derives_from_seed_and_shard_alone(origin: Origin) -> None:
    assert starts_of(origin, settings(), 4) == starts_of(origin, settings(count=9), 4)
    first, other = ([starts_of(origin, settings(seed=seed), shard) for shard in range(3)] for seed in (0, 1))
    assert first != other
    starts = Starts.find(origin.url, "car", settings())
    assert starts
    with starts.open(1) as begin:
        in_parts = [*begin([8, 9, 10, 11]), *begin([6, 7])]
    assert [start.name for start in in_parts if start] == [first[1][i] for i in (2, 3, 4, 5, 0, 1)]


def test_images_of_rare_concepts_are_sought_in_more_leases_but_not_in_all(tmp_path: Path) -> None:
    start_origin(tmp_path, labelled=True, shards=[range(2 * n, 2 * n + 2) for n in range(MOST_LEASES + 4)])
    origin = find_origin(str(tmp_path / "run"), source=FakeSource())
    for n in range(MOST_LEASES + 4):
        change_labels(tmp_path / "run", f"{n:06d}", {f"{2 * n:06d}": ["absent"]})
    assert len(set(starts_of(origin, settings(shard_size=40), 0))) == MOST_LEASES


def test_where_nothing_begins_from_an_image_no_labels_are_needed(origin: Origin) -> None:
    for spec in (settings(strength=1.0), settings(backgrounds=1.0)):
        assert Starts.find("/nowhere", "car", spec) is None
        assert plan_synthesis(origin, spec).starts is None


def test_images_in_which_the_labels_find_nothing_are_left_out(origin: Origin, tmp_path: Path) -> None:
    run = tmp_path / "run"
    for place, numbers in enumerate(SHARDS):
        flags = dict(zip((f"{n:06d}" for n in numbers), (["absent"], ["empty"], ["touches_border"]), strict=False))
        change_labels(run, f"{place:06d}", flags)
    found = {key for shard in range(3) for _, key in starts_of(origin, settings(shard_size=10), shard)}
    assert found == {f"{n:06d}" for n in (2, 3, 4, 5, 8, 11, 12, 13)}


def test_a_lease_without_the_concept_is_passed_over_and_a_corpus_without_it_refused(
    origin: Origin, tmp_path: Path
) -> None:
    spec = settings(shard_size=3)
    usual = {shard: starts_of(origin, spec, shard)[0][0] for shard in range(3)}
    numbers = {f"{place:06d}": list(SHARDS[place]) for place in range(3)}
    lease = usual[0][:6]
    change_labels(tmp_path / "run", lease, {f"{n:06d}": ["absent"] for n in numbers[lease]})
    assert starts_of(origin, spec, 0)[0][0] == usual[1]
    for other, of_it in numbers.items():
        change_labels(tmp_path / "run", other, {f"{n:06d}": ["absent"] for n in of_it})
    with pytest.raises(NoStart, match="none of the labels finds 'car'; or let samples begin from noise"):
        starts_of(origin, spec, 0)


def test_an_image_that_has_become_unreadable_is_passed_over(tmp_path: Path) -> None:
    start_origin(tmp_path, labelled=True, shards=[range(3)])
    (path,) = (tmp_path / "corpus").glob("*.tar")
    data = bytearray(path.read_bytes())
    with tarfile.open(path) as tar:
        damaged = [tar.getmember(f"00000{number}.jpg") for number in (0, 1)]
    for member in damaged:
        data[member.offset_data : member.offset_data + member.size] = bytes(member.size)
    path.write_bytes(data)
    change_labels(tmp_path / "run", "000000", {})
    origin = find_origin(str(tmp_path / "run"), source=FakeSource())
    assert {key for _, key in starts_of(origin, settings(), 0)} == {"000002"}


def test_where_a_shard_of_the_corpus_is_damaged_others_are_begun_from(origin: Origin, tmp_path: Path) -> None:
    spec = settings(shard_size=3)
    usual = {starts_of(origin, spec, shard)[0][0] for shard in range(3)}
    assert len(usual) == 3
    paths = sorted((tmp_path / "corpus").glob("*.tar"))
    paths[1].write_bytes(bytes(range(256)) * (paths[1].stat().st_size // 256))
    found = [starts_of(origin, spec, shard) for shard in range(3)]
    assert {name for own in found for name, _ in own} == usual - {paths[1].name}
    assert all(len(set(own)) == 3 for own in found)
    for path in paths:
        path.write_bytes(bytes(range(256)) * (path.stat().st_size // 256))
    with pytest.raises(NoStart, match=r"none of the labelled images of .*00000\d.* can be read any more; mend"):
        starts_of(origin, spec, 0)


def test_where_memory_does_not_suffice_no_other_image_is_taken(origin: Origin, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(data: bytes) -> np.ndarray:
        raise DecodeError("out_of_memory", "There is no memory for it.")

    monkeypatch.setattr("engine.run.starts.decode_image", fail)
    with pytest.raises(NoStart, match=r"0000\d\d\.tar 0000\d\d: There is no memory for it"):
        starts_of(origin, settings(), 0)


def test_a_corpus_that_has_become_unreadable_is_told_of(origin: Origin, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(data: bytes) -> np.ndarray:
        raise DecodeError("corrupt_image", "It is no image.")

    monkeypatch.setattr("engine.run.starts.decode_image", fail)
    with pytest.raises(
        NoStart, match=r"none of the labelled images of .*00000\d.* can be read any more; mend the corpus"
    ):
        starts_of(origin, settings(), 0)


def test_every_node_must_see_the_corpus_and_its_labels(origin: Origin, tmp_path: Path) -> None:
    plan = plan_synthesis(origin, settings(), output=str(tmp_path / "elsewhere"))
    corpus, labels = tmp_path / "corpus" / "000000.tar", tmp_path / "run" / "labels"
    assert plan.places == {str(tmp_path / "elsewhere"), str(corpus), str(labels)}
    noise = plan_synthesis(origin, settings(strength=1.0), output=str(tmp_path / "noise"))
    assert noise.places == {str(tmp_path / "noise")}


def test_large_images_are_held_smaller(tmp_path: Path) -> None:
    (tmp_path / "corpus").mkdir()
    Image.fromarray(np.zeros((300, 3 * LARGEST, 3), np.uint8)).save(tmp_path / "corpus" / "long.png")
    start_origin(tmp_path, labelled=True, shards=())
    change_labels(tmp_path / "run", "folder-000000", {})
    origin = find_origin(str(tmp_path / "run"), source=FakeSource())
    starts = Starts.find(origin.url, "car", settings())
    assert starts
    with starts.open(0) as begin:
        (start,) = begin([0])
    assert start and start.image.shape == (100, LARGEST, 3) and start.name == ("folder-000000", "long")


def test_labels_that_were_added_make_another_set(origin: Origin, tmp_path: Path) -> None:
    plan = plan_synthesis(origin, settings())
    (tmp_path / "run" / "labels" / "000002.json").unlink()
    assert plan_synthesis(origin, settings()).run.fingerprint != plan.run.fingerprint
    plan = plan_synthesis(origin, settings(count=3), output=str(tmp_path / "set"))
    start_run(plan.run.url, plan.manifest)
    (tmp_path / "run" / "labels" / "000001.json").unlink()
    with pytest.raises(RunError, match=r"its samples began from other labels; move it away, or use another --output"):
        plan_synthesis(origin, settings(), output=str(tmp_path / "set"))


def test_labels_whose_shard_is_gone_are_told_of(origin: Origin, tmp_path: Path) -> None:
    (tmp_path / "corpus" / "000001.tar").unlink()
    told = plan_synthesis(origin, settings()).describe()
    assert "from images of 11 labels in 2 leases" in told and "1 other with 3 labels is not in this corpus" in told


def test_preliminary_labels_do_not_suffice(tmp_path: Path) -> None:
    start_origin(tmp_path)
    origin = find_origin(str(tmp_path / "run"), source=FakeSource())
    with pytest.raises(RunError, match=r"has no refined labels; run jobs/label\.py .* or let samples begin from noise"):
        plan_synthesis(origin, settings())
