"""What the method makes of photographs: heatmaps, masks and U-Nets, with a model that was trained on captions alone.

    python -m tests.benchmarks.photographs --photos PHOTOS --model MODEL --json docs/results/photographs.json

PHOTOS/CONCEPT/*.tar hold photographs with masks (KEY.jpg, KEY.mask.png) that the model has never seen; their short
side is brought to 128 pixels, and every image whose place ends in 0, 1 or 2 is held out. With the jobs a user would
type, one concept after the other in each process:

  plain     labels of all images by m alone: AUROC of M̂, IoU of M_pre and M; studies of tokens, layers and timesteps
  tuned     labels of the images that are not held out, by m′
  ablation  U-Nets that learned from these, from synthetic images as well, and from true masks, on the held-out images

All of it is kept in --folder and resumed from there. A map that is brightest in the middle of every image, whatever it
shows, is measured beside M̂: photographs are taken of something.
"""

from __future__ import annotations

import argparse
import io
import json
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from engine.corpus import Lease, Sample, list_shards, open_lease
from engine.evaluation.metrics import SIDE, Auroc, fit_to_protocol
from engine.evaluation.truth import find_mask
from tests.benchmarks.ablation import add_options, call, measure_each, study_options, synthesis_options, written
from tests.benchmarks.labelling import show

HELD_OUT = (0, 1, 2)
"""Last digits of the places of images that nothing is learned from."""
FAST = ("--profile", "fast", "--workers", 1, "--max-failures", 1)
STUDIES = ("tokens", "layers", "timesteps")


def read_photographs(folder: Path) -> Iterator[tuple[str, Image.Image, Image.Image]]:
    """Key, image and mask of every photograph, the short side resized to SIDE."""
    for shard in list_shards(str(folder)):
        with open_lease(Lease(shard=shard), masks=True) as samples:
            for sample in samples:
                assert isinstance(sample, Sample)
                mask = find_mask(sample, "")
                assert mask is not None, f"{sample.key} of {shard.name} has no mask"
                image = Image.open(io.BytesIO(sample.image)).convert("RGB")
                scale = SIDE / min(image.size)
                size = (max(SIDE, round(image.width * scale)), max(SIDE, round(image.height * scale)))
                grey = Image.fromarray(mask.astype(np.uint8) * 255).resize(size, Image.Resampling.BOX)
                small = image.resize(size, Image.Resampling.LANCZOS)
                yield f"{Path(shard.name).stem}-{sample.key}", small, grey.point(lambda value: 255 * (value > 127))


def write_split(photos: Path, folder: Path) -> dict[str, int]:
    """The photographs as two corpora in one folder, train.tar and test.tar; how many each holds."""
    folder.mkdir(parents=True, exist_ok=True)
    counts = {"train": 0, "test": 0}
    with tarfile.open(folder / "train.tar", "w") as train, tarfile.open(folder / "test.tar", "w") as test:
        tars = {"train": train, "test": test}
        for place, (key, image, mask) in enumerate(read_photographs(photos)):
            split = "test" if place % 10 in HELD_OUT else "train"
            counts[split] += 1
            for name, picture, options in (("jpg", image, {"quality": 95}), ("mask.png", mask, {})):
                data = io.BytesIO()
                picture.save(data, "JPEG" if name == "jpg" else "PNG", **options)
                member = tarfile.TarInfo(f"{key}.{name}")
                member.size = data.tell()
                data.seek(0)
                tars[split].addfile(member, data)
    return counts


def measure_centre(folder: Path) -> dict[str, float]:
    """AUROC of the nearness to the centre of each image."""
    rows, columns = np.mgrid[-1 : 1 : SIDE * 1j, -1 : 1 : SIDE * 1j]
    near = (255 * (1 - np.hypot(rows, columns) / 2**0.5)).astype(np.uint8)
    auroc = Auroc()
    for _, image, mask in read_photographs(folder):
        auroc.update(near, fit_to_protocol(np.asarray(mask) > 127, image.height, image.width))
    return auroc.result()


def measure(concept: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """All figures of one concept."""
    folder: Path = arguments.folder / concept
    corpus, log = folder / "corpus", folder / "log.txt"
    counts = write_split(arguments.photos / concept, corpus)
    seconds: dict[str, float] = {}

    def job(step: str, name: str, *options: object) -> None:
        began = time.perf_counter()
        call(name, *options, log=log)
        seconds[step] = round(seconds.get(step, 0.0) + time.perf_counter() - began, 1)

    def read(name: str) -> dict[str, Any]:
        return json.loads((folder / f"{name}.json").read_text())

    what = ("--model", arguments.model, "--concept", concept, *FAST)
    plain, tuned, train = folder / "plain", folder / "tuned", corpus / "train.tar"
    job("label by m", "label", *what, "--input", corpus, "--run", plain, "--method", "none")
    job("evaluate", "evaluate", "--run", plain, "--json", folder / "plain.json")
    for study in STUDIES:
        options = ("--run", plain, "--study", study, "--limit", arguments.limit)
        job("studies", "evaluate", *options, "--json", folder / f"{study}.json")
    job("label by m′", "label", *what, "--input", train, "--run", tuned, "--steps", arguments.tuning_steps)
    job("evaluate", "evaluate", "--run", tuned, "--json", folder / "tuned.json")
    job("evaluate", "evaluate", "--run", plain, "--input", train, "--json", folder / "plain-train.json")
    if arguments.synthetic:
        job("synthesize", "synthesize", "--run", tuned, *synthesis_options(arguments))
    options = study_options(corpus / "test.tar", counts["test"], arguments)
    job("ablation", "evaluate", "--run", tuned, *options, "--json", folder / "ablation.json")
    return {
        "photographs": counts,
        "seconds": seconds,
        "centre": measure_centre(corpus),
        "by_m": read("plain"),
        "by_m_on_train": read("plain-train"),
        "by_m_prime_on_train": read("tuned"),
        "studies": {study: read(study) for study in STUDIES},
        "ablation": read("ablation"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True, help="PHOTOS/CONCEPT/*.tar, with masks")
    parser.add_argument("--model", required=True, help="a model folder, as jobs/pretrain.py writes it")
    parser.add_argument("--concepts", default="horse,cat,person")
    parser.add_argument("--limit", type=int, default=100, help="images of a study")
    parser.add_argument("--tuning-steps", type=int, default=300, help="of the fine-tuning")
    add_options(parser, folder="photographs", steps=600, synthetic=200)
    arguments = parser.parse_args()
    began = time.perf_counter()
    found = measure_each(measure, arguments)
    options = written(arguments, "concepts", "limit", "tuning_steps")
    figures = {
        "command": f"python -m tests.benchmarks.photographs --photos PHOTOS --model MODEL {options} --json FILE",
        "date": time.strftime("%Y-%m-%d"),
        "device": "two CPU cores",
        "seconds": round(time.perf_counter() - began),
        "concepts": found,
    }
    show(figures, arguments.json)


if __name__ == "__main__":
    main()
