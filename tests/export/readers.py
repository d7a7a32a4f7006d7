"""Formats as their consumers read them: with the consumer's own package, or after its documentation.

Each gives masks (H, W) bool of the concept by (shard, key), and looks at the image that the format says belongs to it.
`among` are all concepts of the export, in order.
"""

from __future__ import annotations

import csv
import io
import json
import xml.etree.ElementTree as ElementTree
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import yaml
from PIL import Image, ImageDraw

Masks = dict[tuple[str, str], np.ndarray]

BOX = ("box",)


def read_coco(folder: Path, concept: str = "box", among: Sequence[str] = BOX) -> Masks:
    """With pycocotools."""
    from pycocotools.coco import COCO

    coco = COCO(str(folder / "annotations.json"))
    assert [category["name"] for category in coco.loadCats(coco.getCatIds())] == list(among)
    own = coco.getCatIds(catNms=[concept])
    masks = {}
    for image in coco.loadImgs(coco.getImgIds()):
        check_image((folder / "images" / image["file_name"]).read_bytes(), image["width"], image["height"])
        mask = np.zeros((image["height"], image["width"]), dtype=bool)
        for annotation in coco.loadAnns(coco.getAnnIds(imgIds=image["id"], catIds=own, iscrowd=False)):
            mask |= coco.annToMask(annotation).astype(bool)
            assert annotation["area"] > 0
        masks[image["shard"], image["key"]] = mask
    return masks


def read_yolo(folder: Path, concept: str = "box", among: Sequence[str] = BOX) -> Masks:
    """After the documentation of the format: a label is where its image is, ``images`` replaced by ``labels``; a line
    is a class and a polygon's corners as fractions, which trainers multiply, round down and fill with the border."""
    data = yaml.safe_load((folder / "data.yaml").read_text())
    assert data["names"] == dict(enumerate(among))
    masks = {}
    for path in sorted((folder / data["train"]).rglob("*.*")):
        width, height = check_image(path.read_bytes())
        label = "/labels/".join(str(path).rsplit("/images/", 1))
        drawn = Image.new("1", (width, height))
        for line in Path(label).with_suffix(".txt").read_text().splitlines():
            name, *values = line.split()
            corners = np.array(values, dtype=np.float32).reshape(-1, 2)
            assert len(corners) >= 3 and corners.min() >= 0 and corners.max() <= 1
            if data["names"][int(name)] != concept:
                continue
            corners = (corners * (width, height)).astype(np.int32)
            ImageDraw.Draw(drawn).polygon([tuple(corner) for corner in corners.tolist()], fill=1, outline=1)
        masks[unescape(path.parent.name) + ".tar", unescape(path.stem)] = np.asarray(drawn)
    return masks


def read_cvat(folder: Path, concept: str = "box", among: Sequence[str] = BOX) -> Masks:
    """After the documentation of CVAT's XML, whose runs begin with those outside of the mask."""
    masks = {}
    with zipfile.ZipFile(folder / "cvat.zip") as archive:
        root = ElementTree.fromstring(archive.read("annotations.xml"))
        assert root.findtext("version") == "1.1"
        assert [label.findtext("name") for label in root.iter("label")] == list(among)
        for image in root.iter("image"):
            width, height = int(image.attrib["width"]), int(image.attrib["height"])
            check_image(archive.read("images/" + image.attrib["name"]), width, height)
            mask = np.zeros((height, width), dtype=bool)
            for shape in image.iter("mask"):
                assert shape.attrib["label"] in among
                if shape.attrib["label"] != concept:
                    continue
                left, top, w, h = (int(shape.attrib[name]) for name in ("left", "top", "width", "height"))
                runs = [int(run) for run in shape.attrib["rle"].split(",")]
                values = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
                mask[top : top + h, left : left + w] |= values.reshape(h, w)
            shard, _, name = image.attrib["name"].partition("/")
            masks[unescape(shard) + ".tar", unescape(name.partition(".")[0])] = mask
    return masks


def read_label_studio(folder: Path, concept: str = "box", among: Sequence[str] = BOX) -> Masks:
    """After Label Studio's documented decoding of brush masks: a stream of bits, over pixels of four bytes."""
    config = ElementTree.fromstring((folder / "label-config.xml").read_text())
    assert [label.attrib["value"] for label in config.iter("Label")] == list(among)
    masks = {}
    for task in json.loads((folder / "tasks.json").read_text()):
        prefix, _, below = task["data"]["image"].partition("?d=")
        assert prefix == "/data/local-files/"
        width, height = check_image((folder.parent / unquote(below)).read_bytes())
        mask = np.zeros((height, width), dtype=bool)
        (prediction,) = task["predictions"]
        for result in prediction["result"]:
            assert (result["original_width"], result["original_height"]) == (width, height)
            (name,) = result["value"]["brushlabels"]
            assert result["type"] == "brushlabels" and name in among
            assert (result["from_name"], result["to_name"]) == ("label", "image")
            if name != concept:
                continue
            pixels = decode_brush(result["value"]["rle"]).reshape(height, width, 4)
            mask |= pixels[..., 3] > 0
        masks[task["data"]["shard"], task["data"]["key"]] = mask
    return masks


def decode_brush(data: list[int]) -> np.ndarray:
    bits: Iterator[str] = iter("".join(f"{byte:08b}" for byte in data))

    def take(count: int) -> int:
        return int("".join(next(bits) for _ in range(count)), 2)

    count, word = take(32), take(5) + 1
    sizes = [take(4) + 1 for _ in range(4)]
    values: list[int] = []
    while len(values) < count:
        run = take(1)
        length = take(sizes[take(2)]) + 1
        values += [take(word)] * length if run else [take(word) for _ in range(length)]
    return np.array(values, dtype=np.uint8)


def read_png(folder: Path, concept: str = "box", among: Sequence[str] = BOX) -> Masks:
    value = 255
    if len(among) > 1:
        names = (folder / "classes.txt").read_text().splitlines()
        assert names == list(among)
        value = names.index(concept) + 1
    masks = {}
    with (folder / "labels.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            check_image((folder / row["image"]).read_bytes(), int(row["width"]), int(row["height"]))
            masks[row["shard"], row["key"]] = open_mask((folder / row["mask"]).read_bytes(), value, len(among))
    return masks


def read_hugging_face(folder: Path, concept: str = "box", among: Sequence[str] = BOX) -> Masks:
    """With `datasets`."""
    import datasets

    loaded = datasets.load_dataset(str(folder), split="train", cache_dir=str(folder.parent / "cache"))
    assert isinstance(loaded.features["image"], datasets.Image) and isinstance(loaded.features["mask"], datasets.Image)
    masks = {}
    for row in loaded:
        mask = np.asarray(row["mask"])
        assert row["image"].size == row["mask"].size and set(np.unique(mask)) <= {*range(len(among) + 1), 255}
        if len(among) == 1:
            assert row["concept"] == concept and set(np.unique(mask)) <= {0, 255}
        else:
            assert len(row["concept"]) == len(row["quality"]) == len(row["flags"]) and set(row["concept"]) <= set(among)
        masks[row["shard"], row["key"]] = mask == (255 if len(among) == 1 else among.index(concept) + 1)
    return masks


def read_web_dataset(folder: Path, concept: str = "box", among: Sequence[str] = BOX) -> Masks:
    """With webdataset; of several concepts, images without a mask of this one are left out."""
    import webdataset

    masks = {}
    urls = [str(path) for path in sorted(folder.glob("*.tar"))]
    for sample in webdataset.WebDataset(urls, shardshuffle=False):
        facts = json.loads(sample["json"])
        (image,) = (sample[suffix] for suffix in ("png", "jpg") if suffix in sample)
        check_image(image)
        member = "mask.png" if len(among) == 1 else f"{concept}.mask.png"
        if len(among) == 1 or member in sample:
            masks[facts["shard"], facts["key"]] = open_mask(sample[member])
    return masks


def check_image(data: bytes, width: int | None = None, height: int | None = None) -> tuple[int, int]:
    """Width and height of an image that no reader may have to turn."""
    with Image.open(io.BytesIO(data)) as image:
        image.load()
        assert image.getexif().get(0x0112, 1) == 1
        assert width is None or image.size == (width, height)
        return image.size


def open_mask(data: bytes, value: int = 255, classes: int = 1) -> np.ndarray:
    """Where a grey picture has that value."""
    with Image.open(io.BytesIO(data)) as image:
        pixels = np.asarray(image)
    others = {255} if classes == 1 else {*range(1, classes + 1), 255}
    assert pixels.dtype == np.uint8 and set(np.unique(pixels)) <= {0, *others}
    return pixels == value


def unescape(name: str) -> str:
    """A key out of the name of its file."""
    return unquote(name.replace("~", "%"))
