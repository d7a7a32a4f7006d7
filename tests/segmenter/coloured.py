"""A run of two concepts whose labels are exact: red boxes are cars, blue ones are dogs."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from engine.corpus.catalogue import list_shards
from engine.corpus.lease import plan_leases
from engine.labelling.label import Label
from engine.run.directory import LabelRun, make_manifest, start_run
from engine.run.shard import label_lease
from tests.segmenter.bright import to_png, write_tar

CONCEPTS = ("car", "dog")
SIZE = 48


def draw_scene(number: int) -> tuple[np.ndarray, np.ndarray]:
    """An image, and its classes: of three images one shows a car, one a dog, one both."""
    rng = np.random.default_rng(number)
    image = rng.integers(0, 40, (SIZE, SIZE, 3), dtype=np.uint8)
    classes = np.zeros((SIZE, SIZE), np.uint8)
    for index in ((0,), (1,), (0, 1))[number % 3]:
        top, left = rng.integers(2, 24), rng.integers(1, 8) + 24 * index
        classes[top : top + 18, left : left + 15] = index + 1
    image[classes == 1, 0] += 180
    image[classes == 2, 2] += 180
    return image, classes


def write_scenes(folder: Path, *, shards: int = 2, each: int = 6) -> Path:
    """Images with a mask of each concept that is in them, and one that says of what else they show nothing."""
    for shard in range(shards):
        members = {}
        for number in range(each):
            image, classes = draw_scene(shard * each + number)
            members[f"{number:03d}.png"] = to_png(image)
            members |= {f"{number:03d}.{c}.mask.png": to_png(classes == n) for n, c in enumerate(CONCEPTS, 1)}
        write_tar(folder / f"{shard:06d}.tar", members)
    return folder


class ColourLabeller:
    """Gives each image a label of each concept; one that is not there is absent."""

    def __call__(self, images: list[np.ndarray], keys: list[str]) -> list[list[Label]]:
        return [[_label(image[..., 2 * place] > 100, name) for place, name in enumerate(CONCEPTS)] for image in images]


def _label(mask: np.ndarray, concept: str) -> Label:
    return Label(
        heatmap=mask.astype(np.uint8),
        preliminary_mask=mask,
        mask=mask,
        bbox=(0, 0, 0, 0),
        area=float(mask.mean()),
        separation=0.5,
        refined_separation=0.5,
        presence=0.5,
        quality=0.7 if mask.any() else 0.0,
        flags=[] if mask.any() else ["absent"],
        concept=concept,
    )


def label_scenes(corpus: Path, run: Path) -> Path:
    """Labels a corpus in this process."""
    fields = {"concept": ", ".join(CONCEPTS), "concepts": list(CONCEPTS)}
    manifest = make_manifest(fields, {"input_url": str(corpus)})
    start_run(str(run), manifest)
    name = {"concept": fields["concept"], "prompt": "", "fingerprint": manifest.hash, "session": "one"}
    labels = LabelRun(url=str(run), stage="refined", model="colours", revision=None, seed=0, batch_size=4, **name)
    for lease in plan_leases(list_shards(str(corpus))):
        label_lease(lease, ColourLabeller(), labels)
    return run
