"""The report in a real browser, opened from disk. Every test also fails for an error on the console or a request."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect

from engine.corpus import Lease, list_shards
from engine.export.export import ExportOptions, export_labels
from engine.segmenter.examples import read_examples
from engine.segmenter.review import parse_review, read_review
from engine.segmenter.spec import SegmenterSpec
from tests.export.prescribed import Case
from tests.export.readers import read_png
from tests.report.conftest import MARKUP, ODD, SCRIPT

Open = Callable[..., Any]


def keys(page: Any) -> list[str]:
    """Those of the gallery's page, in order."""
    return page.eval_on_selector_all("#grid .key", "found => found.map(element => element.textContent)")


def test_the_worst_labels_come_first_a_page_at_a_time(open_page: Open, shown: list[Case]) -> None:
    page = open_page()
    expected = [case.key for case in shown]
    assert keys(page) == expected[:48]
    page.click("#next-page")
    assert keys(page) == expected[48:]
    assert page.is_disabled("#next-page") and page.inner_text("#page-text") == "Page 2 of 2"


def test_pictures_are_loaded_when_they_come_into_view_and_have_words(open_page: Open) -> None:
    page = open_page()
    first = page.locator("#grid img").first
    expect(first).to_have_js_property("complete", True)
    assert first.get_attribute("alt") == "Mask of 000" and first.get_attribute("loading") == "lazy"
    # A picture of 40 x 48 pixels in four layers, with gaps between them.
    assert first.evaluate("image => [image.naturalWidth, image.naturalHeight]") == [4 * 40 + 3 * 16, 48]


def test_the_run_is_summed_up(open_page: Open, run: Path) -> None:
    page = open_page()
    text = page.inner_text("#facts")
    assert page.inner_text("h1") == "box" and str(run) in page.inner_text("#where")
    assert "Images\n90" in text and "In quarantine\n0" in text and "Mean quality\n0.50" in text
    labels = page.eval_on_selector_all("#charts svg[role=img]", "found => found.map(e => e.getAttribute('aria-label'))")
    assert labels[0] == "Quality of 90 labels, mean 0.50"
    page.click("summary")
    assert "a photo of a box" in page.inner_text("#settings") and "pyarrow" in page.inner_text("#settings")


@pytest.mark.parametrize(
    ("act", "keep"),
    [
        (lambda page: page.fill("#search", "08"), lambda case, n: "08" in case.key),
        (lambda page: page.fill("#quality-from", "0.5"), lambda case, n: n >= 45),
        (lambda page: page.fill("#area-to", "0.1"), lambda case, n: case.mask.mean() <= 0.1),
        (lambda page: page.select_option("#shard", label="000001.tar"), lambda case, n: case.shard == "000001"),
        (lambda page: page.click(".chip:has-text('low_contrast')"), lambda case, n: "low_contrast" in case.flags),
        (lambda page: page.click(".chip:has-text('without')"), lambda case, n: not case.flags),
        (lambda page: page.select_option("#decision", "reject"), lambda case, n: False),
    ],
    ids=["search", "quality", "area", "shard", "flag", "no flag", "decision"],
)
def test_filters_leave_what_they_name(
    act: Callable[[Any], None], keep: Callable[[Case, int], bool], open_page: Open, shown: list[Case]
) -> None:
    page = open_page()
    act(page)
    expected = [case.key for number, case in enumerate(shown) if keep(case, number)]
    expect(page.locator("#shown")).to_have_text(f"{len(expected)} of 90")
    assert keys(page) == expected[:48]
    assert page.is_visible("#empty") == (not expected)
    page.click("#clear")
    expect(page.locator("#shown")).to_have_text("90 of 90")


def test_the_keyboard_alone_is_enough(open_page: Open, shown: list[Case]) -> None:
    page = open_page()
    order = [case.key for case in shown]
    page.keyboard.press("s")
    assert page.inner_text("#review-key") == order[0]
    page.keyboard.press("r")
    page.keyboard.press("a")
    assert page.inner_text("#review-key") == order[2]
    page.keyboard.press("u")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("p")
    assert page.inner_text("#review-place").startswith("4 of 90")
    page.keyboard.press("z")  # the decision on the third
    assert page.inner_text("#review-place").startswith("3 of 90") and page.inner_text("#verdict") == "undecided"
    page.keyboard.press("p")
    assert page.inner_text("#verdict") == "accepted"
    page.keyboard.press("2")
    assert page.inner_text("#slider-name") == "Heatmap"
    page.keyboard.press(" ")
    assert page.input_value("#slider") == "0"
    page.keyboard.press("Escape")
    assert not page.is_visible("#review")
    assert page.inner_text("#progress-text") == "2 of 90 reviewed"
    assert page.inner_text("#progress-detail") == "1 accepted, 1 rejected, 0 unsure"
    page.keyboard.press("/")
    page.keyboard.type("041")
    expect(page.locator("#shown")).to_have_text("1 of 90")
    assert keys(page) == ["041"]


def test_decisions_outlive_the_page(open_page: Open) -> None:
    page = open_page()
    page.keyboard.press("s")
    page.keyboard.press("r")
    page.keyboard.press("r")
    page.close()
    again = open_page(context=page.context)
    assert again.inner_text("#progress-detail") == "0 accepted, 2 rejected, 0 unsure"
    assert again.locator("#grid .stamp").all_inner_texts() == ["rejected", "rejected"]
    again.keyboard.press("s")
    assert again.inner_text("#review-place").startswith("3 of 90")


def save(page: Any, path: Path) -> Path:
    with page.expect_download() as download:
        page.click("#save-review")
    assert download.value.suggested_filename == "review.csv"
    download.value.save_as(path)
    return path


def test_decisions_arrive_in_training_and_export(open_page: Open, run: Path, shown: list[Case], tmp_path: Path) -> None:
    page = open_page()
    page.keyboard.press("s")
    for decision in "arurra":  # the last three about the keys that are markup
        page.keyboard.press(decision)
    page.keyboard.press("Escape")
    path = save(page, tmp_path / "review.csv")

    words = {"a": "accept", "r": "reject", "u": "unsure"}
    expected = {(f"{case.shard}.tar", case.key): words[c] for case, c in zip(shown, "arurra", strict=False)}
    assert {key for _, key in expected} >= {MARKUP, SCRIPT, ODD}
    review = parse_review(path.read_bytes().decode())
    assert review == expected

    options = ExportOptions(format="png", min_quality=0.9, review=read_review(str(path))[0])
    export_labels(str(run), str(tmp_path / "out"), options)
    exported = {key for _, key in read_png(tmp_path / "out")}
    assert exported == {case.key for case in shown[81:]} | {shown[0].key, ODD}

    spec = SegmenterSpec(min_quality=0.9, short_side=64, crop=32)
    leases = [Lease(shard=shard) for shard in list_shards(str(run.parent / "corpus"))]
    examples = read_examples(str(run / "labels"), leases, spec, Counter(), concept="box", review=review)
    assert {example.key for example in examples} == exported


def test_a_saved_review_goes_on_elsewhere(open_page: Open, tmp_path: Path) -> None:
    page = open_page()
    page.keyboard.press("s")
    for decision in "aaaaar":
        page.keyboard.press(decision)
    page.keyboard.press("Escape")
    path = save(page, tmp_path / "review.csv")
    other = open_page()
    assert other.inner_text("#progress-text") == "0 of 90 reviewed"
    other.set_input_files("#review-file", path)
    expect(other.locator("#notice")).to_contain_text("6 decisions read")
    assert other.inner_text("#progress-detail") == "5 accepted, 1 rejected, 0 unsure"
    assert save(other, tmp_path / "again.csv").read_bytes() == path.read_bytes()
    (tmp_path / "wrong.csv").write_text("shard,key\na,b\n")
    other.set_input_files("#review-file", tmp_path / "wrong.csv")
    expect(other.locator("#notice")).to_contain_text("must be shard,key,decision")


def test_markup_in_a_key_stays_text(open_page: Open) -> None:
    page = open_page()
    found = keys(page)
    assert found[3:6] == [MARKUP, SCRIPT, ODD]
    page.locator("#grid button").nth(3).click()
    assert page.inner_text("#review-key") == MARKUP
    page.keyboard.press("n")
    assert page.text_content("#review-key") == SCRIPT
    assert page.evaluate("window.attacked") is None
    assert page.locator("img[src='x']").count() == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(scheme: str, open_page: Open) -> None:
    page = open_page(color_scheme=scheme)
    page.fill("#search", "08")  # a few cards are like all
    page.click("summary")
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (int(paper.removeprefix("rgb(").split(",")[0]) < 100) == (scheme == "dark")
    found = list(Axe().run(page).response["violations"])
    page.keyboard.press("s")
    page.keyboard.press("r")
    page.keyboard.press("p")
    found += Axe().run(page).response["violations"]
    serious = [(rule["id"], [node["html"] for node in rule["nodes"]]) for rule in found if rule["impact"] in BAD]
    assert serious == []


BAD = ("serious", "critical")
