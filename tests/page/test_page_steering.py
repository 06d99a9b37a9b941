"""What the page does with likes, dislikes and strength. The lists that are expected follow from `fake_server`."""

from __future__ import annotations

import pytest
from fake_server import ADDRESS, FakeServer
from page_reader import Open, Shown
from playwright.sync_api import expect


def items(*numbers: int) -> list[str]:
    return [f"Item {j:02d}" for j in numbers]


# ada has items 4 and 8, both Red: Red items come first, in order, and then the others by number.
FIRST = items(12, 16, 20, 24, 28, 32, 36, 40, 1, 2)
# Once a Green item is liked, Green has 0.5 and Red has 0.4, less a hundredth of the number: 21 is before 12 before 25.
LIKED = items(1, 5, 9, 13, 17, 21, 12, 25, 16, 29)


def test_first_list(shown: Shown, server: FakeServer):
    assert shown.names() == FIRST
    assert shown.status() == "For ada, from 2 items of history."
    assert shown.page.locator("#model").inner_text() == "fake over 40 items"
    assert server.wanted()[0] == {"user": "ada", "k": 10, "guidance_scale": None, "explain": True, "exclude_seen": True}
    expect(shown.page.locator("#honoured")).to_have_text("None yet: this list follows from the history alone.")
    expect(shown.page.locator("#undo")).to_be_disabled()
    assert shown.page.locator(".move").all_inner_texts() == [""] * 10  # nothing to compare with


def test_dislike_by_click_changes_the_list_and_undo_brings_it_back(shown: Shown, server: FakeServer):
    shown.card("Item 12").get_by_role("button", name="Dislike Item 12").click()
    shown.await_status("Disliked Item 12")
    # Red loses 0.5: 0.2 + 0.2 - 0.5 < 0. Item 16 has -0.16 - 0.1 = -0.26, behind everything of other colours up to 25.
    after = items(1, 2, 3, 5, 6, 7, 9, 10, 11, 13)
    assert shown.names() == after
    assert shown.status() == "Disliked Item 12: 8 new, 2 moved."
    assert shown.wishes() == ["Dislike: Item 12"]
    assert server.stored["ada"] == {"like": [], "dislike": [{"item": 12}]}
    assert server.wanted()[-1] == server.wanted()[0]  # what is stored acts, the request does not repeat it

    shown.page.get_by_role("button", name="Undo").click()
    shown.await_status("Undone: Disliked Item 12")
    assert shown.names() == FIRST
    assert shown.wishes() == []
    assert server.stored["ada"] == {"like": [], "dislike": []}


def test_like_is_a_toggle(shown: Shown, server: FakeServer):
    like = shown.card("Item 01").get_by_role("button", name="Like Item 01", exact=True)
    like.click()
    shown.await_status("Liked Item 01")
    assert shown.names() == LIKED
    expect(like).to_have_attribute("aria-pressed", "true")
    like.click()
    shown.await_status("Took back the wish on Item 01")
    assert shown.names() == FIRST
    expect(like).to_have_attribute("aria-pressed", "false")
    assert [body["kind"] for body in server.wanted("feedback")] == ["like", "clear"]


def test_a_dislike_replaces_a_like(shown: Shown, server: FakeServer):
    shown.card("Item 01").get_by_role("button", name="Like Item 01", exact=True).click()
    shown.await_status("Liked")
    shown.card("Item 01").get_by_role("button", name="Dislike Item 01").click()
    shown.await_status("Disliked")
    assert shown.wishes() == ["Dislike: Item 01"]
    assert server.stored["ada"] == {"like": [], "dislike": [{"item": 1}]}


def test_keys(shown: Shown, server: FakeServer):
    shown.cards.first.focus()
    press = shown.page.keyboard.press
    press("ArrowDown")
    press("ArrowDown")
    assert shown.focus()["card"] == 2
    press("End")
    assert shown.focus()["card"] == 9
    press("Home")
    press("ArrowUp")  # there is nothing above
    assert shown.focus()["card"] == 0

    press("ArrowDown")
    press("d")
    shown.await_status("Disliked Item 16")
    assert "Item 16" not in shown.names()
    assert shown.focus()["card"] == 1  # the card that took its place
    press("u")
    shown.await_status("Undone")
    assert shown.names() == FIRST

    shown.card("Item 40").focus()
    press("l")
    shown.await_status("Liked Item 40")
    assert shown.focus()["card"] == shown.names().index("Item 40")  # the focus goes with the card
    press("Shift+D")
    shown.await_status("Disliked Red")
    assert shown.wishes() == ["Like: Item 40", "Dislike: Red"]
    assert server.stored["ada"]["dislike"] == [{"category": "Red"}]
    press("Control+z")
    shown.await_status("Undone: Disliked Red")
    assert shown.wishes() == ["Like: Item 40"]


def test_letters_do_nothing_elsewhere(shown: Shown, server: FakeServer):
    asked = len(server.asked)
    for place in ("#person", "#undo", "#strength"):
        shown.page.locator(place).focus()
        for key in ("l", "d", "u"):
            shown.page.keyboard.press(key)
    shown.cards.first.focus()
    shown.page.keyboard.press("Control+d")
    shown.page.wait_for_timeout(100)
    assert len(server.asked) == asked
    assert shown.wishes() == []


def test_category_chip(shown: Shown):
    card = shown.card("Item 01")
    chip = card.get_by_role("button", name="Category Green")
    expect(chip).to_have_attribute("aria-expanded", "false")
    chip.click()
    expect(chip).to_have_attribute("aria-expanded", "true")
    card.get_by_role("button", name="Like all Green", exact=True).click()
    shown.await_status("Liked Green")
    assert shown.names() == LIKED
    assert shown.wishes() == ["Like: Green"]
    expect(shown.card("Item 05").get_by_role("button", name="Category Green (liked)")).to_be_visible()


def test_category_that_is_not_in_the_list(shown: Shown):
    shown.page.locator("#category").select_option("Grey")
    shown.page.get_by_role("button", name="Like this category", exact=True).click()
    shown.await_status("Liked Grey")
    assert shown.names()[0] == "Item 03"


def test_chips_and_clear(shown: Shown, server: FakeServer):
    shown.card("Item 01").locator("[data-part=like]").click()
    shown.await_status("Liked Item 01")
    shown.card("Item 12").locator("[data-part=dislike]").click()
    shown.await_status("Disliked Item 12")
    shown.page.get_by_role("button", name="Take back Dislike: Item 12").click()
    shown.await_status("Took back")
    assert shown.wishes() == ["Like: Item 01"]
    shown.page.get_by_role("button", name="Clear all").click()
    shown.await_status("Cleared")
    assert (shown.wishes(), shown.names()) == ([], FIRST)
    shown.page.keyboard.press("Control+z")
    shown.await_status("Undone: Cleared all wishes")
    assert shown.wishes() == ["Like: Item 01"]
    assert server.stored["ada"]["like"] == [{"item": 1}]


def test_strength(shown: Shown, server: FakeServer):
    slider, value = shown.page.get_by_role("slider", name="Strength"), shown.page.locator("#strength-value")
    default = shown.page.get_by_role("button", name="Default")
    shown.card("Item 01").locator("[data-part=like]").click()
    shown.await_status("Liked")
    expect(value).to_have_text("1")
    expect(slider).to_have_attribute("aria-valuetext", "1, default")
    expect(default).to_be_disabled()

    slider.fill("0")
    shown.await_status("New strength")
    assert shown.names() == FIRST
    assert server.wanted()[-1]["guidance_scale"] == 0
    expect(slider).to_have_attribute("aria-valuetext", "0, unsteered")
    expect(shown.page.locator("#honoured")).to_have_text("Strength 0. Nothing pulls or pushes.")
    assert slider.evaluate("s => Number(s.max)") == 4

    with shown.page.expect_response("**/recommend"):
        default.click()
    expect(shown.cards.first).to_contain_text("Item 01")
    assert server.wanted()[-1]["guidance_scale"] is None
    assert shown.page.evaluate("document.activeElement.id") == "strength"


def test_one_slide_is_one_step(shown: Shown, server: FakeServer):
    shown.card("Item 01").locator("[data-part=like]").click()
    shown.await_status("Liked")
    liked = shown.names()
    shown.page.locator("#strength").evaluate(
        """slider => [0.9, 0.6, 0.3, 0].forEach(value => {
             slider.value = value;
             slider.dispatchEvent(new Event("input", {bubbles: true})); })"""
    )
    expect(shown.cards.first).to_contain_text("Item 12")
    shown.page.get_by_role("button", name="Undo").click()
    shown.await_status("Undone: New strength")
    assert shown.names() == liked
    expect(shown.page.locator("#strength-value")).to_have_text("1")


def test_moves_are_those_between_the_two_lists(shown: Shown):
    """Against the ranks themselves: up is positive, and what was not there is new."""
    before = shown.names()
    shown.card("Item 01").locator("[data-part=like]").click()
    shown.await_status("Liked")
    for rank, card in enumerate(shown.cards.all()):
        name, move = card.locator(".name").inner_text(), card.locator(".move")
        label = card.get_attribute("aria-label") or ""
        if name not in before:
            expect(move).to_have_text("new")
            assert label.endswith("new in the list")
        elif before.index(name) == rank:
            expect(move).to_have_text("")
        else:
            places = before.index(name) - rank
            expect(move).to_have_text(str(abs(places)))
            expect(move).to_have_class(f"move {'up' if places > 0 else 'down'}")
            assert f"{'up' if places > 0 else 'down'} {abs(places)} place" in label
    assert shown.card("Item 01").locator(".move").inner_text() == "8"


def test_before_beside_now(shown: Shown):
    button = shown.page.get_by_role("button", name="Show before")
    button.click()
    expect(shown.page.locator("#before")).to_be_visible()
    shown.card("Item 01").locator("[data-part=like]").click()
    shown.await_status("Liked Item 01")
    shown.card("Item 12").locator("[data-part=dislike]").click()
    shown.await_status("Disliked Item 12")
    rows = shown.page.locator("#before-list > li")
    assert rows.locator(".title").all_inner_texts() == LIKED
    assert shown.names() == items(1, 5, 9, 13, 17, 21, 25, 29, 33, 37)  # Red has nothing left
    assert rows.locator(".fate").all_inner_texts() == ["stayed"] * 6 + ["left", "now 7", "left", "now 8"]

    shown.page.get_by_role("radio", name="no wishes").check()
    expect(rows.first).to_contain_text("Item 12")
    assert rows.locator(".title").all_inner_texts() == FIRST
    expect(shown.page.locator("#before-title")).to_have_text("Without wishes")
    assert shown.card("Item 01").locator(".move").inner_text() == "8"

    button.click()
    expect(shown.page.locator("#before")).to_be_hidden()


def test_contributions_add_up(shown: Shown):
    shown.card("Item 01").locator("[data-part=like]").click()
    shown.await_status("Liked")
    card = shown.card("Item 12")
    card.focus()
    shown.page.keyboard.press("w")
    rows = card.locator(".parts > li")
    said = {row.locator(".label").inner_text(): row.locator(".amount").inner_text() for row in rows.all()}
    assert said == {
        "In general": "−0.120",
        "Item 04": "+0.200",
        "Item 08": "+0.200",
        "Like: Item 01": "0.000",
        "Score, the sum": "0.280",
    }
    assert card.locator(".why").get_attribute("aria-label") == "Why: score 0.280, in general −0.120, history +0.400"


def test_why_says_what_a_bar_means_and_shows_only_sources_at_work(page_of: Open, server: FakeServer):
    """A source that gave 0 to every item, as the base of many models, is in no card and not in the legend."""
    server.base = 0.0
    shown = page_of().ready()
    card = shown.cards.first
    card.locator(".why").click()
    assert card.locator(".label").all_inner_texts() == [*items(4, 8), "Score, the sum"]
    expect(card.locator(".reasons .note")).to_have_text(
        "A bar to the right moved this item up, a bar to the left moved it down."
    )
    assert shown.page.locator("#legend li").all_inner_texts() == ["history"]
    shown.card("Item 12").locator("[data-part=dislike]").click()
    shown.await_status("Disliked Item 12")
    expect(shown.page.locator("#legend")).to_be_hidden()  # Red fell out: nothing gave anything to what is left
    shown.page.locator("#strength").fill("0.5")
    shown.await_status("New strength")
    assert shown.page.locator("#legend li").all_inner_texts() == ["history", "dislikes"]
    shown.cards.first.locator(".why").click()
    expect(shown.cards.first.locator(".reasons .note")).to_contain_text("A dislike can lift items that are unlike it.")


def test_bars_share_one_scale(shown: Shown):
    """The list reaches from -0.40 (base of item 40) to +0.40 (two Red items of the history): zero is in the middle."""
    widths = shown.cards.evaluate_all(
        """cards => cards.map(card => {
             const bar = card.querySelector(".why .bar").getBoundingClientRect();
             return Object.fromEntries(["base", "history"].map(source => {
               const part = card.querySelector(`.why .segment.${source}`).getBoundingClientRect();
               return [source, [(part.left - bar.left) / bar.width, part.width / bar.width]]; })); })"""
    )
    for name, bars in zip(shown.names(), widths, strict=True):
        j = int(name[-2:])
        assert bars["base"] == pytest.approx([0.5 - j / 80, j / 80], abs=0.005)
        assert bars["history"] == pytest.approx([0.5, 0.5 if j % 4 == 0 else 0.0], abs=0.005)


def test_many_contributions_are_folded_without_losing_any(page_of: Open, server: FakeServer):
    server.people["ada"] = list(range(3, 25))
    shown = page_of().ready()
    card = shown.cards.first
    card.locator(".why").click()
    labels = card.locator(".label").all_inner_texts()
    assert "18 more of the history" in labels
    amounts = [float(text.replace("−", "-")) for text in card.locator(".amount").all_inner_texts()]
    assert sum(amounts[:-1]) == pytest.approx(amounts[-1], abs=0.02)


def test_own_history(shown: Shown, server: FakeServer):
    shown.page.get_by_role("radio", name="My own history").check()
    expect(shown.page.get_by_text("Start with something you like")).to_be_visible()
    assert shown.names() == []
    box = shown.page.get_by_role("combobox", name="Search for something you like")
    box.fill("item 1")
    options = shown.page.get_by_role("option")
    expect(options.first).to_contain_text("Item 10")
    box.press("ArrowDown")
    box.press("ArrowDown")
    expect(options.nth(1)).to_have_attribute("aria-selected", "true")
    assert box.get_attribute("aria-activedescendant") == options.nth(1).get_attribute("id")
    box.press("Enter")
    shown.await_status("Added Item 11")
    expect(box).to_have_value("")
    box.fill("grey")
    options.filter(has_text="Item 03").click()
    shown.await_status("Added Item 03")
    assert shown.page.locator("#history .title").all_inner_texts() == items(11, 3)

    stored = dict(server.stored)
    shown.card("Item 07").locator("[data-part=dislike]").click()
    shown.await_status("Disliked Item 07")
    asked = server.wanted()[-1]
    assert (asked["history"], asked["likes"], asked["dislikes"]) == ([11, 3], [], [{"item": 7}])
    assert "user" not in asked
    assert server.stored == stored  # nobody's feedback is kept

    shown.page.get_by_role("button", name="Remove Item 11").click()
    shown.await_status("Removed Item 11")
    shown.page.get_by_role("button", name="Undo").click()
    shown.await_status("Undone: Removed Item 11")
    assert server.wanted()[-1]["history"] == [11, 3]


def test_search_that_finds_nothing(shown: Shown):
    shown.page.get_by_role("radio", name="My own history").check()
    shown.page.get_by_role("combobox", name="Search").fill("zebra")
    expect(shown.page.locator("#found-note")).to_have_text("Nothing is called “zebra”.")
    expect(shown.page.get_by_role("combobox", name="Search")).to_have_attribute("aria-expanded", "false")


def test_a_persons_history_becomes_ones_own(shown: Shown, server: FakeServer):
    shown.page.get_by_role("button", name="Copy to my own").click()
    shown.await_status("For your own history")
    assert server.wanted()[-1]["history"] == [4, 8]
    assert shown.names() == FIRST


def test_somebody_else(shown: Shown, server: FakeServer):
    shown.card("Item 12").locator("[data-part=dislike]").click()
    shown.await_status("Disliked")
    shown.page.get_by_label("Person", exact=True).select_option("bob")
    shown.await_status("For bob, from 6 items of history.")
    assert shown.wishes() == []
    expect(shown.page.locator("#undo")).to_be_disabled()  # undo does not reach into another's wishes
    assert shown.page.url == f"{ADDRESS}?user=bob"
    assert shown.page.locator("#history .title").all_inner_texts() == items(5, 6, 7)
    shown.page.get_by_role("button", name="Show all 6").click()
    assert shown.page.locator("#history .title").all_inner_texts() == items(1, 2, 3, 5, 6, 7)
    shown.page.get_by_role("button", name="Somebody else").click()
    shown.await_status("For ada")
    assert shown.wishes() == ["Dislike: Item 12"]  # what was stored is there again


def test_address_names_the_person(page_of: Open):
    assert page_of().ready(f"{ADDRESS}?user=bob").status().startswith("For bob")


def test_history_may_stay_in_the_list(shown: Shown, server: FakeServer):
    shown.page.get_by_label("Leave out what is in the history").uncheck()
    shown.await_status("With the history")
    assert server.wanted()[-1]["exclude_seen"] is False
    assert shown.names()[:2] == items(4, 8)


@pytest.mark.parametrize(
    ("steers", "sentence"),
    [
        (
            True,
            "Steered. The list is pulled towards what you like and pushed away from your 2 dislikes; "
            "a disliked item itself never appears.",
        ),
        (
            False,
            "Appended. This model cannot be pulled, so what you like was added to the history. "
            "Filtered. This model cannot be pushed away, so what you dislike is only left out.",
        ),
    ],
)
def test_how_wishes_were_honoured(page_of: Open, server: FakeServer, *, steers: bool, sentence: str):
    server.steers = steers
    server.stored["ada"] = {"like": [{"item": 1}], "dislike": [{"item": 2}, {"item": 3}]}
    expect(page_of().ready().page.locator("#honoured")).to_have_text(sentence)


def test_model_that_neither_explains_nor_has_a_strength(page_of: Open, server: FakeServer):
    server.steers, server.explains, server.scale = False, False, None
    shown = page_of().ready()
    assert server.wanted()[0]["explain"] is False
    for hidden in ("#slider", "#strength-value", "#strength-default", "#legend", "#help-why"):
        expect(shown.page.locator(hidden)).to_be_hidden()
    expect(shown.page.locator("#strength-none")).to_be_visible()
    expect(shown.page.locator(".why").first).to_be_hidden()
    shown.cards.first.focus()
    shown.page.keyboard.press("d")
    shown.await_status("Disliked Item 12")
    assert "Item 12" not in shown.names()


def test_server_without_people(page_of: Open, server: FakeServer):
    server.people.clear()
    shown = page_of().open()
    expect(shown.page.get_by_text("Start with something you like")).to_be_visible()
    expect(shown.page.locator("#who-kind [value=person]")).to_be_disabled()
    assert server.wanted() == []


@pytest.mark.slow
def test_cards_glide_unless_the_reader_wants_stillness(page_of: Open, server: FakeServer):
    moving = "[...document.querySelectorAll('#list > .card')].filter(c => c.getAnimations().length).length"
    still = f"() => {moving} === 0 && document.querySelectorAll('#ghosts > *').length === 0"
    for motion, most in (("no-preference", 10), ("reduce", 0)):
        server.stored.clear()
        shown = page_of(reduced_motion=motion).ready()
        shown.page.wait_for_function(still)
        seen = shown.page.evaluate(
            f"""async () => {{
                 document.querySelector("#list > .card [data-part=dislike]").click();
                 const status = document.getElementById("status");
                 while (!status.textContent.startsWith("Disliked")) await new Promise(requestAnimationFrame);
                 return {moving}; }}"""
        )
        assert seen == most
        shown.page.wait_for_function(still)
