"""Tars in an object store that are too large to be held in memory: they are worked on in parts."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import fsspec
import numpy as np
import pytest
from PIL import Image

from engine.corpus import list_shards, plan_leases, tar
from engine.corpus.indexes import IndexFolder
from engine.labelling.spec import LabelSpec
from engine.run.directory import LabelRun
from engine.run.fake import FakeLabeller
from engine.run.names import index_folder
from engine.run.shard import label_lease
from engine.segmenter.examples import read_examples
from engine.segmenter.spec import SegmenterSpec
from tests.corpus.counting import count_fetched
from tests.corpus.hostile import make_tar

SPEC = LabelSpec(concept="car", prompt="a photo of a car", stage="preliminary")
PARTS, IMAGES = 7, 280


@pytest.fixture
def size(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """Of a tar in the store memory://tars."""
    monkeypatch.setattr("engine.remote._WHOLE", 0)
    monkeypatch.setattr("engine.remote._PIECE", 4096)
    noise = np.random.default_rng(0).integers(0, 255, (IMAGES, 12, 20, 3), dtype=np.uint8)
    members = []
    for number, pixels in enumerate(noise):
        Image.fromarray(pixels).save(buffer := io.BytesIO(), format="PNG")
        members.append((f"{number:03d}.png", buffer.getvalue()))
    data = make_tar(members)
    fsspec.filesystem("memory").pipe_file("/tars/a.tar", data)
    yield len(data)
    fsspec.filesystem("memory").rm("/tars", recursive=True)


def label(run: Path, size: int) -> tuple[dict[str, bytes], int]:
    """The label files of all parts, each made by a process of its own, and how much of the tar these fetched."""
    leases = plan_leases(list_shards("memory://tars"), target_bytes=-(-size // PARTS))
    assert len(leases) == PARTS
    labels = LabelRun(
        url=str(run),
        stage=SPEC.stage,
        concept=SPEC.concept,
        prompt=SPEC.prompt,
        fingerprint="f",
        model="fake",
        revision=None,
        seed=0,
        session="s",
    )
    with count_fetched() as fetched:
        for lease in leases:
            tar._last_index.clear()
            label_lease(lease, FakeLabeller("fake", SPEC), labels)
    return {path.name: path.read_bytes() for path in (run / "preliminary").glob("*.parquet")}, sum(fetched)


def test_workers_of_a_large_tar_fetch_it_twice_together_and_label_as_if_alone(
    size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared, fetched = label(tmp_path / "shared", size)
    assert len(shared) == PARTS
    monkeypatch.setattr("engine.run.shard.index_folder", lambda *arguments, **options: None)
    alone, fetched_alone = label(tmp_path / "alone", size)
    assert shared == alone
    assert fetched < 2.2 * size < PARTS * size < fetched_alone


def test_what_learns_from_a_part_of_a_large_tar_reads_that_part(size: int, tmp_path: Path) -> None:
    label(tmp_path / "run", size)
    *_, lease = plan_leases(list_shards("memory://tars"), target_bytes=-(-size // PARTS))
    spec = SegmenterSpec(crop=32, short_side=32, labels="preliminary", drop_flags=())

    def learn(indexes: IndexFolder | None) -> tuple[list[str], int]:
        tar._last_index.clear()
        url = str(tmp_path / "run" / "preliminary")
        with count_fetched() as fetched:
            examples = list(read_examples(url, [lease], spec, Counter(), concept="car", indexes=indexes))
        return [example.key for example in examples], sum(fetched)

    keys, fetched = learn(index_folder(str(tmp_path / "run")))
    assert keys and fetched < 0.3 * size
    assert learn(None) == (keys, pytest.approx(size, rel=0.3))
