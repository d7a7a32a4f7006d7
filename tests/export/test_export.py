"""What is exported, what is left out and counted, and that a folder is there as a whole or not at all."""

from __future__ import annotations

import errno
import io
import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
from PIL import Image

from engine.export.coco import CocoWriter
from engine.export.export import ExportOptions, export_labels
from engine.export.formats import FORMATS
from engine.export.names import safe_name
from jobs.export import main
from schemas.run import RunManifest
from tests.export.prescribed import Case, difficult_masks, write_run
from tests.export.readers import read_coco, read_png
from tests.segmenter.bright import write_tar

Given = dict[tuple[str, str], Case]


@pytest.fixture
def copied(run: Path, tmp_path: Path) -> Path:
    """A run and its corpus that a test may damage; its run.json still names the first one's corpus."""
    shutil.copytree(run.parent, tmp_path / "copied")
    return tmp_path / "copied" / "run"


@pytest.fixture
def memory() -> Iterator[str]:
    """A folder of an object store."""
    yield "memory://exports"
    fsspec.filesystem("memory").store.clear()


def test_useless_labels_and_those_of_little_quality_stay_behind(run: Path, given: Given, tmp_path: Path) -> None:
    exported = export_labels(str(run), str(tmp_path / "out"), ExportOptions(format="png", min_quality=0.5))
    assert exported.left_out == {"flag:empty": 1, "low_quality": 1}
    assert {key for _, key in given} - {key for _, key in read_png(tmp_path / "out")} == {"empty", "poor"}


def test_a_persons_decisions_overrule_quality_and_flags(run: Path, given: Given, tmp_path: Path) -> None:
    review = tmp_path / "review.csv"
    review.write_text("shard,key,decision\n000001.tar,poor,accept\n000000.tar,disc,reject\n000001.tar,dot,unsure\n")
    out = tmp_path / "out"
    options = ["--run", str(run), "--format", "coco", "--output", str(out), "--min-quality", "0.5"]
    assert main([*options, "--review", str(review)]) == 0
    assert {key for _, key in given} - {key for _, key in read_coco(out)} == {"empty", "disc"}
    assert json.loads((out / "export.json").read_text())["left_out"] == {"flag:empty": 1, "rejected": 1}


def test_decisions_that_are_about_no_label_are_told_of_and_refused_where_all_are(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    review = tmp_path / "review.csv"
    review.write_text("shard,key,decision\n000000.tar,disc,reject\n000000.tar,Disc.,reject\n")
    options = ["--run", str(run), "--format", "png", "--review", str(review), "--output"]
    assert main([*options, str(tmp_path / "out")]) == 0
    assert "decisions   1 are about no label of this run" in capsys.readouterr().out
    found = json.loads((tmp_path / "out" / "export.json").read_text())
    assert (found["decisions"], found["decisions_about_others"]) == (1, 1)
    review.write_text("shard,key,decision\n0.tar,disc,reject\n")
    assert main([*options, str(tmp_path / "none")]) == 2
    assert "none of the 1 decisions of the review" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def test_images_that_are_gone_or_have_changed_are_counted(
    copied: Path, given: Given, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus = tmp_path / "smaller"
    shutil.copytree(copied.parent / "corpus", corpus)
    own = {case.key: case for case in given.values() if case.shard == "000001"}
    members = {f"{key}.png": case.encode()[1] for key, case in own.items() if key != "dot"}
    members["corner.png"] = members["corner.png"][:80]
    members["poor.png"] = own["images/dot"].encode()[1]
    size = (corpus / "000001.tar").stat().st_size
    write_tar(corpus / "000001.tar", members)
    with (corpus / "000001.tar").open("r+b") as file:
        file.truncate(size)  # the shard that was labelled is known by its size
    options = ["--run", str(copied), "--format", "png", "--output", str(tmp_path / "out"), "--input", str(corpus)]
    assert main(options) == 0
    out = capsys.readouterr().out
    assert "1: label without image" in out and "1: unreadable image" in out and "1: bad mask" in out


def test_a_shard_that_is_gone_is_counted_label_by_label(copied: Path, given: Given, tmp_path: Path) -> None:
    corpus = copied.parent / "corpus"
    (corpus / "000001.tar").unlink()
    exported = export_labels(str(copied), str(tmp_path / "out"), ExportOptions(format="png"), input_url=str(corpus))
    gone = [case for case in given.values() if case.shard == "000001" and case.key != "empty"]
    assert exported.left_out["label_without_image"] == len(gone)


def export(run: Path, output: Path, *options: str) -> int:
    return main(["--run", str(run), "--format", "png", "--output", str(output), *options])


def test_an_export_of_a_part_says_what_is_missing(
    copied: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert export(copied, tmp_path / "all") == 0
    out = capsys.readouterr().out
    assert "stage       refined, of 2 of 2 leases\n" in out and "missing" not in out
    (copied / "labels" / "000001.json").unlink()
    assert export(copied, tmp_path / "part") == 0
    out = capsys.readouterr().out
    assert "stage       refined, of 1 of 2 leases\nmissing     1 lease without labels as yet\n" in out
    extent = json.loads((tmp_path / "part" / "export.json").read_text())["labels"]
    assert (extent["stage"], extent["leases"], extent["unlabelled"]) == ("refined", 1, 1)


@pytest.mark.parametrize(("more", "missing"), [(0, False), (1, True), (None, True)])
def test_labels_up_to_a_limit_are_missing_only_where_there_are_more(
    copied: Path, tmp_path: Path, more: int | None, missing: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    receipt = copied / "labels" / "000001.json"
    values = json.loads(receipt.read_text())
    samples = None if more is None else values["seen"] + more
    receipt.write_text(json.dumps(values | {"lease": values["lease"] | {"limit": values["seen"]}, "samples": samples}))
    assert export(copied, tmp_path / "out") == 0
    assert ("1 lease with labels of the first images only" in capsys.readouterr().out) == missing


def test_coarse_masks_of_a_run_that_was_to_have_others_are_exported_if_asked_for(
    copied: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (copied / "labels").rename(copied / "preliminary")
    receipt = copied / "preliminary" / "000001.json"
    values = json.loads(receipt.read_text())
    receipt.write_text(json.dumps(values | {"lease": values["lease"] | {"limit": values["seen"]}, "samples": 99}))
    assert export(copied, tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert "no refined labels yet" in error and "take these with --stage preliminary" in error
    assert not (tmp_path / "out").exists()
    assert export(copied, tmp_path / "out", "--stage", "preliminary") == 0
    out = capsys.readouterr().out
    assert "preliminary (coarse masks), of 2 of 2 leases" in out and "1 lease with labels of the first" in out
    assert json.loads((tmp_path / "out" / "export.json").read_text())["labels"]["stage"] == "preliminary"
    manifest = RunManifest.from_json((copied / "run.json").read_text())
    manifest.config["stage"] = {"stage": "preliminary"}
    (copied / "run.json").write_text(manifest.to_json())
    assert export(copied, tmp_path / "meant") == 0, "the run was to have no others"


def test_the_labels_of_a_stage_are_those_of_its_own_leases(
    copied: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(copied / "labels", copied / "preliminary")
    (copied / "preliminary" / "000000.json").unlink()
    assert export(copied, tmp_path / "out", "--stage", "preliminary") == 0
    assert "of 1 of 2 leases" in capsys.readouterr().out
    assert {shard for shard, _ in read_png(tmp_path / "out")} == {"000001.tar"}


class Phone(Case):
    """A photo as phones store it: a JPEG that holds a second picture."""

    def encode(self) -> tuple[str, bytes]:
        buffer = io.BytesIO()
        picture = Image.fromarray(self.pixels)
        picture.save(buffer, format="MPO", save_all=True, append_images=[picture.resize((8, 8))])
        return "jpg", buffer.getvalue()


def test_a_photo_that_holds_more_pictures_is_exported_as_the_jpeg_that_it_is(tmp_path: Path) -> None:
    photo = Phone(shard="000000", key="photo", mask=difficult_masks()["disc"])
    export_labels(str(write_run(tmp_path, [photo])), str(tmp_path / "out"), ExportOptions(format="png"))
    assert (tmp_path / "out" / "images" / "000000" / "photo.jpg").read_bytes() == photo.encode()[1]


@pytest.mark.parametrize("name", FORMATS)
def test_nothing_is_left_of_an_export_that_fails(
    name: str, run: Path, tmp_path: Path, memory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = FORMATS[name]
    add, count = writer.add, 0  # type: ignore[attr-defined]

    def fail(self: object, item: object) -> None:
        nonlocal count
        count += 1
        if count > 3:
            raise OSError("the disk is full")
        add(self, item)

    monkeypatch.setattr(writer, "add", fail)
    for url in (str(tmp_path / "out"), memory):
        count = 0
        with pytest.raises(OSError, match="the disk is full"):
            export_labels(str(run), url, ExportOptions(format=name))
    assert list(tmp_path.iterdir()) == []
    assert fsspec.filesystem("memory").find("exports") == []


def test_an_object_store_gets_the_same_files(run: Path, tmp_path: Path, memory: str) -> None:
    for name in FORMATS:
        export_labels(str(run), f"{memory}/{name}", ExportOptions(format=name))
        export_labels(str(run), str(tmp_path / name), ExportOptions(format=name))
    store = fsspec.filesystem("memory")
    found = {path.removeprefix("/exports/"): store.cat_file(path) for path in store.find("exports")}
    local = {str(path.relative_to(tmp_path)): path for path in tmp_path.rglob("*") if path.is_file()}
    assert found.keys() == local.keys()
    for path, data in found.items():
        assert path.endswith(".zip") or data == local[path].read_bytes(), path  # a zip tells the time


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--format", "coco"], "exports the labels of a --run"),
        (["--format", "png", "--run", "{run}", "--polygons"], "--polygons is a choice of --format coco only"),
        (["--format", "png", "--run", "{run}", "--min-quality", "1"], "is left to export (1 flag:empty, 13 low_qual"),
        (["--format", "png", "--run", "{run}", "--min-quality", "60"], "--min-quality is 60.0; it must be from 0 to 1"),
        (["--format", "png", "--run", "{run}", "--review", "/nowhere.csv"], "--review /nowhere.csv cannot be used"),
        (["--format", "png", "--run", "{run}/nothing"], "run.json; run jobs/label.py"),
        (["--run", "{run}"], "give --format: coco, yolo-seg, cvat, label-studio, png, hf, webdataset"),
        (["--format", "onnx", "--run", "{run}"], "--format onnx exports a --model; for labels name their --format"),
        ([], "nothing to export is named; give a --model, or the --run and"),
    ],
)
def test_wrong_usage_is_one_sentence_and_leaves_no_folder(
    options: list[str], message: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [option.format(run=run) for option in options]
    assert main([*given, "--output", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_is_never_written_over(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    assert main(["--run", str(run), "--format", "png", "--output", str(tmp_path)]) == 2
    assert "already; name another --output" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_without_pycocotools_coco_says_how_to_get_it(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("pycocotools", "pycocotools.mask"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ValueError, match=r"pip install -e '\.\[export\]'"):
        export_labels(str(run), str(tmp_path / "out"), ExportOptions(format="coco"))
    assert CocoWriter.__name__ and list(tmp_path.iterdir()) == []


def test_names_of_files_are_safe_short_and_never_alike() -> None:
    keys = ["a b", "a~20b", "a/b", "a.b", "ä", "..", ".", "", "con:", "images", "IMAGES", "x" * 300, "x" * 301, "-rf"]
    names = [safe_name(key) for key in keys]
    assert len(set(names)) == len(keys)
    assert all(0 < len(name) < 150 and set(name) <= set(ALLOWED) for name in names)
    assert safe_name("dog-0001_b") == "dog-0001_b"
    devices = {"con", "NUL", "Com1"}
    assert not devices & {safe_name(name) for name in devices}


def test_names_differ_where_case_does_not_count_and_only_those_that_would_not_are_changed(tmp_path: Path) -> None:
    mask = difficult_masks()["disc"]
    places = [("A", "IMG_1"), ("A", "Img_1"), ("A", "img_1"), ("A", "Other"), ("B", "IMG_1"), ("a", "IMG_1")]
    run = write_run(tmp_path, [Case(shard=shard, key=key, mask=mask) for shard, key in places])
    export_labels(str(run), str(tmp_path / "out"), ExportOptions(format="png"))
    paths = {path.relative_to(tmp_path / "out" / "images") for path in (tmp_path / "out" / "images").rglob("*.png")}
    assert len({str(path).lower() for path in paths}) == len(paths) == len(places)
    assert {str(path) for path in paths if "~" not in str(path)} == {"A/IMG_1.png", "A/Other.png", "B/IMG_1.png"}
    assert read_png(tmp_path / "out").keys() == {(f"{shard}.tar", key) for shard, key in places}


ALLOWED = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_~"


def test_an_empty_folder_behind_a_link_or_that_cannot_be_replaced_is_filled(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    export_labels(str(run), str(tmp_path / "link"), ExportOptions(format="coco"))
    assert (tmp_path / "link").is_symlink() and len(read_coco(tmp_path / "real")) > 0

    def busy(*paths: object) -> None:
        raise OSError(errno.EBUSY, "a mount point")

    (tmp_path / "mount").mkdir()
    monkeypatch.setattr("engine.export.folder.os.replace", busy)
    export_labels(str(run), str(tmp_path / "mount"), ExportOptions(format="coco"))
    assert read_coco(tmp_path / "mount").keys() == read_coco(tmp_path / "real").keys()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]
    with pytest.raises(OSError, match="a mount point"):
        export_labels(str(run), str(tmp_path / "new"), ExportOptions(format="coco"))
