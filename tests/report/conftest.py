"""A run with keys that would be markup, its report, and a browser to open it in."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.report.report import ReportOptions, write_report
from tests.export.prescribed import Case, write_run

CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "chrome")
MARKUP = "<img src=x onerror=\"window['attacked']=1\">"
SCRIPT = "</script><script>attacked=1</script>\u2028'"
ODD = ' =1+1,"two" '


def make_cases() -> list[Case]:
    """90 images in three shards; of a lower number is a worse label."""
    found = []
    for number in range(90):
        mask = np.zeros((48, 64 if number % 2 else 40), dtype=bool)
        mask[4 : 5 + number // 3, 8:32] = True
        key = {3: MARKUP, 4: SCRIPT, 5: ODD}.get(number, f"{number:03d}")
        flags = ["touches_border"] * (number % 5 == 0) + ["low_contrast"] * (number % 7 == 0)
        found.append(Case(shard=f"{number % 3:06d}", key=key, mask=mask, quality=(number + 0.25) / 90, flags=flags))
    return found


@pytest.fixture(scope="session")
def shown() -> list[Case]:
    """What was labelled, the worst first."""
    return make_cases()


@pytest.fixture(scope="session")
def run(shown: list[Case], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run directory; not to be changed."""
    return write_run(tmp_path_factory.mktemp("reported"), shown)


@pytest.fixture(scope="session")
def page_url(run: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The run's report, as a browser opens it from disk."""
    folder = tmp_path_factory.mktemp("report")
    write_report(str(run), ReportOptions(), output=str(folder))
    return (folder / "index.html").as_uri()


@dataclass
class Seen:
    """What a page did that it must not do."""

    errors: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """A headless Chromium."""
    path = next(filter(None, map(shutil.which, CHROMIUM)), None)
    if path is None:
        warnings.warn("THE REPORT IS NOT TESTED: no Chromium here; apt-get install chromium", stacklevel=1)
        pytest.skip("THE REPORT IS NOT TESTED: there is no Chromium (apt-get install chromium)")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        yield chromium
        chromium.close()


@pytest.fixture
def open_page(browser: Any, page_url: str) -> Iterator[Callable[..., Any]]:
    """Opens the report; what it does that it must not do fails the test in the end."""
    seen = Seen()
    contexts = []

    def open_one(url: str = page_url, *, context: Any = None, **options: Any) -> Any:
        if context is None:
            context = browser.new_context(viewport={"width": 1280, "height": 900}, **options)
            contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(20_000)
        page.on("console", lambda message: seen.errors.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: seen.errors.append(str(error)))
        page.on("request", lambda request: seen.requests.append(request.url))
        page.goto(url)
        return page

    yield open_one
    for context in contexts:
        context.close()
    assert seen.errors == []
    assert [url for url in seen.requests if not url.startswith(("file:", "blob:file:"))] == []
