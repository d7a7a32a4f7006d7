"""A thousand GPUs that are taken away at random: at which size of leases, and how many failures, is time lost?

    python -m tests.benchmarks.simulation --json docs/results/simulation.json --plot docs/simulation.png

A discrete-event simulation that needs nothing of the engine. One driver hands out leases and can do only one thing at a
time; workers load, label, and hand in. A GPU that is taken away loses its lease, which another gets once the loss is
noticed; a new GPU comes later and loads first. What the driver and a worker need per lease is taken from the figures of
`tests.benchmarks.scheduling`; what cannot be measured on one machine is an option.

efficiency: seconds of labelling that ended in a receipt, per second that a GPU was there, until no lease is left to be
handed out; the first loading of all is left out. tail: seconds from then until the last receipt.
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import json
import math
import random
import sys
import time
from collections import Counter, deque
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

LEASE_SECONDS = (2, 5, 10, 20, 40, 80, 160, 320, 640, 1280, 2560, 5120)
HOURS_BETWEEN_FAILURES = (0.25, 0.5, 1, 2, 4, 8, 24, 72, math.inf)
"""Of one GPU, on average."""
GOAL = 0.95
HOPELESS = 1.5
"""Leases that last so much longer than a GPU does on average are left out: hardly any of them would ever end."""


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """What takes time besides labelling, in seconds.

    Attributes:
        driver: of the driver, per lease; leases wait for each other here.
        gap: of a worker, between two leases.
        load: of the model, by a new worker.
        notice: until a lost GPU is taken for lost.
        replace: until another GPU is there.
    """

    gpus: int
    driver: float
    gap: float
    load: float = 60.0
    notice: float = 15.0
    replace: float = 180.0


@dataclass
class Worker:
    """A GPU and what it is at; `life` counts its replacements, so that events of earlier ones are known."""

    life: int = 0
    since: float = 0.0
    lease: int | None = None
    began: float = 0.0


class Simulation:
    """`count` leases of `seconds` each, on GPUs that last `hours` on average."""

    def __init__(self, cluster: Cluster, *, seconds: float, hours: float, count: int, seed: int) -> None:
        self.cluster, self.seconds, self.mean = cluster, seconds, hours * 3600
        self.random = random.Random(seed)
        self.now = self.driver_free = self.there = self.useful = 0.0
        self.left = deque(range(count))
        self.done = 0
        self.deaths: Counter[int] = Counter()
        self.workers = [Worker() for _ in range(cluster.gpus)]
        self.idle: deque[int] = deque()
        self.events: list[tuple[float, int, str, int, int]] = []
        self.order = itertools.count()

    def run(self) -> dict[str, float]:
        """Until every lease is done."""
        count = len(self.left)
        for number in range(self.cluster.gpus):
            self._start(number, loaded=True)
        handed_out = self.efficiency = 0.0
        while self.done < count:
            self.now, _, kind, number, life = heapq.heappop(self.events)
            if kind == "return":
                self.left.appendleft(number)
            elif self.workers[number].life == life:
                getattr(self, f"_{kind}")(number)
            while self.left and self.idle:
                self._hand_out(self.idle.popleft())
            if not self.left and not handed_out:
                handed_out = self.now
                self.efficiency = self.useful_until_now() / self.there_until_now()
        return {
            "efficiency": round(self.efficiency, 4),
            "hours": round(handed_out / 3600, 2),
            "tail_seconds": round(self.now - handed_out, 1),
            "leases_with_three_deaths": sum(deaths >= 3 for deaths in self.deaths.values()),
        }

    def there_until_now(self) -> float:
        return self.there + sum(self.now - worker.since for worker in self.workers if worker.since <= self.now)

    def useful_until_now(self) -> float:
        # What is under way counts as far as it has come: most of it will end well.
        under_way = [max(0.0, self.now - worker.began) for worker in self.workers if worker.lease is not None]
        return self.useful + sum(under_way)

    def _at(self, after: float, kind: str, number: int) -> None:
        life = self.workers[number].life if kind != "return" else 0
        heapq.heappush(self.events, (self.now + after, next(self.order), kind, number, life))

    def _start(self, number: int, *, loaded: bool = False) -> None:
        self.workers[number].since = self.now
        self._at(0 if loaded else self.cluster.load, "free", number)
        if math.isfinite(self.mean):
            self._at(self.random.expovariate(1 / self.mean), "fail", number)

    def _free(self, number: int) -> None:
        self.idle.append(number)

    def _hand_out(self, number: int) -> None:
        self.driver_free = max(self.driver_free, self.now) + self.cluster.driver
        worker = self.workers[number]
        worker.lease, worker.began = self.left.popleft(), self.driver_free + self.cluster.gap
        self._at(worker.began + self.seconds - self.now, "finish", number)

    def _finish(self, number: int) -> None:
        self.workers[number].lease = None
        self.useful += self.seconds
        self.done += 1
        self._free(number)

    def _fail(self, number: int) -> None:
        worker = self.workers[number]
        self.there += self.now - worker.since
        if worker.lease is not None:
            self.deaths[worker.lease] += 1
            self._at(self.cluster.notice, "return", worker.lease)
        elif number in self.idle:
            self.idle.remove(number)
        worker.lease, worker.life, worker.since = None, worker.life + 1, math.inf
        self._at(self.cluster.replace, "start", number)


def sweep(cluster: Cluster, *, most: int, seed: int) -> list[dict[str, Any]]:
    """All sizes of leases with all rates of failures; runs take some hours of the cluster's time, or 20 leases each."""
    found = []
    for hours, seconds in itertools.product(HOURS_BETWEEN_FAILURES, LEASE_SECONDS):
        if seconds > HOPELESS * hours * 3600:
            continue
        count = int(min(max(cluster.gpus * 4 * 3600 / seconds, cluster.gpus * 20), most))
        result = Simulation(cluster, seconds=seconds, hours=hours, count=count, seed=seed).run()
        found.append({"lease_seconds": seconds, "hours_between_failures": hours, "leases": count, **result})
        print(found[-1], file=sys.stderr)
    return found


def find_limits(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """For each rate of failures, the shortest and longest leases with which the goal is reached, interpolated."""
    limits = []
    for hours, group in itertools.groupby(found, key=lambda result: result["hours_between_failures"]):
        points = [(math.log(result["lease_seconds"]), result["efficiency"]) for result in group]
        crossings = [
            math.exp(x0 + (x1 - x0) * (GOAL - y0) / (y1 - y0))
            for (x0, y0), (x1, y1) in itertools.pairwise(points)
            if (y0 < GOAL) != (y1 < GOAL)
        ]
        good = [math.exp(x) for x, y in points if y >= GOAL]
        limits.append(
            {
                "hours_between_failures": hours,
                "shortest": round(min([*crossings, *good]), 1) if good else None,
                "longest": round(max([*crossings, *good]), 1) if good else None,
                "best_efficiency": max(y for _, y in points),
            }
        )
    return limits


def draw(found: list[dict[str, Any]], cluster: Cluster, path: str) -> None:
    """Efficiency over the length of leases, a line for each rate of failures."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
    colours = plt.get_cmap("viridis")
    for place, hours in enumerate(HOURS_BETWEEN_FAILURES):
        group = [result for result in found if result["hours_between_failures"] == hours]
        axes.plot(
            [result["lease_seconds"] for result in group],
            [result["efficiency"] for result in group],
            marker=".",
            color=colours(place / len(HOURS_BETWEEN_FAILURES)),
            label="never" if math.isinf(hours) else f"every {hours:g} h",
        )
    axes.axhline(GOAL, color="grey", linestyle="--", linewidth=1)
    axes.set(xscale="log", xlabel="seconds of labelling per lease", ylabel="efficiency", ylim=(0, 1.02))
    axes.set_title(f"{cluster.gpus} GPUs, each taken away …", loc="left", fontsize=10)
    axes.legend(fontsize=8, frameon=False, loc="lower center", ncols=3)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", help="write the figures there, too")
    parser.add_argument("--plot", help="write a PNG there")
    parser.add_argument("--measured", default="docs/results/scheduling.json", help="of tests.benchmarks.scheduling")
    parser.add_argument("--gpus", type=int, default=1000)
    parser.add_argument("--load", type=float, default=Cluster.load, help="seconds to load the model")
    parser.add_argument("--notice", type=float, default=Cluster.notice, help="seconds until a lost GPU is noticed")
    parser.add_argument("--replace", type=float, default=Cluster.replace, help="seconds until there is another")
    parser.add_argument("--most", type=int, default=40_000, help="leases simulated at most")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    measured = json.loads(Path(options.measured).read_text())
    cluster = Cluster(
        gpus=options.gpus,
        driver=measured["overhead"][-1]["driver_cpu_ms_per_lease"] / 1000,
        gap=measured["large"][-1]["gap_ms_median"] / 1000,
        load=options.load,
        notice=options.notice,
        replace=options.replace,
    )
    found = sweep(cluster, most=options.most, seed=options.seed)
    result = {
        "command": "python -m tests.benchmarks.simulation " + " ".join(sys.argv[1:]),
        "date": time.strftime("%Y-%m-%d"),
        "cluster": asdict(cluster),
        "lease_seconds_for_95_percent": find_limits(found),
        "runs": found,
    }
    text = json.dumps(result, indent=1, ensure_ascii=False).replace("Infinity", '"never"')
    print(text)
    if options.json:
        Path(options.json).write_text(text + "\n")
    if options.plot:
        draw(found, cluster, options.plot)


if __name__ == "__main__":
    main()
