"""Tars in an object store that are too large to be held in memory: they are worked on in parts."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import fsspec
import numpy as np
import pytest
from PIL import Image

from engine.corpus import list_shards, plan_leases, tar
from engine.labelling.spec import LabelSpec
from engine.run.directory import LabelRun
from engine.run.fake import FakeLabeller
from engine.run.shard import label_lease
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
