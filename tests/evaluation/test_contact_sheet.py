"""The contact sheet shows labels from all over the run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from engine import storage
from engine.corpus import list_shards
from engine.evaluation import contact_sheet
from engine.evaluation.contact_sheet import write_contact_sheet
from engine.evaluation.rows import EvaluationError


def write_rows(world: Any, folder: str = "preliminary") -> None:
    rows = [world.row(shard, key, truth) for (shard, key), truth in world.truths.items()]
    world.write_rows(f"{folder}/all.parquet", rows)


def drawn_keys(world: Any, count: int, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    seen: list[str] = []
    original = contact_sheet.compose
    monkeypatch.setattr(
        contact_sheet,
        "compose",
        lambda title, cells: seen.extend([title, *dict(cells)]) or original(title, cells),
    )
    write_contact_sheet(str(world.run), list_shards(str(world.corpus)), str(world.run / "sheet.png"), count)
    return seen


def test_a_sheet_is_a_picture_of_three_columns(world: Any) -> None:
    write_rows(world)
    path = world.run / "sheet.png"
    assert write_contact_sheet(str(world.run), list_shards(str(world.corpus)), str(path)) == str(path)
    with Image.open(path) as sheet:
        assert sheet.format == "PNG"
        assert sheet.width > 9 * contact_sheet.TILE and sheet.height > 2 * contact_sheet.TILE
        colours = np.unique(np.asarray(sheet.convert("RGB")).reshape(-1, 3), axis=0)
    assert len(colours) > 1000
    assert (colours == contact_sheet.OUTLINE).all(axis=1).any()


def test_fewer_labels_than_asked_for_are_all_drawn(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    write_rows(world)
    title, *_ = drawn_keys(world, 24, monkeypatch)
    assert title == "car: preliminary masks of 6 images"


def test_labels_are_spread_over_the_run(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    write_rows(world)
    title, *keys = drawn_keys(world, 2, monkeypatch)
    assert "of 2 images" in title
    assert keys == ["000", "002"]  # the first of the first shard, the last of the last


def test_final_labels_are_preferred(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    write_rows(world)
    write_rows(world, "labels")
    assert drawn_keys(world, 1, monkeypatch)[0] == "car: masks of 1 images"


def test_without_labels_or_images_there_is_an_error(world: Any) -> None:
    with pytest.raises(EvaluationError, match="no finished labels"):
        write_contact_sheet(str(world.run), list_shards(str(world.corpus)), str(world.run / "sheet.png"))
    world.write_rows("preliminary/x.parquet", [world.row("x.tar", "0", np.ones((9, 9), dtype=bool))])
    with pytest.raises(EvaluationError, match="in the corpus"):
        write_contact_sheet(str(world.run), list_shards(str(world.corpus)), str(world.run / "sheet.png"))
    assert not (world.run / "sheet.png").exists()


def test_of_many_label_files_only_some_are_read_and_only_the_chosen_images(
    world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for (shard, key), truth in world.truths.items():
        world.write_rows(f"labels/{Path(shard).stem}-{key}.parquet", [world.row(shard, key, truth)])
    opened, asked = [], []
    open_binary, open_lease = storage.open_binary, contact_sheet.open_lease
    monkeypatch.setattr(storage, "open_binary", lambda url: opened.append(Path(url).name) or open_binary(url))
    monkeypatch.setattr(
        contact_sheet,
        "open_lease",
        lambda lease, keys, indexes: asked.append(sorted(keys)) or open_lease(lease, keys=keys),
    )
    drawn_keys(world, 2, monkeypatch)
    labels = {name for name in opened if name.endswith(".parquet")}
    assert len(labels) == 2 < len(world.truths)
    assert [len(keys) for keys in asked] == [1, 1]
