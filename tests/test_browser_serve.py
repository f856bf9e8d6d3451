"""The page of ``featx serve`` in a real browser: by file input and keyboard, without an error or a stranger."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import picture

import featx

sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
pytest.importorskip("fastapi", reason="FastAPI is not installed: pip install '.[serve]'")
pytest.importorskip("uvicorn", reason="Uvicorn is not installed: pip install '.[serve]'")
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [pytest.mark.browser, pytest.mark.skipif(BROWSER is None, reason="there is no Chromium")]

ROOT = Path(featx.__file__).parents[1]
HOSTILE = "<img src=x onerror=alert(1)>"
WAIT = 120_000.0  # milliseconds: a busy machine is no error


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory, tiny_backbone: str) -> Iterator[str]:
    """A server whose classes are called by names that are meant to hurt."""
    root = tmp_path_factory.mktemp("browser")
    for kind, name in enumerate(["lying", HOSTILE]):
        (root / "data" / name).mkdir(parents=True)
        for number in range(8):
            picture(kind, number).save(root / "data" / name / f"{number:03}.png")
    recipe = {"backbone": tiny_backbone, "preprocess": "rescale"}
    done = featx.extract(root / "data", cache_dir=root / "cache", **recipe)
    model = featx.fit(done.features_path, "logreg", input="flat").save(root / "model")
    process = subprocess.Popen(
        [sys.executable, "-m", "featx", "serve", str(model), "--port", "0", "--json", "--quiet"],
        stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert process.stdout
    yield json.loads(process.stdout.readline())["url"]
    process.kill()
    process.communicate()


class Watched:
    """A page, and all that it says and asks for."""

    def __init__(self, page: Any, url: str) -> None:
        self.page, self.url = page, url
        self.said: list[str] = []
        self.asked: list[str] = []
        page.set_default_timeout(WAIT)
        page.on("console", lambda message: self.said.append(message.text))
        page.on("pageerror", lambda error: self.said.append(str(error)))
        page.on("dialog", lambda dialog: (self.said.append("dialog"), dialog.dismiss()))
        page.on("request", lambda request: self.asked.append(request.url))
        page.goto(url)
        self.shows("#class option", count=2)

    def shows(self, selector: str, text: re.Pattern[str] | None = None, count: int = 1) -> None:
        """Wait until so many are there, with a text. (What is waited for as a script, the page's policy forbids.)"""
        found = sync_api.expect(self.page.locator(selector))
        found.to_have_count(count, timeout=WAIT)
        if text:
            found.to_have_text(text, timeout=WAIT)

    def choose(self, file: Path) -> None:
        """Give a picture to the file input, and wait for its answer and map."""
        self.page.set_input_files("#file", str(file))
        self.page.wait_for_selector("#explained:not([hidden]) #map")

    def is_sound(self) -> bool:
        """Whether nothing was said, and nobody else was asked."""
        own = all(asked.startswith((self.url, f"blob:{self.url}")) for asked in self.asked)
        return own and self.said == []


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"], timeout=WAIT)
        yield browser
        browser.close()


@pytest.fixture(params=["light", "dark"])
def watched(request: pytest.FixtureRequest, browser: Any, url: str) -> Iterator[Watched]:
    size = {"width": 360, "height": 640} if request.param == "dark" else {"width": 1200, "height": 900}
    page = browser.new_page(color_scheme=request.param, viewport=size)
    yield Watched(page, url)
    page.close()


def test_a_picture_gets_a_table_and_a_map(watched: Watched, tmp_path: Path) -> None:
    file = tmp_path / f"{HOSTILE}.png"
    picture(1, 3, (300, 200)).save(file)
    watched.choose(file)
    page = watched.page
    assert page.inner_text("#name") == file.name and page.inner_text("#verdict").startswith(HOSTILE)
    names = page.locator("tbody th[scope=row]").all_inner_texts()
    shares = [float(text.rstrip(" %")) for text in page.locator("tbody td.number").all_inner_texts()]
    assert sorted(names) == sorted(["lying", HOSTILE]) and names[0] == HOSTILE
    assert sum(shares) == pytest.approx(100, abs=0.2) and shares == sorted(shares, reverse=True)
    bars = [page.locator(".bar").nth(number).bounding_box()["width"] for number in range(2)]
    assert bars[0] > bars[1] > 0
    assert page.evaluate("[...document.images].every((i) => i.complete && i.naturalWidth === 300)")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")  # nothing sticks out, on a phone either
    assert "is taken for" in page.inner_text("#status") and page.inner_text("#error") == ""
    assert watched.is_sound()


def test_the_keyboard_is_enough(watched: Watched, tmp_path: Path) -> None:
    page = watched.page
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "file"
    picture(0, 3).save(tmp_path / "a.png")
    watched.choose(tmp_path / "a.png")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "class"
    page.keyboard.press("ArrowUp" if page.input_value("#class") == "lying" else "ArrowDown")
    other = page.input_value("#class")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    watched.shows("#status", re.compile(f"^The map of {re.escape(other)} is shown"))
    assert page.inner_text("#legend") == f"Red speaks for {other}, blue against it."
    assert watched.is_sound()


def test_a_file_that_is_no_picture_is_an_alert(watched: Watched, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("text")
    watched.page.set_input_files("#file", str(tmp_path / "a.png"))
    watched.shows("[role=alert]", re.compile("^not a picture in a format that can be read$"))
    assert watched.page.is_hidden("#result")
    picture(0, 3).save(tmp_path / "b.png")
    watched.choose(tmp_path / "b.png")
    assert watched.page.inner_text("#error") == ""
    assert [text for text in watched.said if "422" not in text] == []  # which the browser itself notes
