"""What the method makes of photographs: heatmaps, masks and U-Nets, with a model that was trained on captions alone.

    python -m tests.benchmarks.photographs --photos PHOTOS --model photographs --json docs/results/photographs.json

PHOTOS/CONCEPT/*.tar hold photographs with masks (KEY.jpg, KEY.mask.png) that the model has never seen; they are brought
to the model's size, and every image whose place ends in 0, 1 or 2 is held out. With the jobs a user would type, one
concept after the other in each process:

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
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from engine.corpus import Lease, Sample, list_shards, open_lease
from engine.evaluation.metrics import SIDE, Auroc, fit_to_protocol
from engine.evaluation.truth import find_mask
from tests.benchmarks.ablation import call
from tests.benchmarks.labelling import show

HELD_OUT = (0, 1, 2)
"""Last digits of the places of images that nothing is learned from."""
FAST = ("--profile", "fast", "--workers", 1, "--max-failures", 1)
STUDIES = ("tokens", "layers", "timesteps")


def read_photographs(folder: Path, side: int) -> Iterator[tuple[str, Image.Image, Image.Image]]:
    """Key, image and mask of every photograph, the short side resized to `side`."""
    for shard in list_shards(str(folder)):
        with open_lease(Lease(shard=shard), masks=True) as samples:
            for sample in samples:
                assert isinstance(sample, Sample)
                mask = find_mask(sample, "")
                assert mask is not None, f"{sample.key} of {shard.name} has no mask"
                image = Image.open(io.BytesIO(sample.image)).convert("RGB")
                scale = side / min(image.size)
                size = (max(side, round(image.width * scale)), max(side, round(image.height * scale)))
                grey = Image.fromarray(mask.astype(np.uint8) * 255).resize(size, Image.Resampling.BOX)
                small = image.resize(size, Image.Resampling.LANCZOS)
                yield f"{Path(shard.name).stem}-{sample.key}", small, grey.point(lambda value: 255 * (value > 127))


def write_split(photos: Path, folder: Path, side: int) -> dict[str, int]:
    """The photographs as two corpora in one folder, train.tar and test.tar; how many each holds."""
    folder.mkdir(parents=True, exist_ok=True)
    counts = {"train": 0, "test": 0}
    with tarfile.open(folder / "train.tar", "w") as train, tarfile.open(folder / "test.tar", "w") as test:
        tars = {"train": train, "test": test}
        for place, (key, image, mask) in enumerate(read_photographs(photos, side)):
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
    for _, image, mask in read_photographs(folder, SIDE):
        auroc.update(near, fit_to_protocol(np.asarray(mask) > 127, image.height, image.width))
    return auroc.result()


def measure(concept: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """All figures of one concept."""
    folder: Path = arguments.folder / concept
    corpus, log = folder / "corpus", folder / "log.txt"
    counts = write_split(arguments.photos / concept, corpus, arguments.side)
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
        job("synthesize", "synthesize", "--run", tuned, "--count", arguments.synthetic, "--workers", 1)
    options = ("--test", corpus / "test.tar", "--limit", counts["test"], "--steps", arguments.steps)
    options += ("--width", arguments.width, "--crop", arguments.unet_side, "--short-side", arguments.unet_side)
    options += ("--min-quality", arguments.min_quality)
    job("ablation", "evaluate", "--run", tuned, "--study", "ablation", *options, "--json", folder / "ablation.json")
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
    parser.add_argument("--model", default="photographs")
    parser.add_argument("--concepts", default="horse,cat,person")
    parser.add_argument("--side", type=int, default=128, help="of the photographs, pixels")
    parser.add_argument("--limit", type=int, default=100, help="images of a study")
    parser.add_argument("--tuning-steps", type=int, default=300, help="of the fine-tuning")
    parser.add_argument("--synthetic", type=int, default=200, help="synthetic images, a concept")
    parser.add_argument("--steps", type=int, default=600, help="of each U-Net")
    parser.add_argument("--width", type=int, default=16, help="channels of a U-Net's first level (the default has 32)")
    parser.add_argument("--unet-side", type=int, default=64, help="of the images as a U-Net sees them, pixels")
    parser.add_argument("--min-quality", type=float, default=0.0, help="labels of less are not learned from")
    parser.add_argument("--folder", type=Path, default=Path("photographs"), help="for everything that is made")
    parser.add_argument("--processes", type=int, default=2, help="concepts at once, one thread each")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    arguments = parser.parse_args()
    names = arguments.concepts.split(",")
    began = time.perf_counter()
    with ThreadPoolExecutor(arguments.processes) as pool:
        found = dict(zip(names, pool.map(lambda name: measure(name, arguments), names), strict=True))
    settings = ("concepts", "tuning_steps", "synthetic", "steps", "width", "unet_side", "min_quality")
    options = " ".join(f"--{name.replace('_', '-')} {getattr(arguments, name)}" for name in settings)
    figures = {
        "command": f"python -m tests.benchmarks.photographs --photos PHOTOS {options} --json FILE",
        "date": time.strftime("%Y-%m-%d"),
        "device": "two CPU cores",
        "seconds": round(time.perf_counter() - began),
        "concepts": found,
    }
    show(figures, arguments.json)


if __name__ == "__main__":
    main()
