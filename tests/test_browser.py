"""The pages in a browser: headless Chromium, where it and Playwright are there."""

from __future__ import annotations

import base64
import io
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import picture
from test_report import many

import featx

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="Playwright is not installed: pip install '.[browser]'"
    )
    if CHROMIUM is None:
        pytest.skip("there is no Chromium")
    with playwright.sync_playwright() as started:
        chromium = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    """A tab that says what went wrong, and what was asked for."""
    tab = browser.new_page()
    tab.set_default_timeout(120_000)  # a machine may have other things to do
    tab.complaints, tab.requests = [], []
    tab.on("console", lambda message: tab.complaints.append(message.text))
    tab.on("pageerror", lambda error: tab.complaints.append(str(error)))
    tab.on("request", lambda request: tab.requests.append(request.url))
    yield tab
    assert tab.complaints == []
    assert all(url.startswith(("file:", "data:")) for url in tab.requests)
    tab.close()


@pytest.fixture
def report(make_dataset: Callable[..., Path], tiny_backbone: str, tmp_path: Path) -> Path:
    """The report of a classifier that errs."""
    make_dataset(3, 6, split="train")
    data = make_dataset(3, 8, split="test", first=50)
    for number in range(3):  # told wrongly: these are mistakes for sure
        picture(1, 90 + number).save(data / "test" / "lying" / f"<b>{number}.png")
    done = featx.extract(data, backbone=tiny_backbone, preprocess="rescale", cache_dir=tmp_path / "cache")
    return featx.report(featx.fit(done.features_path, "logreg", C=10.0), tmp_path / "page.html")


def test_hover_and_keyboard_show_pictures(page: Any, report: Path, tmp_path: Path) -> None:
    page.goto(report.as_uri())
    assert page.title().startswith("stripes: ")
    cell, shown = page.locator("td.miss button").first, page.locator("#cell")
    cell.hover()
    assert "taken for" in shown.inner_text() and shown.locator("img").count() >= 1
    assert shown.locator("img").first.evaluate("image => image.decode().then(() => image.naturalWidth)") > 0
    page.locator("td.hit button").first.focus()
    assert "named rightly" in shown.inner_text()
    panel = page.locator(".cloud .panel").first
    page.locator("[data-plot]").first.focus()
    first = panel.inner_text()
    assert "taken for" in first and panel.locator("img").count() == 1
    page.keyboard.press("ArrowDown")
    assert panel.inner_text() != first and "taken for" in panel.inner_text()
    page.keyboard.press("ArrowRight")
    assert page.locator(".p.on").count() == 1
    page.locator(".p:not(.w)").last.hover(force=True)
    assert "named rightly" in panel.inner_text()
    page.locator(".command button").first.click()
    page.get_by_text("Copied").or_(page.get_by_text("Selected")).first.wait_for()
    page.screenshot(path=tmp_path / "desktop.png", full_page=True)


def test_the_keyboard_reaches_everything(page: Any, report: Path) -> None:
    page.goto(report.as_uri())
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    reached = set()
    for _ in range(80):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.tagName + (document.activeElement.dataset.plot ?? '')"))
    assert {"BUTTON", "SUMMARY", "DIV"} <= reached


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast_suffices_by_day_and_by_night(page: Any, report: Path, scheme: str, tmp_path: Path) -> None:
    page.emulate_media(color_scheme=scheme)
    page.goto(report.as_uri())
    assert page.evaluate(CONTRASTS) == []
    page.screenshot(path=tmp_path / f"{scheme}.png", full_page=True)


def test_a_phone_need_not_scroll_sideways(page: Any, report: Path, tmp_path: Path) -> None:
    page.set_viewport_size({"width": 375, "height": 800})
    page.goto(report.as_uri())
    page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert page.evaluate("document.documentElement.scrollWidth") <= 375
    page.screenshot(path=tmp_path / "phone.png", full_page=True)


def test_without_scripts_the_facts_are_there(browser: Any, report: Path) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(report.as_uri())
    text = page.locator("main").inner_text()
    assert "Confusion matrix" in text and "taken for" in text and "Model card" in text
    assert not page.locator("#cell").is_visible()
    context.close()


def test_five_thousand_pictures_cost_a_point_each_and_no_more(page: Any, tmp_path: Path) -> None:
    """Pictures are drawn when asked for, by listeners that all points share, so that the page is there at once."""
    from featx.reporting.report_page import page_of
    from featx.reporting.thumbnails import Thumbnail

    def uri(side: int) -> str:
        file = io.BytesIO()
        picture(2, side, (side, side)).save(file, "WEBP", quality=70)
        return "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode()

    found, small, large = many(5000, 10), uri(48), uri(96)
    path = tmp_path / "many.html"
    path.write_text(
        page_of(found, {picture.row: Thumbnail(small, large) for picture in found.pictures}), encoding="utf-8"
    )
    browser = page.context.new_cdp_session(page)
    browser.send("Performance.enable")
    page.goto(path.as_uri())
    work = {measured["name"]: measured["value"] for measured in browser.send("Performance.getMetrics")["metrics"]}
    assert page.locator(".p").count() >= 5000
    assert page.locator("*").count() < 2 * 5000 and page.evaluate("document.images.length") < 500
    assert work["JSEventListeners"] < 50


# Text whose contrast with what is behind it is below WCAG's AA: 4.5, or 3 where it is large. The canvas knows all ways
# to write a colour, mixed ones too.
CONTRASTS = """() => {
  const context = Object.assign(document.createElement("canvas"), { width: 1, height: 1 })
    .getContext("2d", { willReadFrequently: true });
  const rgba = (colour) => {
    context.clearRect(0, 0, 1, 1);
    context.fillStyle = colour;
    context.fillRect(0, 0, 1, 1);
    return [...context.getImageData(0, 0, 1, 1).data];
  };
  const light = (colour) => {
    const [r, g, b] = colour.slice(0, 3).map((v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (element) => {
    for (let e = element; e; e = e.parentElement) {
      const colour = rgba(getComputedStyle(e).backgroundColor);
      if (colour[3] === 255) return colour;
    }
    return [255, 255, 255, 255];
  };
  const found = [];
  for (const element of document.querySelectorAll("body *")) {
    const own = [...element.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
    if (!own || !element.checkVisibility() || element.closest("script, style, title, desc")) continue;
    const style = getComputedStyle(element), svg = element.closest("svg");
    const [a, b] = [light(rgba(svg ? style.fill : style.color)), light(behind(element))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    const large = parseFloat(style.fontSize) >= 24 || (parseFloat(style.fontSize) >= 18.66 && style.fontWeight >= 700);
    if (ratio < (large ? 3 : 4.5)) found.push(`${element.tagName} ${element.textContent.trim()} ${ratio}`);
  }
  return found;
}"""
