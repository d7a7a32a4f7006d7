"""The join of images and labels: what is learned from, and that everything else is counted."""

from __future__ import annotations

import io
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from engine.corpus import Lease, list_shards
from engine.corpus.reader import LeaseReader
from engine.segmenter.examples import Example, read_examples
from engine.segmenter.spec import SegmenterSpec
from schemas.label import LABEL_SCHEMA
from tests.segmenter.bright import draw_box, to_png, write_tar

SPEC = SegmenterSpec(crop=32, short_side=40)


def leases_of(corpus: Path) -> list[Lease]:
    return [Lease(shard=shard) for shard in list_shards(str(corpus))]


def read(corpus: Path, folder: Path | None, **options: Any) -> tuple[list[Example], Counter[str]]:
    tally: Counter[str] = Counter()
    spec = options.pop("spec", SPEC)
    url = str(folder) if folder else None
    found = list(read_examples(url, leases_of(corpus), spec, tally, concept="box", **options))
    return found, +tally


def row(key: str, box: np.ndarray, shard: str = "000000.tar", **changes: Any) -> dict[str, Any]:
    """A label row; `changes` may hold arrays or bytes for its PNGs."""
    height, width = box.shape
    values = {"shard": shard, "key": key, "concept": "box", "width": width, "height": height, "quality": 0.5}
    pngs = {"mask": box, "preliminary_mask": box, "heatmap": box.astype(np.uint8), **changes}
    for name, value in pngs.items():
        is_png = name in ("mask", "preliminary_mask", "heatmap")
        data = to_png(value) if isinstance(value, np.ndarray) else value
        values[name] = {"bytes": data, "path": f"{key}.png"} if is_png else value
    return {"bbox": [0, 0, 0, 0], "area": 0.1, "flags": [], **values}


def write_rows(folder: Path, rows: list[dict[str, Any]], name: str = "000000") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, schema=LABEL_SCHEMA), folder / f"{name}.parquet")
    return folder


def test_equal_keys_of_different_shards_are_not_mixed(corpus: Path, labelled: Path) -> None:
    examples, tally = read(corpus, labelled / "labels")
    assert tally == {"used": 12}
    assert [(e.shard, e.key) for e in examples] == [(f"{s:06d}.tar", f"{n:03d}") for s in range(3) for n in range(4)]
    for number, example in enumerate(examples):
        image, mask = draw_box(number)
        size = example.mask.shape[::-1]
        assert min(size) == 40 and abs(size[0] / size[1] - mask.shape[1] / mask.shape[0]) < 0.02
        expected = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR))
        assert np.array_equal(example.image, expected)
        inside = np.asarray(Image.fromarray(mask).convert("L").resize(size, Image.Resampling.BILINEAR)) >= 128
        assert np.array_equal(example.mask, inside)


def test_rows_of_another_shard_in_a_lease_s_file_are_left_out_and_counted(corpus: Path, tmp_path: Path) -> None:
    _, mask = draw_box(0)
    folder = write_rows(tmp_path, [row("000", mask, "000001.tar"), row("001", draw_box(1)[1])])
    for name in ("000001", "000002"):
        write_rows(tmp_path, [], name)
    examples, tally = read(corpus, folder)
    assert [(e.shard, e.key) for e in examples] == [("000000.tar", "001")]
    assert tally == {"used": 1, "label_without_image": 1, "image_without_label": 3 + 8}


def test_everything_that_is_not_learned_from_is_counted_by_its_reason(tmp_path: Path) -> None:
    boxes = {f"{n:03d}": draw_box(n) for n in range(12)}
    members = {f"{key}.png": to_png(image) for key, (image, _) in boxes.items()}
    members |= {"000.png": b"no image", "900.png": to_png(np.zeros((4, 900, 3), np.uint8)), "901.txt": b"alone"}
    write_tar(tmp_path / "corpus" / "000000.tar", members)
    masks = {key: mask for key, (_, mask) in boxes.items()}
    rows = [
        row("000", masks["000"]),
        row("001", masks["001"], mask=b"no mask"),
        row("002", masks["002"], mask=masks["002"][1:]),
        row("003", masks["003"], flags=["touches_border", "empty"]),
        row("004", masks["004"], quality=0.2),
        row("005", masks["005"], quality=None),
        row("006", masks["006"]),
        row("007", masks["007"], flags=["background"]),
        row("008", masks["008"], flags=["absent"], quality=0.0),
        row("009", masks["009"], mask=masks["009"].astype(np.uint8) * 255),
        row("900", np.zeros((4, 900), bool)),
        row("gone", masks["006"]),
    ]
    folder = write_rows(tmp_path / "labels", rows)
    review = {("000000.tar", "006"): "reject", ("000000.tar", "008"): "accept", ("000001.tar", "007"): "reject"}
    spec = SegmenterSpec(crop=32, short_side=40, min_quality=0.3)
    examples, tally = read(tmp_path / "corpus", folder, spec=spec, review=review)
    assert [e.key for e in examples] == ["007", "008"]
    assert tally == {
        "used": 2,
        "bad_image": 1,
        "bad_mask": 3,  # no PNG, another size, and grey levels
        "flag:empty": 1,
        "low_quality": 2,
        "rejected": 1,
        "too_elongated": 1,
        "image_without_label": 2,
        "label_without_image": 1,
        "defect:no_image": 1,
    }


def test_a_person_who_is_unsure_decides_nothing(tmp_path: Path) -> None:
    write_tar(tmp_path / "corpus" / "000000.tar", {"000.png": to_png(draw_box(0)[0])})
    folder = write_rows(tmp_path / "labels", [row("000", draw_box(0)[1], flags=["full"])])
    _, tally = read(tmp_path / "corpus", folder, review={("000000.tar", "000"): "unsure"})
    assert tally == {"flag:full": 1}


def test_truth_is_read_from_the_corpus_and_an_image_of_something_else_is_one_without_the_object(tmp_path: Path) -> None:
    image, mask = draw_box(0)
    members = {
        "a.png": to_png(image),
        "a.mask.png": to_png(mask),
        "b.png": to_png(image),
        "b.box.mask.png": to_png(mask),
        "b.mask.png": to_png(~mask),
        "c.png": to_png(image),
        "c.mask.png": to_png(mask),
        "c.json": b'{"concept": "car"}',
        "d.png": to_png(image),
        "d.mask.png": to_png(mask[1:]),
        "e.png": to_png(image),
        "e.json": b'{"concept": null}',
        "f.png": to_png(image),
        "f.box.mask.png": to_png(mask),
        "f.json": b'{"concept": "car"}',
        "g.png": to_png(image),
    }
    write_tar(tmp_path / "000000.tar", members)
    examples, tally = read(tmp_path, None, labels="truth")
    assert [e.key for e in examples] == ["a", "b", "c", "e", "f"]
    for e in examples:
        assert np.array_equal(e.mask, mask if e.key in "abf" else np.zeros_like(mask))
    assert tally == {"used": 5, "image_without_label": 1, "bad_mask": 1}


def test_preliminary_masks_are_brought_to_the_image_s_size_cell_by_cell(tmp_path: Path) -> None:
    image = np.zeros((80, 120, 3), np.uint8)
    coarse = np.zeros((4, 6), bool)
    coarse[1:3, 2:5] = True
    write_tar(tmp_path / "corpus" / "000000.tar", {"000.png": to_png(image)})
    folder = write_rows(tmp_path / "labels", [row("000", np.zeros((80, 120), bool), preliminary_mask=coarse)])
    (example,), _ = read(tmp_path / "corpus", folder, labels="preliminary")
    assert np.array_equal(example.mask, coarse.repeat(10, 0).repeat(10, 1))


def test_where_the_concept_is_absent_a_preliminary_mask_teaches_background(tmp_path: Path) -> None:
    image, mask = draw_box(0)
    write_tar(tmp_path / "corpus" / "000000.tar", {f"{key}.png": to_png(image) for key in "ab"})
    rows = [row("a", mask), row("b", np.zeros_like(mask), preliminary_mask=mask, flags=["absent"], quality=0.0)]
    folder = write_rows(tmp_path / "labels", rows)
    all_flags = SegmenterSpec(crop=32, short_side=40, drop_flags=())
    for settings in ({"spec": all_flags}, {"review": {("000000.tar", "b"): "accept"}}):
        (there, absent), _ = read(tmp_path / "corpus", folder, labels="preliminary", **settings)
        assert there.mask.any() and not absent.mask.any()


def test_a_lease_gives_no_more_than_is_wanted_and_says_so(corpus: Path, labelled: Path) -> None:
    examples, tally = read(corpus, labelled / "labels", most=3)
    assert [e.key for e in examples] == ["000", "002", "003"] * 3
    assert tally == {"used": 9, "not_needed": 3}


def test_what_is_wanted_of_a_lease_is_spread_over_it_and_others_stand_in_for_the_unusable(tmp_path: Path) -> None:
    image, mask = draw_box(0)
    keys = [f"{n:03d}" for n in range(12)]
    write_tar(tmp_path / "corpus" / "000000.tar", {f"{key}.png": to_png(image) for key in keys})
    folder = write_rows(tmp_path / "labels", [row(key, mask, flags=["full"] * (key == "003")) for key in keys])
    for most, expected in (
        (2, [0, 7]),
        (4, [0, 4, 7, 10]),
        (8, [0, 2, 4, 6, 7, 8, 10, 11]),
        (11, [0, 1, 2, *range(4, 12)]),
    ):
        examples, tally = read(tmp_path / "corpus", folder, most=most)
        assert [int(e.key) for e in examples] == expected
        assert tally == {"used": most, "flag:full": 1, **({"not_needed": 11 - most} if most < 11 else {})}


def test_images_that_labels_leave_out_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image, mask = draw_box(0)
    keys = [f"{n:03d}" for n in range(12)]
    write_tar(tmp_path / "corpus" / "000000.tar", {f"{key}.png": to_png(image) for key in keys})
    folder = write_rows(tmp_path / "labels", [row(key, mask, flags=["absent"] * (key > "003")) for key in keys])
    read_at, places = LeaseReader.read, []
    monkeypatch.setattr(LeaseReader, "read", lambda self, place: places.append(place) or read_at(self, place))
    examples, tally = read(tmp_path / "corpus", folder, most=2)
    assert (len(examples), places) == (2, [0, 2])
    assert tally == {"used": 2, "not_needed": 2, "flag:absent": 8}


def test_a_file_that_holds_no_labels_is_named(corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "000000.parquet").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"000000\.parquet is not a label file"):
        read(corpus, tmp_path)


def test_a_label_file_that_is_not_there_is_named(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"there is no .*000000\.parquet, though a receipt says"):
        read(corpus, tmp_path)


def test_images_are_decoded_upright(tmp_path: Path) -> None:
    image, mask = draw_box(3)
    picture, exif = Image.fromarray(np.rot90(image).copy()), Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter, clockwise
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", exif=exif)
    write_tar(tmp_path / "000000.tar", {"a.png": buffer.getvalue(), "a.mask.png": to_png(mask)})
    (example,), _ = read(tmp_path, None, labels="truth", spec=SegmenterSpec(crop=32, short_side=min(mask.shape)))
    assert np.array_equal(example.image, image)
