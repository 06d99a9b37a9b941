"""The page as its reader sees it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from fake_server import ADDRESS
from playwright.sync_api import ConsoleMessage, Error, Locator, Page

WIDE = {"width": 1280, "height": 900}
NARROW = {"width": 360, "height": 740}
PATIENCE = 30_000
"""Milliseconds until something that does not happen fails a test."""


@dataclass
class Shown:
    """One tab."""

    page: Page
    faults: list[str] = field(default_factory=list)
    """Errors on the console and uncaught ones, violations of the content security policy among them."""

    def __post_init__(self) -> None:
        self.page.set_default_timeout(PATIENCE)
        self.page.on("pageerror", self._failed)
        self.page.on("console", self._heard)

    def leave(self) -> None:
        """Stop listening, so that the tab can be used by the next test."""
        self.page.remove_listener("pageerror", self._failed)
        self.page.remove_listener("console", self._heard)
        self.page.unroute_all(behavior="ignoreErrors")

    def _failed(self, error: Error) -> None:
        self.faults.append(str(error))

    def _heard(self, message: ConsoleMessage) -> None:
        expected = message.text.startswith("Failed to load resource")  # a status that a test asked for
        if message.type in ("error", "warning") and not expected:
            self.faults.append(message.text)

    def open(self, address: str = ADDRESS) -> Shown:
        self.page.goto(address)
        return self

    def ready(self, address: str = ADDRESS) -> Shown:
        """Open, with the first list shown."""
        self.open(address)
        self.cards.first.wait_for()
        return self

    @property
    def cards(self) -> Locator:
        return self.page.locator("#list > .card:not(.waiting)")

    def card(self, name: str) -> Locator:
        return self.cards.filter(has=self.page.get_by_role("heading", name=name, exact=True))

    def names(self) -> list[str]:
        return self.page.locator("#list > .card .name").all_inner_texts()

    def status(self) -> str:
        return self.page.locator("#status").inner_text()

    def wishes(self) -> list[str]:
        """The chips: `Like: Item 05`."""
        return [" ".join(text.split()) for text in self.page.locator("#wishes > li").all_text_contents()]

    def focus(self) -> dict[str, Any]:
        """What has the focus."""
        found: dict[str, Any] = self.page.evaluate(
            """() => { const e = document.activeElement;
                 return {id: e.id, tag: e.tagName, part: e.dataset.part ?? null, label: e.getAttribute("aria-label"),
                         card: [...document.querySelectorAll("#list > .card")].indexOf(e.closest(".card"))}; }"""
        )
        return found

    def await_status(self, text: str) -> None:
        """Waits until the line above the list contains `text`."""
        self.page.wait_for_function(
            "text => document.getElementById('status').textContent.includes(text)", arg=text, timeout=PATIENCE
        )


Open = Callable[..., Shown]
