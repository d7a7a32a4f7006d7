"""What a U-Net that learned from true masks makes of a run's synthetic images, whose labels it has never seen.

Objects that began from images of the corpus are best judged by one that has not seen these images either.

    python -m tests.benchmarks.synthetic --run ablation/car/run --judge ablation/car/run/studies/ablation/unet-truth-…

The judge is a segmenter of jobs/train.py --labels truth, such as the ablation leaves behind. Objects: pooled IoU of
their labels with the judge's masks, of all and of those of good quality. Pure backgrounds: the share in which the judge
finds nothing of at least a hundredth of the image, which is half of the smallest object of the miniature world.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np

from engine.corpus import Sample, list_shards, open_lease, plan_leases
from engine.corpus.decode import decode_image
from engine.evaluation.rows import find_labels
from engine.labelling.label import USELESS
from engine.labelling.png import png_to_array
from engine.segmenter.segmenter import THRESHOLD, Segmenter
from tests.benchmarks.labelling import overlap, show

FOUND = 0.01
"""Share of an image above which something counts as found."""
BATCH = 16


def judge(run: Path, segmenter: Segmenter) -> dict[str, Any]:
    """Figures of the synthetic set of one run."""
    files, _ = find_labels(str(run / "synthetic"))
    masks: dict[str, list[np.ndarray]] = {"labels": [], "judge": []}
    quality, found_in_pure = [], []
    for lease in plan_leases(list_shards(str(run / "synthetic" / "images"))):
        rows = files.read(lease.shard.name, ("mask", "quality", "flags"))
        with open_lease(lease) as reader:
            samples = [sample for sample in reader if isinstance(sample, Sample) and sample.key in rows]
        for start in range(0, len(samples), BATCH):
            batch = samples[start : start + BATCH]
            maps = segmenter.predict_batch([decode_image(sample.image) for sample in batch])
            for sample, probability in zip(batch, maps, strict=True):
                row, seen = rows[sample.key], probability >= THRESHOLD
                if sample.metadata["background"]:
                    found_in_pure.append(bool(seen.mean() >= FOUND))
                    continue
                masks["labels"].append(png_to_array(row["mask"]))
                masks["judge"].append(seen)
                quality.append(0.0 if USELESS & set(row["flags"]) else row["quality"])
    iou, _ = overlap(masks["labels"], masks["judge"])
    kept = [place for place, value in enumerate(quality) if value >= 0.7]
    return {
        "objects": len(quality),
        "iou_with_judge": round(iou, 4),
        "of_quality_0.7": len(kept),
        "iou_with_judge_of_these": round(overlap(*([m[i] for i in kept] for m in masks.values()))[0], 4),
        "judge_finds_an_object": round(float(np.mean([seen.mean() >= FOUND for seen in masks["judge"]])), 4),
        "backgrounds": len(found_in_pure),
        "backgrounds_without_object": round(1 - float(np.mean(found_in_pure)), 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--judge", required=True, help="folder of the segmenter")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    arguments = parser.parse_args()
    segmenter = Segmenter.from_pretrained(arguments.judge)
    config = json.loads((arguments.run / "synthetic" / "run.json").read_text())["fingerprint"]
    settings = {name: value for name, value in config.items() if name.startswith("synthesis.")}
    figures = {"date": time.strftime("%Y-%m-%d"), "concept": config["concept"], **settings}
    show({**figures, **judge(arguments.run, segmenter)}, arguments.json)


if __name__ == "__main__":
    main()
