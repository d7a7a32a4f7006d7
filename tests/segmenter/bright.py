"""A run whose labels are exact: bright boxes, labelled by the labeller that looks for brightness."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

from engine.corpus import plan_leases
from engine.corpus.catalogue import list_shards
from engine.distillation.spec import DistillationSpec
from engine.labelling.spec import LabelSpec
from engine.run.directory import start_run
from engine.run.fake import FakeLabeller, FakeSource
from engine.run.plan import LabelPlan, plan_labelling
from engine.run.shard import label_lease


def to_png(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, format="PNG")
    return buffer.getvalue()


def draw_box(number: int) -> tuple[np.ndarray, np.ndarray]:
    """An image of some size, and the mask of the box in it."""
    rng = np.random.default_rng(number)
    height, width = 40 + number % 3 * 8, 48 + number % 5 * 8
    image = rng.integers(0, 20, (height, width, 3), dtype=np.uint8)
    mask = np.zeros((height, width), dtype=bool)
    top, left = rng.integers(2, height // 2), rng.integers(2, width // 2)
    mask[top : top + height // 3, left : left + width // 3] = True
    image[mask] += 150
    return image, mask


def write_tar(path: Path, members: dict[str, bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def write_corpus(folder: Path, *, shards: int = 3, each: int = 4) -> Path:
    """Tars whose keys repeat from shard to shard."""
    for shard in range(shards):
        members = {}
        for number in range(each):
            image, mask = draw_box(shard * each + number)
            members |= {f"{number:03d}.png": to_png(image), f"{number:03d}.mask.png": to_png(mask)}
        write_tar(folder / f"{shard:06d}.tar", members)
    return folder


def label(corpus: Path, run: Path, *, limit: int | None = None) -> LabelPlan:
    """Labels a corpus in this process."""
    plan = plan_labelling(
        spec=LabelSpec(concept="box", prompt="a photo of a box"),
        source=FakeSource(),
        input_url=str(corpus),
        run_url=str(run),
        distillation=DistillationSpec(method="none"),
        limit=limit,
        config={"where": {"input": str(corpus)}},
    )
    start_run(plan.run.url, plan.manifest)
    for lease in plan_leases(list_shards(str(corpus)), limit=limit):
        label_lease(lease, FakeLabeller("fake", LabelSpec(concept="box", prompt="a photo of a box")), plan.run)
    return plan
