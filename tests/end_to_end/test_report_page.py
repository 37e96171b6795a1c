"""The report of a run in a real browser: wide and narrow, light and dark, with two classes and with a thousand."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from googlenet.evaluation.html import write_run_report
from tests.end_to_end.conftest import check_screens, needs_chromium
from tests.evaluation.test_html import NASTY, evaluated

pytestmark = needs_chromium


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page that must not complain, and must not ask for anything but the file itself."""
    page, complaints, requests = browser.new_page(), list[str](), list[str]()
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("dialog", lambda dialog: complaints.append(dialog.message))
    page.on("request", lambda request: requests.append(request.url))
    yield page
    assert not complaints
    assert [url for url in requests if not url.startswith("data:")] == [page.url.partition("#")[0]]
    page.close()


@pytest.mark.parametrize(
    "classes", [NASTY[:2], tuple("abcdefghij"), tuple(f"class {n:03} ILSVRC" for n in range(1000))]
)
def test_pages_fit_every_screen(page: Page, tmp_path: Path, classes: tuple[str, ...]) -> None:
    run, split = evaluated(tmp_path / "a run", classes, max(60, len(classes)), size=100, channels=3)
    write_run_report(run, split)
    page.goto(run.path.as_uri())
    check_screens(page, narrow=360)


def test_tables_are_sorted(page: Page, tmp_path: Path) -> None:
    run, split = evaluated(tmp_path / "run", ("b", "a", "c10", "c9"), 60)
    write_run_report(run, split)
    page.goto(run.path.as_uri())
    table = page.locator("#classes table")
    names = table.locator("tbody th")
    table.get_by_role("button", name="class").click()
    assert names.all_inner_texts() == ["a", "b", "c9", "c10"]
    recall = table.get_by_role("button", name="recall")
    for order in ("descending", "ascending"):
        recall.click()
        values = [float(text.rstrip("%")) for text in table.locator("tbody td:nth-child(4)").all_inner_texts()]
        assert values == sorted(values, reverse=order == "descending")
        expect(table.locator("th[aria-sort]")).to_have_attribute("aria-sort", order)


def test_mistakes_are_sorted_and_filtered(page: Page, tmp_path: Path) -> None:
    run, split = evaluated(tmp_path / "run", ("a", NASTY[0], "c"), 60)
    write_run_report(run, split)
    wrong = [each for each in run.answers if not each.is_correct]
    page.goto(run.path.as_uri())
    cards = page.locator(".gallery li:visible")
    expect(cards).to_have_count(len(wrong))
    page.get_by_label("Sort by").select_option("least confident")
    least = min(wrong, key=lambda each: each.probability)
    expect(cards.first).to_have_attribute("data-file", least.file)
    page.locator("select[name=label]").select_option(NASTY[0])
    expect(cards).to_have_count(sum(each.label == NASTY[0] for each in wrong))
    page.get_by_label("File name contains").fill(least.file.upper())
    expect(cards).to_have_count(int(least.label == NASTY[0]))
    page.locator("select[name=label]").select_option("all")
    expect(cards).to_have_count(1)


def test_the_page_is_complete_without_javascript(browser: Browser, tmp_path: Path) -> None:
    run, split = evaluated(tmp_path / "run", ("a", "b", "c"), 60)
    write_run_report(run, split)
    with browser.new_context(java_script_enabled=False) as context:
        page = context.new_page()
        page.goto(run.path.as_uri())
        expect(page.locator(".gallery li:visible")).to_have_count(sum(not each.is_correct for each in run.answers))
        expect(page.get_by_role("button")).to_have_count(0)
        expect(page.get_by_label("Sort by")).to_be_hidden()
