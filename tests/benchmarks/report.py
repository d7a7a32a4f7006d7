"""How fluid the report is with many labels, in a headless Chromium: `python -m tests.benchmarks.report`.

Prints (and with --json FILE writes) the milliseconds until the page is there, and, while it is scrolled, paged,
searched, filtered and reviewed, the longest time between two frames and the CPU time of the longest task of the page's
thread, which other programs on the machine hardly change.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from engine.labelling.png import heatmap_to_png, mask_to_png
from engine.miniature.scenes import draw_scene
from engine.report.page import pack_rows, render_data, render_page
from engine.report.pictures import draw_layers

SIDE = 256
DRAWN = 50
"""Pictures that differ; each has many names, which a browser takes for so many pictures."""

FRAMES = """() => {
  window.longest = 0;
  let last = performance.now();
  const tick = (now) => {
    window.longest = Math.max(window.longest, now - last);
    last = now;
    requestAnimationFrame(tick);
  };
  requestAnimationFrame((now) => { last = now; tick(now); });
}"""
SCROLL = """() => new Promise((done) => {
  const step = () => {
    window.scrollBy(0, 120);
    if (window.scrollY + window.innerHeight >= document.documentElement.scrollHeight - 1) done();
    else requestAnimationFrame(step);
  };
  step();
})"""


def write_page(folder: Path, count: int) -> str:
    """A report of ``count`` labels with a picture each; its URL."""
    rng = np.random.default_rng(0)
    drawn = [_draw(number) for number in range(DRAWN)]
    rows, pictures = [], {}
    for number in range(count):
        path = f"images/{number % 256:02x}/{number:06d}.4.webp"
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        if number < DRAWN:
            (folder / path).write_bytes(drawn[number])
        else:
            first = number % DRAWN
            os.link(folder / f"images/{first % 256:02x}/{first:06d}.4.webp", folder / path)
        row = {"shard": f"{number % 40:06d}.tar", "key": f"photo-{number:06d}", "width": SIDE, "height": SIDE}
        row |= {name: float(rng.random()) for name in ("area", "separation", "refined_separation", "presence")}
        row |= {"quality": number / count, "flags": ["touches_border"] * (number % 3 == 0)}
        rows.append(row)
        pictures[row["shard"], row["key"]] = path, 4
    bins = [count // 20] * 20
    data = {
        "id": f"benchmark-{count}",
        "run": "benchmark",
        "concept": "benchmark",
        "stage": "refined",
        "written": "",
        "seen": count,
        "labelled": count,
        "leases": 40,
        "quarantined": {},
        "seconds": {},
        "missing": {},
        "means": {"quality": 0.5, "area": 0.5},
        "histograms": {"quality": bins, "area": bins},
        "flagged": {"touches_border": count // 3},
        "settings": {},
        "fingerprint": "",
        "versions": {},
    }
    (folder / "data.js").write_bytes(render_data({**data, **pack_rows(rows, pictures, SIDE)}))
    (folder / "index.html").write_bytes(render_page("benchmark"))
    return (folder / "index.html").as_uri()


def _draw(seed: int) -> bytes:
    scene = draw_scene(0, seed, width=SIDE, height=SIDE, concept="car")
    mask = scene.masks["car"]
    heat = (mask[::4, ::4] * 200).astype(np.uint8)
    row = {
        "mask": {"bytes": mask_to_png(mask)},
        "preliminary_mask": {"bytes": mask_to_png(mask[::4, ::4])},
        "heatmap": {"bytes": heatmap_to_png(heat)},
    }
    return draw_layers(scene.image, row, SIDE)


def measure(page: Any) -> dict[str, dict[str, float]]:
    """The longest time between two frames and the longest task, in milliseconds, by what is done."""
    found = {}
    browser = page.context.browser

    def during(name: str, act: Any) -> None:
        browser.start_tracing(page=page, categories=["toplevel", "__metadata"])
        page.evaluate("window.longest = 0")
        act()
        page.wait_for_timeout(300)
        frame = page.evaluate("window.longest")
        found[name] = {"frame_ms": round(frame, 1), "task_cpu_ms": longest_task(browser.stop_tracing())}

    page.evaluate(FRAMES)
    during("idle", lambda: None)
    during("scroll", lambda: page.evaluate(SCROLL))

    def turn() -> None:
        for _ in range(15):
            page.click("#next-page")
            page.wait_for_timeout(60)

    during("turn pages", turn)
    during("search", lambda: page.type("#search", "photo-00123", delay=60))
    page.click("#clear")

    def sift() -> None:
        for selector in (".chip", ".chip"):
            page.click(selector)
            page.wait_for_timeout(60)
        for order in ("best", "large", "key", "worst"):
            page.select_option("#order", order)
            page.wait_for_timeout(60)

    during("filter and sort", sift)
    page.locator("h1").click()

    def review() -> None:
        page.keyboard.press("s")
        for number in range(60):
            page.keyboard.press("aru"[number % 3])
            page.wait_for_timeout(20)
        page.keyboard.press("Escape")

    during("review", review)
    return found


def longest_task(trace: bytes) -> float:
    """CPU time of the longest task of a page's main thread, in milliseconds."""
    events = json.loads(trace)["traceEvents"]
    threads = {
        (event["pid"], event["tid"])
        for event in events
        if event["name"] == "thread_name" and event["args"]["name"] == "CrRendererMain"
    }
    tasks = [event.get("tdur", 0) for event in events if (event["pid"], event["tid"]) in threads and event["ph"] == "X"]
    return round(max(tasks, default=0) / 1000, 1)


def main() -> None:
    """Measures and prints."""
    from playwright.sync_api import sync_playwright

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        url = write_page(Path(folder), options.rows)
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1360, "height": 900})
        page.goto(url)
        timing = "performance.getEntriesByType('navigation')[0].domContentLoadedEventEnd"
        found = {
            "rows": options.rows,
            "loaded_ms": round(page.evaluate(timing), 1),
            "longest": measure(page),
            "elements": page.evaluate("document.querySelectorAll('*').length"),
            "chromium": browser.version,
            "machine": f"{platform.machine()}, {os.cpu_count()} CPUs",
        }
        browser.close()
    print(json.dumps(found, indent=2))
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
