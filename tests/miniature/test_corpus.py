"""Scenes as WebDataset tars."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
import webdataset
from PIL import Image

from engine.miniature.corpus import write_corpus
from engine.miniature.scenes import draw_scene


def test_webdataset_reads_back_what_was_drawn(tmp_path):
    shards = list(write_corpus(tmp_path, count=25, seed=3, shard_size=10))
    assert [p.name for p in shards] == ["000000.tar", "000001.tar", "000002.tar"]
    samples = list(webdataset.WebDataset([str(p) for p in shards], shardshuffle=False))
    assert len(samples) == 25
    for index, sample in enumerate(samples):
        scene = draw_scene(3, index)
        assert sample["__key__"] == f"{index:08d}"
        assert sample["txt"].decode() == scene.caption
        assert json.loads(sample["json"]) == scene.metadata
        image = np.asarray(Image.open(io.BytesIO(sample["jpg"])))
        assert np.corrcoef(image.mean(-1).ravel(), scene.image.mean(-1).ravel())[0, 1] > 0.95
        masks = {name.removesuffix(".mask.png"): data for name, data in sample.items() if name.endswith(".mask.png")}
        assert set(masks) == set(scene.masks)
        for name, data in masks.items():
            assert np.array_equal(np.asarray(Image.open(io.BytesIO(data))) == 255, scene.masks[name])
        concept = scene.metadata["concept"]
        assert sample.get("mask.png") == (masks[concept] if concept else None)


def test_the_same_arguments_give_the_same_bytes(tmp_path):
    first = [p.read_bytes() for p in write_corpus(tmp_path / "a", count=4, seed=1, shard_size=2, concept="bird")]
    assert first == [
        p.read_bytes() for p in write_corpus(tmp_path / "b", count=4, seed=1, shard_size=2, concept="bird")
    ]


def test_a_folder_with_other_shards_is_refused(tmp_path):
    list(write_corpus(tmp_path, count=4, seed=1, shard_size=1))
    with pytest.raises(ValueError, match="already holds"):
        list(write_corpus(tmp_path, count=2, seed=1, shard_size=1))


def test_tars_of_somebody_else_are_not_overwritten_and_ones_own_are_made_again(tmp_path):
    list(write_corpus(tmp_path / "own", count=2, seed=1, width=32, height=32))
    list(write_corpus(tmp_path / "own", count=2, seed=1, width=32, height=32))
    (tmp_path / "000000.tar").write_bytes(b"my photographs")
    with pytest.raises(ValueError, match=r"000000\.tar is there already, and holds something else"):
        list(write_corpus(tmp_path, count=2, seed=1, width=32, height=32))
    assert (tmp_path / "000000.tar").read_bytes() == b"my photographs"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["000000.tar", "own"]
