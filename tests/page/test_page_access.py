"""The page for everybody: names of controls, order of focus, contrast, width, and what a screen reader is told."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest
from fake_server import FakeServer
from page_reader import NARROW, WIDE, Open, Shown
from playwright.sync_api import expect

CONTROLS = {"button", "link", "textbox", "combobox", "slider", "radio", "checkbox", "option", "listbox", "searchbox"}

# Text and its background, each as sRGB in 0..1. Only where text is seen; backgrounds here are never translucent.
CONTRASTS = """
() => {
  const canvas = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
  const rgba = color => { canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = color; canvas.fillRect(0, 0, 1, 1);
                          return [...canvas.getImageData(0, 0, 1, 1).data].map(x => x / 255); };
  const behind = e => { for (; e; e = e.parentElement) { const c = rgba(getComputedStyle(e).backgroundColor);
                        if (c[3] > 0.99) return c; } return rgba("white"); };
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const text = walker.currentNode.textContent.trim(), e = walker.currentNode.parentElement;
    if (!text || !e.checkVisibility() || e.closest(":disabled, .unseen, .skip, noscript, option")) continue;
    found.push([text, rgba(getComputedStyle(e).color).slice(0, 3), behind(e).slice(0, 3)]);
  }
  return found;
}
"""


def contrast(one: list[float], other: list[float]) -> float:
    """WCAG 2.2, contrast ratio of two sRGB colours."""

    def luminance(rgb: list[float]) -> float:
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in rgb]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted([luminance(one), luminance(other)], reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_the_measure_of_contrast_is_that_of_the_standard():
    assert contrast([0, 0, 0], [1, 1, 1]) == pytest.approx(21)
    assert contrast([119 / 255] * 3, [1, 1, 1]) == pytest.approx(4.478, abs=1e-3)  # #777 on white, the known near miss


def everything_shown(shown: Shown) -> Shown:
    """Wishes, menus, reasons, the list before and a problem, all at once."""
    shown.card("Item 01").locator("[data-part=like]").click()
    shown.await_status("Liked Item 01")
    shown.card("Item 12").locator("[data-part=dislike]").click()
    shown.await_status("Disliked Item 12")
    shown.cards.nth(1).locator(".chip").click()
    shown.cards.nth(2).locator(".why").click()
    shown.page.get_by_role("button", name="Show before").click()
    return shown


def test_every_control_has_a_name(shown: Shown):
    everything_shown(shown)
    session = shown.page.context.new_cdp_session(shown.page)
    nodes = session.send("Accessibility.getFullAXTree")["nodes"]
    session.detach()
    seen = [node for node in nodes if not node["ignored"] and node["role"]["value"] in CONTROLS]
    nameless = [node["role"]["value"] for node in seen if not node.get("name", {}).get("value", "").strip()]
    assert nameless == []
    roles = [node["role"]["value"] for node in seen]
    assert roles.count("button") > 40  # or the tree was not read
    assert {"slider", "radio", "checkbox", "combobox"} <= set(roles)


def test_landmarks_headings_and_ids(shown: Shown):
    page = everything_shown(shown).page
    for role, name in (("main", "Ten recommendations"), ("complementary", "Steering")):
        expect(page.get_by_role(role, name=name)).to_have_count(1)  # type: ignore[arg-type]
    expect(page.get_by_role("banner")).to_have_count(1)
    expect(page.get_by_role("heading", level=1)).to_have_count(1)
    assert page.locator("html").get_attribute("lang") == "en"
    levels = page.locator("h1, h2, h3").evaluate_all("found => found.map(h => Number(h.tagName[1]))")
    assert all(later <= earlier + 1 for earlier, later in pairwise(levels))
    ids = page.locator("[id]").evaluate_all("found => found.map(e => e.id)")
    assert len(ids) == len(set(ids))
    referred = page.locator("[aria-controls], [aria-labelledby], [aria-describedby], label[for]").evaluate_all(
        """found => found.flatMap(e => ["aria-controls", "aria-labelledby", "aria-describedby", "for"]
             .flatMap(name => (e.getAttribute(name) ?? "").split(" ").filter(Boolean)))"""
    )
    assert set(referred) <= set(ids)


def test_order_of_focus(shown: Shown):
    """Tab goes through the page from top to bottom, through one card only, and always to something that is seen."""
    shown.page.keyboard.press("Tab")
    assert shown.page.evaluate("document.activeElement.className") == "skip"
    met = []
    for _ in range(40):
        shown.page.keyboard.press("Tab")
        if shown.page.evaluate("document.activeElement === document.body"):
            break
        met.append(
            shown.page.evaluate(
                """() => { const e = document.activeElement, box = e.getBoundingClientRect();
                     const ring = [e, e.nextElementSibling].filter(Boolean).map(x => getComputedStyle(x).outlineStyle);
                     return {id: e.id || e.name || e.dataset.part || e.className,
                             ring: ring.includes("solid"), seen: box.bottom > 0 && box.top < innerHeight}; }"""
            )
        )
    order = [step["id"] for step in met]
    expected = ["who", "person", "shuffle", "history-action", "exclude-seen"]
    expected += ["category", "category-like", "category-dislike", "strength", "compare", "side"]
    assert order == [*expected, "card", "category", "like", "dislike", "seen", "why"]  # one card of ten
    assert all(step["ring"] and step["seen"] for step in met)


def test_skip_link(shown: Shown):
    shown.page.keyboard.press("Tab")
    shown.page.keyboard.press("Enter")
    assert shown.page.evaluate("document.activeElement.id") == "list-region"


def test_focus_is_not_lost(shown: Shown):
    """A wish taken by button keeps the focus on the button, or where the card was; so does taking back a chip."""
    shown.card("Item 01").locator("[data-part=like]").focus()
    shown.page.keyboard.press("Enter")
    shown.await_status("Liked Item 01")
    assert (shown.focus()["part"], shown.focus()["label"]) == ("like", "Like Item 01")
    shown.cards.nth(3).locator("[data-part=dislike]").focus()
    shown.page.keyboard.press("Enter")
    shown.await_status("Disliked")
    assert shown.focus()["card"] == 3
    shown.page.get_by_role("button", name="Take back Like: Item 01").focus()
    shown.page.keyboard.press("Enter")
    shown.await_status("Took back")
    assert shown.focus()["label"] == "Take back Dislike: Item 13"  # the chip that took its place
    shown.page.keyboard.press("Enter")
    shown.await_status("Took back the wish on Item 13")
    assert shown.focus()["id"] == "undo"  # no chip is left
    for _ in range(4):
        shown.page.keyboard.press("Enter")
    expect(shown.page.locator("#undo")).to_be_disabled()
    assert shown.focus()["id"] == "list-region"


def test_changes_are_told(shown: Shown):
    """The live region is there from the start, polite, and its text is the change."""
    live = shown.page.get_by_role("status").and_(shown.page.locator("#status"))
    expect(live).to_have_attribute("aria-live", "polite")
    said = []
    for act, words in (
        (lambda: shown.card("Item 01").locator("[data-part=like]").click(), "Liked Item 01"),
        (lambda: shown.page.get_by_role("button", name="Undo").click(), "Undone: Liked Item 01"),
    ):
        act()
        shown.await_status(words)
        said.append(shown.status())
    assert re.fullmatch(r"Liked Item 01: \d new, \d moved\.", said[0])
    assert said[0] != said[1]
    assert "up 8 places" not in (shown.card("Item 01").get_attribute("aria-label") or "")


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast(page_of: Open, server: FakeServer, scheme: str):
    shown = everything_shown(page_of(color_scheme=scheme).ready())
    server.failures["recommend"] = [(422, {"detail": "No.", "hint": "try another"}, {})]
    shown.page.get_by_label("Leave out what is in the history").uncheck()
    shown.page.get_by_role("alert").wait_for()
    measured = shown.page.evaluate(CONTRASTS)
    assert len(measured) > 80
    poor = {text: round(contrast(ink, paper), 2) for text, ink, paper in measured if contrast(ink, paper) < 4.5}
    assert poor == {}


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_narrow_screen(page_of: Open, scheme: str):
    """360 px: nothing sticks out, nothing is cut, and what is to be touched is large enough (WCAG 2.2: 24 px)."""
    shown = everything_shown(page_of(viewport=NARROW, color_scheme=scheme).ready())
    assert shown.page.evaluate("document.documentElement.scrollWidth") == NARROW["width"]
    outside = shown.page.locator("body *:not(.skip, .unseen, .unseen *, .icons *)").evaluate_all(
        """found => found.filter(e => e.checkVisibility() && e.getBoundingClientRect().width)
             .filter(e => e.getBoundingClientRect().right > innerWidth + 0.5 || e.getBoundingClientRect().left < -0.5)
             .map(e => e.outerHTML.slice(0, 80))"""
    )
    assert outside == []
    small = shown.page.locator("button, select, input:not([type=radio], [type=checkbox])").evaluate_all(
        """found => found.filter(e => e.checkVisibility()).map(e => [e.outerHTML, e.getBoundingClientRect()])
             .filter(([_, box]) => box.width < 24 || box.height < 24).map(([html]) => html.slice(0, 80))"""
    )
    assert small == []


@pytest.mark.parametrize("width", [360, 390])
def test_the_list_begins_on_the_first_screen_of_a_phone(page_of: Open, server: FakeServer, width: int):
    """Search, history and categories are put away until they are asked for; on a wide screen they always show."""
    server.first = 1
    shown = page_of(viewport={"width": width, "height": 844}).ready()
    name = shown.cards.first.locator(".name").bounding_box()
    assert name is not None
    assert name["y"] + name["height"] < 844
    for button, part in (("Search, and history (2)", "#history-part"), ("A whole category", "#category-wish")):
        toggle = shown.page.get_by_role("button", name=button)
        expect(shown.page.locator(part)).to_be_hidden()
        toggle.click()
        expect(toggle).to_have_attribute("aria-expanded", "true")
        expect(shown.page.locator(part)).to_be_visible()
    box = shown.page.get_by_role("combobox", name="Find somebody else")
    box.fill("bob")
    shown.page.locator("#people-found [role=option]").click()
    shown.await_status("For bob")
    expect(box).to_be_hidden()  # somebody is chosen
    assert shown.focus()["id"] == "history-fold"
    shown.page.get_by_role("radio", name="My own history").check()
    expect(shown.page.locator("#history-part")).to_be_visible()
    expect(shown.page.locator("#history-fold")).to_be_hidden()
    shown.page.set_viewport_size(WIDE)
    shown.page.get_by_role("radio", name="A person").check()
    expect(shown.page.locator("#history-part")).to_be_visible()
    expect(shown.page.locator("#history-fold")).to_be_hidden()


def test_nothing_scrolls_inside_the_steering(page_of: Open, server: FakeServer):
    """With more than the window can show, the end of the panel is reached by scrolling the page, and then stays."""
    server.stored["ada"] = {"like": [{"item": j} for j in range(1, 9)], "dislike": []}
    shown = page_of(viewport={"width": 1280, "height": 720}).ready()
    steering = shown.page.locator(".controls")
    assert steering.evaluate("e => e.offsetHeight") > 720
    assert steering.evaluate("e => [e.scrollHeight - e.clientHeight, getComputedStyle(e).overflowY]") == [0, "visible"]
    shown.page.evaluate("scrollTo(0, document.body.scrollHeight)")
    end = shown.page.locator("#category-like").bounding_box()
    assert end is not None
    assert 0 < end["y"] < 720 - end["height"]


def test_strength_stays_in_sight(page_of: Open):
    shown = page_of(viewport=NARROW).ready()
    shown.cards.last.scroll_into_view_if_needed()
    top = shown.page.locator("#strength").evaluate("slider => slider.getBoundingClientRect().top")
    assert 0 <= top < 120
    shown.cards.first.focus()
    shown.page.keyboard.press("End")
    shown.page.keyboard.press("Home")
    covered = shown.page.evaluate(
        """() => document.activeElement.getBoundingClientRect().top
             - document.querySelector(".strength").getBoundingClientRect().bottom"""
    )
    assert covered >= 0  # the focused card is not behind the slider
