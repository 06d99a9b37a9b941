"""A headless Chromium, and the page in it over a fake server (`opened`) or over a real one (`served`).

The browser is `GUIDEREC_CHROMIUM`, or the first of the usual names on the path; without one these tests are skipped.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("playwright.sync_api", reason="Playwright is not installed: pip install 'guiderec[test]'")

from fake_server import FakeServer
from page_reader import PATIENCE, WIDE, Open, Shown
from playwright.sync_api import Browser, Page, expect, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
OPTIONS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
]


def chromium() -> str | None:
    """Path of a Chromium; what GUIDEREC_CHROMIUM says goes first."""
    named = os.environ.get("GUIDEREC_CHROMIUM")
    return named or next((path for name in NAMES if (path := shutil.which(name))), None)


@pytest.fixture(scope="module")  # not longer: no other event loop can run in this thread while Playwright does
def browser() -> Iterator[Browser]:
    path = chromium()
    if path is None:
        pytest.skip("no Chromium was found; name one in GUIDEREC_CHROMIUM")
    with sync_playwright() as playwright:
        expect.set_options(timeout=PATIENCE)
        found = playwright.chromium.launch(executable_path=path, headless=True, args=OPTIONS)
        yield found
        found.close()


@pytest.fixture(scope="module")
def tab(browser: Browser) -> Page:
    """The tab that most tests share, one after the other: wide, light and still."""
    return browser.new_context(viewport=WIDE, reduced_motion="reduce", color_scheme="light").new_page()


@pytest.fixture
def server() -> FakeServer:
    return FakeServer()


@pytest.fixture
def page_of(browser: Browser, tab: Page, server: FakeServer) -> Iterator[Open]:
    """Pages over the fake server under a strict content security policy. Whatever they complain of fails the test.

    With options (those of a Playwright context) in a context of their own, without any in the shared tab.
    """
    made: list[Shown] = []

    def make(**options: Any) -> Shown:
        page = (
            browser.new_context(**{"viewport": WIDE, "reduced_motion": "reduce", **options}).new_page()
            if options
            else tab
        )
        page.route("**/*", server.answer)
        made.append(Shown(page))
        return made[-1]

    yield make
    for shown in made:
        shown.leave()
        if shown.page is not tab:
            shown.page.context.close()
    assert [fault for shown in made for fault in shown.faults] == []


@pytest.fixture
def shown(page_of: Open) -> Shown:
    """The page with the first list of the first person."""
    return page_of().ready()
