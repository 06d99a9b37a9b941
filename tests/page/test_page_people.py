"""Who the list is for, and what they have seen: search of people, names of stored wishes, and the third button."""

from __future__ import annotations

from fake_server import ADDRESS, FakeServer
from page_reader import Open, Shown
from playwright.sync_api import expect
from test_page_steering import FIRST, items


def test_a_stored_wish_is_called_by_its_name_at_once(page_of: Open, server: FakeServer):
    """The item is disliked, so it is in no list; the model explains nothing; and yet the chip is not a bare id."""
    server.explains = False
    server.stored["ada"] = {"like": [], "dislike": [{"item": 12}, {"category": "Grey"}]}
    shown = page_of().ready()
    assert shown.wishes() == ["Dislike: Item 12", "Dislike: Grey"]
    expect(shown.page.get_by_role("button", name="Take back Dislike: Item 12")).to_be_visible()


def test_somebody_beyond_the_first_is_found_and_stays_in_the_choice(page_of: Open, server: FakeServer):
    server.people |= {f"guest {n}": [n] for n in range(1, 9)}
    server.first = 2
    shown = page_of().ready()
    assert shown.page.locator("#person option").count() == 2
    box = shown.page.get_by_role("combobox", name="Find somebody else")
    expect(box).to_have_attribute("placeholder", "One of 10")
    box.fill("GUEST")
    server.first = 50
    box.fill("guest 7")
    option = shown.page.get_by_role("listbox", name="People found").get_by_role("option")
    expect(option).to_have_count(1)
    expect(option).to_contain_text("1 item · Item 07")
    box.press("ArrowDown")
    expect(option).to_have_attribute("aria-selected", "true")
    assert box.get_attribute("aria-activedescendant") == option.get_attribute("id")
    box.press("Enter")
    shown.await_status("For guest 7, from 1 item of history.")
    expect(shown.page.locator("#person")).to_have_value("guest 7")
    assert server.wanted()[-1]["user"] == "guest 7"
    assert shown.page.url == f"{ADDRESS}?user=guest+7"
    shown.page.locator("#person").select_option("bob")
    shown.await_status("For bob")
    assert "guest 7" in "".join(shown.page.locator("#person option").all_inner_texts())


def test_a_search_of_people_that_finds_nobody(page_of: Open, server: FakeServer):
    server.first = 1
    shown = page_of().ready()
    shown.page.get_by_role("combobox", name="Find somebody else").fill("zoe")
    expect(shown.page.locator("#people-note")).to_have_text("Nothing is called “zoe”.")


def test_few_people_need_no_search(shown: Shown):
    expect(shown.page.locator("#find-person")).to_be_hidden()


def test_seen_joins_the_history_and_undo_takes_it_back(shown: Shown, server: FakeServer):
    shown.card("Item 12").get_by_role("button", name="Seen Item 12").click()
    shown.await_status("Seen Item 12: 1 new, 9 moved.")
    assert shown.page.locator("#history .title").all_inner_texts() == items(4, 8, 12)
    assert "Item 12" not in shown.names()  # what is in the history is left out
    assert server.wanted("feedback") == [{"user": "ada", "item": 12, "kind": "seen"}]
    assert shown.wishes() == []
    assert shown.focus()["card"] == 0  # the card that took its place

    shown.page.get_by_role("button", name="Undo").click()
    shown.await_status("Undone: Seen Item 12")
    assert shown.names() == FIRST
    assert shown.page.locator("#history .title").all_inner_texts() == items(4, 8)
    assert server.wanted("feedback")[-1] == {"user": "ada", "item": 12, "kind": "unseen"}


def test_seen_by_key_one_after_the_other(shown: Shown, server: FakeServer):
    shown.cards.first.focus()
    shown.page.keyboard.press("s")
    shown.await_status("Seen Item 12")
    shown.page.keyboard.press("s")
    shown.await_status("Seen Item 16")
    assert server.seen["ada"] == [12, 16]
    shown.page.keyboard.press("Control+z")
    shown.await_status("Undone: Seen Item 16")
    assert server.seen["ada"] == [12]
    assert shown.page.locator("#history .title").all_inner_texts() == items(4, 8, 12)


def test_what_is_in_the_history_cannot_be_seen_again(shown: Shown, server: FakeServer):
    """It shows in the list only when nothing is left out. The button keeps the focus and says why it does nothing."""
    shown.page.get_by_role("checkbox", name="Leave out what is in the history").uncheck()
    shown.await_status("With the history")
    button = shown.card("Item 04").locator("[data-part=seen]")
    expect(button).to_have_attribute("aria-pressed", "true")
    expect(button).to_have_attribute("aria-disabled", "true")
    fresh = shown.card("Item 12").locator("[data-part=seen]")
    fresh.click()
    shown.await_status("Seen Item 12")
    expect(fresh).to_have_attribute("aria-pressed", "true")
    assert shown.focus()["part"] == "seen"
    shown.card("Item 12").focus()
    shown.page.keyboard.press("s")
    shown.page.wait_for_timeout(100)
    assert server.seen["ada"] == [12]


def test_seen_in_ones_own_history_is_kept_nowhere(shown: Shown, server: FakeServer):
    shown.page.get_by_role("button", name="Copy to my own").click()
    shown.await_status("For your own history")
    shown.card("Item 12").locator("[data-part=seen]").click()
    shown.await_status("Seen Item 12")
    assert server.wanted()[-1]["history"] == [4, 8, 12]
    assert server.wanted("feedback") == []
    shown.page.keyboard.press("Control+z")
    shown.await_status("Undone: Seen Item 12")
    assert server.wanted()[-1]["history"] == [4, 8]
