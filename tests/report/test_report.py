"""What a report says, without a browser: rows in order, numbers of all labels, pictures, and nothing twice."""

from __future__ import annotations

import io
import json
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from engine.report.page import render_data, render_page
from engine.report.pictures import GAP, largest_side
from engine.report.report import ReportOptions, write_report
from jobs.report import main
from tests.export.prescribed import Case, write_run
from tests.report.conftest import SCRIPT


def read_data(text: str) -> dict[str, Any]:
    head, _, tail = text.partition(" = ")
    assert head == "window.REPORT" and tail.endswith(";\n")
    return json.loads(tail[:-2])


def report(run: Path, output: Path, **options: Any) -> dict[str, Any]:
    write_report(str(run), ReportOptions(**options), output=str(output))
    return read_data((output / "data.js").read_text())


def test_numbers_are_of_all_labels_and_rows_are_the_worst(run: Path, shown: list[Case], tmp_path: Path) -> None:
    data = report(run, tmp_path, rows=7)
    table = pq.ParquetDataset(list((run / "labels").glob("*.parquet"))).read(["quality", "area"]).to_pandas()
    assert [row[1] for row in data["rows"]] == [case.key for case in shown[:7]]
    assert data["labelled"] == data["seen"] == 90
    for name in ("quality", "area"):
        # A little more than a row of pixels makes, so that no area lies at the edge of a bin.
        expected, _ = np.histogram(table[name].astype(float) + 1e-9, bins=20, range=(0, 1))
        assert data["histograms"][name] == expected.tolist(), name
        assert data["means"][name] == pytest.approx(table[name].mean(), abs=1e-4)
    assert data["flagged"] == {"": 62, "touches_border": 18, "low_contrast": 13}
    assert len(list((tmp_path / "images").rglob("*.webp"))) == 7


def test_a_picture_shows_image_mask_heatmap_and_preliminary_mask(run: Path, shown: list[Case], tmp_path: Path) -> None:
    data = report(run, tmp_path)
    (row,) = (row for row in data["rows"] if row[1] == "089")
    case = shown[89]
    strip = np.asarray(Image.open(tmp_path / row[10])).astype(float)
    width = case.mask.shape[1]
    image, mask, heatmap, _ = (strip[:, at : at + width] for at in range(0, strip.shape[1], width + GAP))
    inside = np.zeros_like(case.mask)
    inside[8:30, 12:28] = True
    outside = np.zeros_like(case.mask)
    outside[40:, 40:] = True
    assert np.abs(image - case.pixels).mean() < 20
    assert np.abs(image - mask)[inside].mean() < 12 and mask[outside].mean() < 0.7 * image[outside].mean()
    assert heatmap[inside].mean() > 1.5 * heatmap[outside].mean()


def test_a_report_done_again_draws_nothing_twice_and_leaves_nothing_behind(run: Path, tmp_path: Path) -> None:
    report(run, tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.webp")}
    report(run, tmp_path, rows=30)
    after = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.webp")}
    assert len(after) == 30 and after.items() <= before.items()
    data = report(run, tmp_path, rows=30, side=32)
    assert len(list(tmp_path.rglob("*.webp"))) == 30
    assert max(Image.open(tmp_path / row[10]).height for row in data["rows"]) <= 32


def test_labels_that_are_not_drawn_are_read_once_and_without_their_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noise = np.random.default_rng(0).random((12, 600, 600)) < 0.5
    odd = [Case(shard=f"{n % 3:06d}", key=f"{n:03d}", mask=mask, quality=n / 12) for n, mask in enumerate(noise)]
    run = write_run(tmp_path / "noise", odd)
    opened: Counter[str] = Counter()
    amounts: Counter[str] = Counter()

    class Counted(io.FileIO):
        def read(self, size: int = -1, /) -> bytes:
            data = super().read(size)
            amounts[Path(str(self.name)).stem] += len(data)
            return data

    def open_binary(url: str) -> Counted:
        opened[Path(url).stem] += 1
        return Counted(url)

    monkeypatch.setattr("engine.segmenter.examples.storage.open_binary", open_binary)
    assert len(report(run, tmp_path / "report", rows=1)["rows"]) == 1
    assert opened == {"000000": 2, "000001": 1, "000002": 1}
    sizes = {path.stem: path.stat().st_size for path in (run / "labels").glob("*.parquet")}
    assert all(amounts[name] < sizes[name] / 2 for name in ("000001", "000002")), (amounts, sizes)
    report(run, tmp_path / "report", rows=1)
    assert opened == {"000000": 3, "000001": 2, "000002": 2}, "its picture is there"


def test_files_of_others_in_the_folders_of_pictures_stay(run: Path, tmp_path: Path) -> None:
    others = [tmp_path / "images" / name for name in ("00/photo.jpg", "a7/photo.4.webp", "ff/.webp", "ff/0123.webp")]
    half = tmp_path / "images" / "00" / f".{'0' * 24}.4.webp.{'0' * 32}.tmp"
    for path in (*others, half):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"mine")
    report(run, tmp_path, rows=5)
    report(run, tmp_path, rows=2)
    assert all(path.read_bytes() == b"mine" for path in others) and not half.exists()
    assert len(list(tmp_path.rglob("*.[45].webp"))) == 2 + 1


def test_a_painted_background_is_one_more_picture(run: Path, shown: list[Case], tmp_path: Path) -> None:
    asked = []

    def paint(image: np.ndarray, key: str) -> np.ndarray | None:
        asked.append(key)
        return None if key == shown[1].key else np.full_like(image, 200)

    write_report(str(run), ReportOptions(backgrounds=3), output=str(tmp_path), painter=paint)
    rows = read_data((tmp_path / "data.js").read_text())["rows"]
    assert sorted(asked) == sorted(case.key for case in shown[:3])
    assert [row[11] for row in rows[:5]] == [5, 4, 5, 4, 4]
    strip = np.asarray(Image.open(tmp_path / rows[0][10]))
    assert np.abs(strip[:, -30:].astype(int) - 200).max() < 8


@pytest.mark.parametrize("layers", [4, 5])
def test_the_largest_side_is_the_largest_that_a_webp_has_room_for(layers: int) -> None:
    side = largest_side(layers)
    fits, too_wide = ((width + GAP) * layers - GAP for width in (side, side + 1))
    Image.new("RGB", (fits, 1)).save(io.BytesIO(), format="WEBP")
    with pytest.raises(ValueError, match="encoding error 5"):
        Image.new("RGB", (too_wide, 1)).save(io.BytesIO(), format="WEBP")


def test_labels_whose_images_are_gone_stay_in_the_report(
    run: Path, shown: list[Case], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(run.parent / "corpus", tmp_path / "corpus")
    (tmp_path / "corpus" / "000002.tar").unlink()
    options = ["--run", str(run), "--input", str(tmp_path / "corpus"), "--output", str(tmp_path / "out")]
    assert main(options) == 0
    out = capsys.readouterr().out
    assert "90, the worst 90" in out and "30: label without image" in out
    data = read_data((tmp_path / "out" / "data.js").read_text())
    assert data["missing"] == {"label_without_image": 30}
    assert [row[1] for row in data["rows"] if not row[10]] == [case.key for case in shown if case.shard == "000002"]


@pytest.fixture
def memory() -> Iterator[str]:
    yield "memory://reports"
    fsspec.filesystem("memory").store.clear()


def test_run_and_report_may_lie_on_an_object_store(run: Path, memory: str, capsys: pytest.CaptureFixture[str]) -> None:
    store = fsspec.filesystem("memory")
    store.put(str(run), "/reports/run", recursive=True)
    assert main(["--run", f"{memory}/run", "--rows", "5"]) == 0
    assert f"{memory}/run/report/index.html" in capsys.readouterr().out
    data = read_data(store.cat_file("/reports/run/report/data.js").decode())
    pictures = [store.cat_file(f"/reports/run/report/{row[10]}") for row in data["rows"]]
    assert all(Image.open(io.BytesIO(picture)).format == "WEBP" for picture in pictures) and len(pictures) == 5


def test_neither_page_nor_data_let_anything_out_of_its_quotes() -> None:
    assert f"<title>{'&lt;/title&gt;&lt;b&gt;'}</title>" in render_page("</title><b>").decode()
    text = render_data({"key": SCRIPT}).decode()
    assert "<" not in text and "\u2028" not in text
    assert read_data(text) == {"key": SCRIPT}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--run", "/nowhere"], "there is no /nowhere/run.json; run jobs/label.py with this --run first"),
        (["--run", "{run}", "--rows", "0"], "rows is 0; it must be at least 1"),
        (["--run", "{run}", "--side", "4096"], "side is 4096; it must be at most 4083"),
        (["--run", "{run}", "--side", "4083", "--backgrounds", "1"], "it must be at most 3263 with backgrounds"),
        (["--run", "{run}", "--model", "miniature"], "--model, --revision and --adapter are for --backgrounds"),
        (["--run", "{run}", "--input", "/nowhere"], "'/nowhere' does not exist"),
        (["--run", "{run}", "--input", ""], "is empty"),
    ],
)
def test_wrong_usage_is_one_sentence(
    options: list[str], message: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*(option.format(run=run) for option in options), "--output", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_an_output_without_a_name_is_not_the_default(run: Path) -> None:
    with pytest.raises(ValueError, match="is empty"):
        write_report(str(run), ReportOptions(rows=1), output="")


def test_the_models_of_backgrounds_are_looked_for_where_they_lie_now(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = {}

    def find(run: str, **given: str | None) -> None:
        asked.update(given)
        raise ValueError("there is none")

    monkeypatch.setattr("engine.report.backgrounds.find_origin", find)
    moved = {"model": "some/model", "revision": "v1", "adapter": "/moved"}
    options = [part for name, value in moved.items() for part in (f"--{name}", value)]
    assert main(["--run", str(run), "--backgrounds", "1", *options]) == 2
    assert asked == {"concept": None, **moved}


def test_decisions_on_one_concept_are_kept_apart_from_those_on_another(shown: list[Case], tmp_path: Path) -> None:
    cases = [replace(case, concept=concept) for case in shown[:6] for concept in ("car", "dog")]
    run = write_run(tmp_path, cases)
    ids = []
    for concept in ("car", "dog", "dog"):
        write_report(str(run), ReportOptions(), output=str(tmp_path / concept), concept=concept)
        ids.append(read_data((tmp_path / concept / "data.js").read_text())["id"])
    assert ids[0] != ids[1] == ids[2]


def test_reports_of_two_concepts_in_one_folder_show_each_its_own_masks(shown: list[Case], tmp_path: Path) -> None:
    case = shown[60]
    run = write_run(tmp_path, [replace(case, concept="car"), replace(case, concept="dog", mask=~case.mask)])
    pictures = []
    for concept, folder in (("car", "both"), ("dog", "both"), ("dog", "alone")):
        write_report(str(run), ReportOptions(), output=str(tmp_path / folder), concept=concept)
        (row,) = read_data((tmp_path / folder / "data.js").read_text())["rows"]
        pictures.append((tmp_path / folder / row[10]).read_bytes())
    assert pictures[0] != pictures[1] == pictures[2]


def test_a_report_says_of_what_kind_its_labels_are(run: Path, tmp_path: Path) -> None:
    options = ReportOptions(rows=2)
    assert write_report(str(run), options, output=str(tmp_path / "a")).kind == "refined"
    coarse = tmp_path / "coarse"
    shutil.copytree(run, coarse, ignore=shutil.ignore_patterns("report*"))
    (coarse / "labels").rename(coarse / "preliminary")
    for path in (coarse / "preliminary").glob("*.json"):
        path.write_text(path.read_text().replace('"stage": "refined"', '"stage": "preliminary"'))
    assert write_report(str(coarse), options, output=str(tmp_path / "b")).kind == "preliminary"


def test_a_report_says_how_much_of_the_corpus_its_labels_are_of(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    part = tmp_path / "part"
    shutil.copytree(run, part, ignore=shutil.ignore_patterns("report*"))
    (part / "labels" / "000002.json").unlink()
    assert main(["--run", str(part), "--rows", "2", "--output", str(tmp_path / "out")]) == 0
    out = capsys.readouterr().out
    assert "stage       refined, of 2 of 3 leases\nmissing     1 lease without labels as yet\nlabels      60," in out
    assert read_data((tmp_path / "out" / "data.js").read_text())["unlabelled"] == 1
