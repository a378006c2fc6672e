"""The report in a real browser, at desktop and phone width."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medvision.reports.run_page import Case, write_report

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
pytestmark = pytest.mark.skipif(
    BROWSER is None, reason="no chromium, chromium-browser or google-chrome is installed"
)

SIZES = {1280: 900, 390: 844}
"""Width and height of the window, px."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def page_of(full_run: Path) -> Path:
    def case(name: str, width_px: int, *, wrong: bool) -> Case:
        picture = np.full((120, width_px, 3), 90, np.uint8)
        return Case(title=name, caption="predicted NORMAL 97.1 %", picture=picture, wrong=wrong)

    worst = [case("a_very_long_name_of_a_file" * 4 + ".png", 120, wrong=True)] * 12
    return write_report(full_run, worst=worst, typical=[case("b.png", 240, wrong=False)] * 3)


@pytest.mark.parametrize("width_px", SIZES)
def test_the_report_opens_without_errors_requests_or_horizontal_scrolling(
    browser: Any, page_of: Path, width_px: int
) -> None:
    context = browser.new_context(viewport={"width": width_px, "height": SIZES[width_px]})
    page = context.new_page()
    complaints: list[str] = []
    requests: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("requestfailed", lambda request: complaints.append(request.url))
    page.on("request", lambda request: requests.append(request.url))
    try:
        page.goto(page_of.as_uri(), wait_until="load")
        page.locator("summary").click()  # the configuration, with its long lines
        state = page.evaluate(
            """() => ({
                page: document.documentElement.scrollWidth,
                window: innerWidth,
                pictures: [...document.images].map(picture => picture.naturalWidth),
                beyond: [...document.querySelectorAll("h1, h2, p, figure, li, pre, .scroll")]
                    .filter(part => part.getBoundingClientRect().right > innerWidth + 0.5).length,
                open: document.querySelector("details").open,
                text: getComputedStyle(document.body).color,
            })"""
        )
    finally:
        context.close()
    assert complaints == []
    assert [url for url in requests if not url.startswith("data:")] == [page_of.as_uri()]
    assert state["page"] <= state["window"] == width_px
    assert state["beyond"] == 0
    assert len(state["pictures"]) == 21
    assert all(size > 0 for size in state["pictures"])
    assert state["open"]
    assert state["text"] == "rgb(27, 31, 36)"  # the style sheet is in force


def test_on_paper_the_configuration_is_open(browser: Any, page_of: Path) -> None:
    context = browser.new_context()
    page = context.new_page()
    try:
        page.goto(page_of.as_uri())
        on_screen = page.locator("details pre").is_visible()
        page.emulate_media(media="print")
        on_paper = page.locator("details pre").evaluate("pre => pre.getBoundingClientRect().height")
    finally:
        context.close()
    assert not on_screen
    assert on_paper > 20


def test_a_dark_screen_gets_a_dark_page_with_readable_text_and_paper_a_white_one(
    browser: Any, page_of: Path
) -> None:
    context = browser.new_context(color_scheme="dark")
    page = context.new_page()
    contrasts = """() => {
        const light = text => {
            const [r, g, b] = text.match(/[\\d.]+/g).slice(0, 3).map(v => v / 255)
                .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
            return 0.2126 * r + 0.7152 * g + 0.0722 * b;
        };
        const behind = part => {
            const found = getComputedStyle(part).backgroundColor;
            return found === "rgba(0, 0, 0, 0)" && part.parentElement
                ? behind(part.parentElement) : found;
        };
        return [...document.querySelectorAll("p, h1, h2, td, th, a, li, figcaption, summary, dd")]
            .map(part => {
                const [a, b] = [getComputedStyle(part).color, behind(part)].map(light);
                return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
            });
    }"""
    try:
        page.goto(page_of.as_uri())
        dark = page.evaluate("() => getComputedStyle(document.body).backgroundColor")
        ratios = page.evaluate(contrasts)
        page.emulate_media(media="print")
        paper = page.evaluate("() => getComputedStyle(document.body).backgroundColor")
    finally:
        context.close()
    assert dark == "rgb(20, 24, 29)"
    assert paper == "rgb(255, 255, 255)"
    assert len(ratios) > 100
    assert min(ratios) >= 4.5  # WCAG 2.2, level AA
