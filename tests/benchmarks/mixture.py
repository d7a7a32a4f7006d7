"""Batched mixtures against scikit-learn on one CPU in one run: `python -m tests.benchmarks.mixture`.

Prints (and with --json FILE writes) the milliseconds of CPU time per map at 512 x 512 and their ratios, and the
IoU of the masks with those of scikit-learn's converged fits, each for separated and for overlapping modes.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import sklearn
import torch
from sklearn.mixture import GaussianMixture

from engine.labelling.mixture import fit_mixture, heatmap_to_mask
from tests.labelling.test_mixture import agreement, two_mode_map

GAPS = {"separated": (4.5, 8.0), "overlapping": (2.2, 3.5)}
MAPS = {32: 150, 64: 50, 512: 2}


def milliseconds(call: Callable[[], Any], repeats: int) -> float:
    """CPU time of the fastest of a few calls: what else the machine does hardly changes it."""
    times = []
    for _ in range(repeats):
        start = time.process_time()
        call()
        times.append(time.process_time() - start)
    return 1000 * min(times)


def time_modes(gap: tuple[float, float], *, size: int = 512, maps: int = 8) -> dict[str, float]:
    """Milliseconds per map from values to mask: ours one by one and in a batch, scikit-learn with its default
    tolerance (1e-3) and converged (1e-10)."""
    raw = np.stack([two_mode_map(size, gap, seed=(0, index)) for index in range(maps)])
    values = torch.from_numpy(raw)
    units = [(x / np.ptp(x)).reshape(-1, 1).astype(np.float64) for x in raw]

    def ours(batch: int) -> None:
        for part in values.split(batch):
            heatmap_to_mask(part, None, fit_mixture(part))

    def reference(units: list[np.ndarray], tolerance: float) -> None:
        for unit in units:
            GaussianMixture(2, tol=tolerance, max_iter=10_000, random_state=0).fit(unit).predict(unit)

    found = {
        "ours_alone_ms": milliseconds(lambda: ours(1), 10) / maps,
        "ours_batch_ms": milliseconds(lambda: ours(maps), 10) / maps,
        "sklearn_default_ms": milliseconds(lambda: reference(units, 1e-3), 3) / maps,
        "sklearn_converged_ms": milliseconds(lambda: reference(units[:2], 1e-10), 2) / 2,
    }
    for reference_name in ("default", "converged"):
        for way in ("batch", "alone"):
            times = found[f"sklearn_{reference_name}_ms"], found[f"ours_{way}_ms"]
            found[f"times_faster_{way}_than_{reference_name}"] = times[0] / times[1]
    return {name: round(value, 3) for name, value in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of torch")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    warnings.simplefilter("ignore")
    figures: dict[str, Any] = {
        "command": "OMP_NUM_THREADS=1 python -m tests.benchmarks.mixture --json docs/results/mixture.json",
        "date": time.strftime("%Y-%m-%d"),
        "cpu": platform.processor() or platform.machine(),
        "versions": {"torch": torch.__version__, "scikit-learn": sklearn.__version__},
    }
    for name, gap in GAPS.items():
        times = time_modes(gap)
        print(name, times, flush=True)
        found = agreement(gap, MAPS, seed=20)
        figures[name] = {
            "time_512": times,
            "agreement": {
                "maps": len(found.iou),
                "worst_iou": round(found.iou.min(), 6),
                "mean_iou": round(found.iou.mean(), 6),
                "likelier_optimum_than_sklearn": found.likelier,
            },
        }
    text = json.dumps(figures, indent=2)
    print(text)
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
