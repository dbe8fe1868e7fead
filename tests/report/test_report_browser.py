"""The page in headless Chromium: charts, no network requests, small screens, dark colours."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from report_records import write_class_run, write_study

from scalewise.lab.report.build import write_report
from scalewise.lab.training.config import TrainConfig

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium is installed (Debian: apt install chromium)"
)
VISIBLE = "[...document.querySelectorAll('.chart')].filter((c) => c.offsetParent)"


@pytest.fixture(scope="module")
def address(tiny: Callable[..., TrainConfig], tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("browser")
    write_study(folder / "trial", tiny(folder, by="level"), seeds=3)
    return write_report([folder / "trial"], folder / "report.html")[0].as_uri()


@pytest.fixture(scope="module")
def of_classes(tiny: Callable[..., TrainConfig], tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("classes")
    write_class_run(folder / "run", tiny(folder, scheme="rlo", by="class"))
    return write_report([folder / "run"], folder / "report.html")[0].as_uri()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with playwright.sync_playwright() as tool:
        browser = tool.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


def visit(browser: Browser, address: str, **options: Any) -> tuple[Page, list[str], list[str]]:
    """The loaded page, its warnings and errors, and the addresses that it requested."""
    page = browser.new_context(**options).new_page()
    wrong: list[str] = []
    asked: list[str] = []
    page.on("console", lambda m: wrong.append(m.text) if m.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("request", lambda r: None if r.url.startswith("data:") else asked.append(r.url))
    page.goto(address)
    wait_for_charts(page)
    return page, wrong, asked


def wait_for_charts(page: Page) -> None:
    """Wait until every visible chart is drawn."""
    from playwright.sync_api import expect

    expect(page.locator(".chart:visible:not(:has(svg.main-svg))")).to_have_count(0)


def undrawn(page: Page) -> list[str]:
    found: list[str] = page.evaluate(
        f"{VISIBLE}.filter((c) => !c.querySelector('.plot path, .barlayer path, .heatmaplayer "
        "image, .scatterlayer path')).map((c) => c.id)"
    )
    return found


def test_charts_are_drawn_without_complaint_or_request(browser: Browser, address: str) -> None:
    page, wrong, asked = visit(browser, address)
    assert page.locator(".chart.js-plotly-plot:visible").count() >= 8
    assert undrawn(page) == []
    for picker in page.locator("select").all():
        for value in picker.locator("option").evaluate_all("(all) => all.map((o) => o.value)"):
            picker.select_option(value)
            wait_for_charts(page)
            assert page.locator(f"#{value}").is_visible()
            assert undrawn(page) == []
    assert page.locator("img").evaluate_all("(all) => all.every((i) => i.naturalWidth > 0)")
    assert wrong == []
    assert asked == [address]


def test_the_policy_stops_what_a_page_might_ask_for(browser: Browser, address: str) -> None:
    page, wrong, _ = visit(browser, address)
    blocked = page.evaluate("fetch('http://127.0.0.1:9/').then(() => false, () => true)")
    assert blocked
    assert any("Content Security Policy" in text for text in wrong)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_the_page_without_sideways_scrolling(
    browser: Browser, address: str, scheme: str
) -> None:
    page, wrong, _ = visit(
        browser,
        address,
        viewport={"width": 390, "height": 844},
        is_mobile=True,
        has_touch=True,
        color_scheme=scheme,
    )
    for details in page.locator("details").all():
        details.evaluate("(d) => (d.open = true)")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert page.evaluate(f"{VISIBLE}.every((c) => c.getBoundingClientRect().right <= 390)")
    assert undrawn(page) == []
    assert wrong == []


def test_dark_mode_follows_the_system_at_once(browser: Browser, address: str) -> None:
    page, wrong, _ = visit(browser, address, color_scheme="light")

    def colors() -> tuple[float, float]:
        """Lightness, 0 to 255, of the page and of a chart's letters."""
        found: list[str] = page.evaluate(
            "[getComputedStyle(document.body).backgroundColor,"
            " getComputedStyle(document.querySelector('.xtick text')).fill]"
        )
        page_color, ink = (
            [float(v) for v in text[text.index("(") + 1 : -1].split(",")[:3]] for text in found
        )
        return sum(page_color) / 3, sum(ink) / 3

    paper, ink = colors()
    before = page.evaluate("getComputedStyle(document.querySelector('.xtick text')).fill")
    assert paper > 200
    assert ink < 80
    page.emulate_media(color_scheme="dark")
    from playwright.sync_api import expect

    expect(page.locator(".xtick text").first).not_to_have_css("fill", before)
    paper, ink = colors()
    assert paper < 60
    assert ink > 180
    assert wrong == []


def test_a_keyboard_reaches_tables_and_lists(browser: Browser, address: Path) -> None:
    page, _, _ = visit(browser, str(address))
    assert page.locator(".scroll").evaluate_all("(all) => all.every((e) => e.tabIndex === 0)")
    assert page.locator("label > select").count() == page.locator("select").count()


@pytest.mark.parametrize("width", [390, 1200])
def test_eighty_classes_do_not_widen_the_page(
    browser: Browser, of_classes: str, width: int
) -> None:
    page, wrong, _ = visit(browser, of_classes, viewport={"width": width, "height": 844})
    for details in page.locator("details").all():
        details.evaluate("(d) => (d.open = true)")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert undrawn(page) == []
    assert wrong == []


def test_the_search_box_leaves_the_rows_that_hold_what_is_typed(
    browser: Browser, of_classes: str
) -> None:
    page, wrong, _ = visit(browser, of_classes)
    rows = page.locator(".find tbody tr")
    assert rows.count() == 80
    box = page.get_by_label("Find a class:")
    box.fill("CLASS 7")
    shown = page.locator(".find tbody tr:visible th").all_text_contents()
    assert sorted(shown) == sorted(f"class {i}" for i in range(70, 80))
    assert page.locator(".find [role=status]").text_content() == "10 of 80"
    box.fill("a/b")
    assert page.locator(".find tbody tr:visible th").all_text_contents() == ["a/b"]
    box.fill("")
    assert page.locator(".find tbody tr:visible").count() == 80
    assert page.locator(".find [role=status]").text_content() == ""
    assert wrong == []


def test_the_page_of_an_inspection_fits_a_phone(browser: Browser, tmp_path: Path) -> None:
    from scalewise.lab.inspection.run import inspect_data, write_inspection

    config = TrainConfig(data=f"demo:images=10,size=64,folder={tmp_path / 'demo'}", size=64)
    address = write_inspection(*inspect_data(config, show=False), tmp_path / "seen")[1].as_uri()
    page, wrong, asked = visit(browser, address, viewport={"width": 390, "height": 844})
    assert page.locator(".chart.js-plotly-plot:visible").count() == 3
    assert undrawn(page) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert page.locator("img").evaluate_all("(all) => all.every((i) => i.naturalWidth > 0)")
    assert wrong == []
    assert asked == [address]
