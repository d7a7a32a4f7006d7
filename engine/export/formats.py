"""The formats by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from engine.export.coco import CocoWriter
from engine.export.cvat import CvatWriter
from engine.export.folder import Folder
from engine.export.hugging_face import HuggingFaceWriter
from engine.export.item import Writer
from engine.export.label_studio import LabelStudioWriter
from engine.export.png import PngWriter
from engine.export.web_dataset import WebDatasetWriter
from engine.export.yolo import YoloWriter

FORMATS: dict[str, Callable[..., Writer]] = {
    "coco": CocoWriter,
    "yolo-seg": YoloWriter,
    "cvat": CvatWriter,
    "label-studio": LabelStudioWriter,
    "png": PngWriter,
    "hf": HuggingFaceWriter,
    "webdataset": WebDatasetWriter,
}


def open_writer(name: str, folder: Folder, concepts: Sequence[str], *, polygons: bool = False) -> Writer:
    """A writer of the format; ValueError if the format does not know polygons or such concepts, or lacks a package."""
    if polygons and name != "coco":
        raise ValueError(f"--polygons is a choice of --format coco only; leave it out with {name}")
    return FORMATS[name](folder, concepts, **({"polygons": True} if polygons else {}))
