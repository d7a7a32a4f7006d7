"""WebDataset tars: KEY.jpg, KEY.mask.png and KEY.json; a corpus with ground truth, for this project too."""

from __future__ import annotations

import io
import json
import tarfile

from engine.export.folder import Folder
from engine.export.item import Item, facts_of, mask_to_grey_png

FILE_BYTES = 256 << 20


class WebDatasetWriter:
    """Samples in tars of about 256 MB."""

    def __init__(self, folder: Folder, concept: str) -> None:
        self.folder = folder
        self.files = self.bytes = 0
        self.stack = folder.stack()
        self.tar: tarfile.TarFile | None = None

    def add(self, item: Item) -> None:
        if self.tar is None:
            file = self.stack.enter_context(self.folder.open(f"{self.files:06d}.tar"))
            tar = tarfile.open(fileobj=file, mode="w|", format=tarfile.PAX_FORMAT)  # noqa: SIM115
            self.tar = self.stack.enter_context(tar)
            self.files += 1
        facts = {"concept": item.concept, "area": float(item.mask.mean()), "bbox": item.bbox, **facts_of(item)}
        members = {
            item.suffix: item.image,
            ".json": json.dumps(facts, sort_keys=True).encode(),
            ".mask.png": mask_to_grey_png(item.mask),
        }
        for suffix, data in members.items():
            member = tarfile.TarInfo(f"{item.name}{suffix}")  # of no owner and no time
            member.size = len(data)
            self.tar.addfile(member, io.BytesIO(data))
            self.bytes += len(data)
        if self.bytes >= FILE_BYTES:
            self._end_tar()

    def close(self) -> None:
        self._end_tar()

    def _end_tar(self) -> None:
        self.stack.close()
        self.tar, self.bytes = None, 0
