"""Label Studio: tasks.json with brush masks as predictions, label-config.xml, and images/."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from urllib.parse import quote
from xml.sax.saxutils import quoteattr  # nosec B406

import numpy as np

from engine.export.folder import Folder
from engine.export.item import Item, Object, facts_of
from engine.export.spool import Spool

CONFIG = """<View>
  <Image name="image" value="$image" zoom="true"/>
  <BrushLabels name="label" toName="image">
{labels}
  </BrushLabels>
</View>
"""
LABEL = "    <Label value={name}/>"
WORD_BITS = 8
SIZE_BITS = (3, 4, 8, 16)
"""Bits that the length of a run may be written with."""


class LabelStudioWriter:
    """One task per image, served as a local file below the folder that OUTPUT lies in."""

    def __init__(self, folder: Folder, concepts: Sequence[str]) -> None:
        self.folder = folder
        self.name = folder.url.rstrip("/").rpartition("/")[2]
        self.tasks = Spool()
        labels = "\n".join(LABEL.format(name=quoteattr(concept)) for concept in concepts)
        folder.write("label-config.xml", CONFIG.format(labels=labels).encode())

    def add(self, item: Item) -> None:
        path = f"images/{item.name}{item.suffix}"
        self.folder.write(path, item.image)
        url = f"/data/local-files/?d={quote(f'{self.name}/{path}')}"
        results = [_to_result(item, found) for found in item.shown]
        # The worst label tells how much a task is worth looking at.
        score = round(min(found.quality for found in item.shown or item.objects), 4)
        prediction = {"model_version": "maskmine", "score": score, "result": results}
        self.tasks.add_json({"data": {"image": url, **facts_of(item)}, "predictions": [prediction]})

    def close(self) -> None:
        with self.folder.open("tasks.json") as file:
            file.write(b"[")
            self.tasks.copy_to(file)
            file.write(b"]\n")


def _to_result(item: Item, found: Object) -> dict[str, object]:
    name = f"{item.name}/{found.concept}" if item.several else item.name
    return {
        "id": hashlib.sha256(name.encode()).hexdigest()[:10],
        "type": "brushlabels",
        "from_name": "label",
        "to_name": "image",
        "original_width": item.width,
        "original_height": item.height,
        "image_rotation": 0,
        "value": {"format": "rle", "rle": mask_to_brush(found.mask), "brushlabels": [found.concept]},
    }


def mask_to_brush(mask: np.ndarray) -> list[int]:
    """A mask as Label Studio's run lengths: bytes of a bit stream over an RGBA picture, 255 on the object.

    The stream is: number of values (32 bits), bits of a value less one (5), bits of each of four sizes less one (4
    each); then for each run a 1, which of the sizes (2), the run's length less one in so many bits, and its value.
    """
    flat = np.repeat(mask.ravel(), 4)
    edges = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    starts, ends = [0, *edges.tolist()], [*edges.tolist(), flat.size]
    bits = [f"{flat.size:032b}{WORD_BITS - 1:05b}", *(f"{size - 1:04b}" for size in SIZE_BITS)]
    for start, end in zip(starts, ends, strict=True):
        value = f"{255 if flat[start] else 0:0{WORD_BITS}b}"
        length = end - start
        while length:
            run = min(length, 1 << SIZE_BITS[-1])
            choice = next(place for place, size in enumerate(SIZE_BITS) if run <= 1 << size)
            bits.append(f"1{choice:02b}{run - 1:0{SIZE_BITS[choice]}b}{value}")
            length -= run
    stream = "".join(bits)
    stream += "0" * (-len(stream) % 8)
    return list(int(stream, 2).to_bytes(len(stream) // 8, "big"))
