"""What the page does when something goes wrong, is late, or means harm."""

from __future__ import annotations

from fake_server import ADDRESS, HOSTILE, STATIC, FakeServer
from page_reader import Open, Shown
from playwright.sync_api import expect

BUSY = (503, {"detail": "Too many requests wait.", "hint": None}, {"Retry-After": "1"})


def test_a_busy_server_is_asked_again(page_of: Open, server: FakeServer):
    server.failures["recommend"] = [BUSY]
    shown = page_of().open()
    expect(shown.page.locator("#status")).to_have_text("The server is busy. Trying again in 1 second.")
    shown.cards.first.wait_for()
    assert len(server.wanted()) == 2
    expect(shown.page.locator("#problem")).to_be_hidden()


def test_a_server_that_stays_busy_becomes_the_readers_choice(page_of: Open, server: FakeServer):
    now = (*BUSY[:2], {"Retry-After": "0.05"})
    server.failures["recommend"] = [now] * 4
    shown = page_of().open()
    alert = shown.page.get_by_role("alert")
    expect(alert).to_contain_text("Too many requests wait.")
    assert len(server.wanted()) == 4
    alert.get_by_role("button", name="Try again").click()
    shown.cards.first.wait_for()
    expect(alert).to_be_hidden()


def test_a_refusal_is_shown_as_its_sentence_and_the_list_stays(shown: Shown, server: FakeServer):
    names = shown.names()
    server.failures["recommend"] = [(422, {"detail": "k is too large.", "hint": "take at most 40"}, {})]
    shown.page.get_by_label("Leave out what is in the history").uncheck()
    alert = shown.page.get_by_role("alert")
    expect(alert).to_contain_text("k is too large. take at most 40")
    assert shown.names() == names
    alert.get_by_role("button", name="Try again").click()
    expect(alert).to_be_hidden()
    shown.await_status("With the history")


def test_feedback_that_is_not_kept_is_not_shown_as_a_wish(shown: Shown, server: FakeServer):
    names = shown.names()
    server.failures["feedback"] = [(422, {"detail": "The database does not answer.", "hint": None}, {})]
    shown.cards.first.locator("[data-part=dislike]").click()
    expect(shown.page.get_by_role("alert")).to_contain_text("The database does not answer.")
    assert (shown.wishes(), shown.names()) == ([], names)
    expect(shown.page.locator("#undo")).to_be_disabled()
    shown.cards.first.locator("[data-part=dislike]").click()  # and the next one is kept
    shown.await_status("Disliked Item 12")
    assert shown.wishes() == ["Dislike: Item 12"]


NOT_KEPT = (422, {"detail": "The database does not answer.", "hint": None}, {})


def at_once(shown: Shown, *clicks: tuple[str, str]) -> None:
    """Clicks on (part, item) in one task of the page: all of them before any answer."""
    shown.page.evaluate(
        """clicks => { for (const [part, name] of clicks)
             [...document.querySelectorAll("#list > .card")].find(c => c.querySelector(".name").textContent === name)
               .querySelector(`[data-part=${part}]`).click(); }""",
        clicks,
    )


def test_of_two_quick_wishes_the_first_is_not_kept(shown: Shown, server: FakeServer):
    """Its request for a list was given up for that of the second, and its failure was told to nobody."""
    server.failures["feedback"] = [NOT_KEPT]
    at_once(shown, ("dislike", "Item 12"), ("like", "Item 01"))
    shown.await_status("Liked Item 01")
    alert, undo = shown.page.get_by_role("alert"), shown.page.locator("#undo")
    expect(alert).to_contain_text("Not kept: Disliked Item 12. The database does not answer.")
    assert shown.wishes() == ["Like: Item 01"]
    assert server.stored["ada"] == {"like": [{"item": 1}], "dislike": []}
    expect(undo).to_have_attribute("title", "Undo: Liked Item 01")
    undo.click()
    shown.await_status("Undone: Liked Item 01")
    expect(undo).to_be_disabled()
    assert (shown.wishes(), server.stored["ada"]["like"]) == ([], [])
    expect(alert).to_contain_text("Disliked Item 12")  # still: nobody answered it
    alert.get_by_role("button", name="Try again").click()
    shown.await_status("Disliked Item 12")
    expect(alert).to_be_hidden()
    assert (shown.wishes(), server.stored["ada"]["dislike"]) == (["Dislike: Item 12"], [{"item": 12}])
    expect(undo).to_have_attribute("title", "Undo: Disliked Item 12")


def test_of_three_quick_wishes_the_second_is_not_kept(shown: Shown, server: FakeServer):
    """The others are told in order, and undone in order, around the gap; one on the same item starts from before it."""
    kept = (201, {"id": 1, "user": "ada", "kind": "like", "item": 12, "time": "2024-01-01T00:00:00Z"}, {})
    server.failures["feedback"] = [kept, NOT_KEPT]
    at_once(shown, ("like", "Item 12"), ("like", "Item 16"), ("dislike", "Item 16"))
    shown.await_status("Disliked Item 16")
    assert [(body["kind"], body["item"]) for body in server.wanted("feedback")] == [
        ("like", 12),
        ("like", 16),
        ("dislike", 16),
    ]
    shown.page.keyboard.press("Control+z")
    shown.await_status("Undone: Disliked Item 16")
    assert server.wanted("feedback")[-1] == {"user": "ada", "item": 16, "kind": "clear"}  # and not "like"
    expect(shown.page.locator("#undo")).to_have_attribute("title", "Undo: Liked Item 12")


def test_an_undo_that_is_not_kept_can_be_done_again(shown: Shown, server: FakeServer):
    at_once(shown, ("like", "Item 01"))
    shown.await_status("Liked Item 01")
    server.failures["feedback"] = [NOT_KEPT]
    shown.page.locator("#undo").click()
    alert = shown.page.get_by_role("alert")
    expect(alert).to_contain_text("Not kept: Undone: Liked Item 01.")
    assert shown.wishes() == ["Like: Item 01"]
    expect(shown.page.locator("#undo")).to_have_attribute("title", "Undo: Liked Item 01")
    alert.get_by_role("button", name="Try again").click()
    shown.await_status("Undone: Liked Item 01")
    assert (shown.wishes(), server.stored["ada"]["like"]) == ([], [])
    expect(shown.page.locator("#undo")).to_be_disabled()
    expect(alert).to_be_hidden()


def test_of_all_wishes_cleared_one_is_not_kept(shown: Shown, server: FakeServer):
    server.stored["ada"] = {"like": [{"item": 1}, {"item": 5}], "dislike": []}
    shown.page.reload()
    shown.cards.first.wait_for()
    kept = (201, {"id": 1, "user": "ada", "kind": "clear", "item": 1, "time": "2024-01-01T00:00:00Z"}, {})
    server.failures["feedback"] = [kept, NOT_KEPT]
    server.stored["ada"]["like"].pop(0)  # what `kept` stands for
    shown.page.get_by_role("button", name="Clear all").click()
    shown.await_status("Not kept: Cleared all wishes")
    assert shown.wishes() == ["Like: Item 05"]
    shown.page.keyboard.press("Control+z")  # what was kept of it can be undone
    shown.await_status("Undone: Cleared all wishes")
    assert sorted(shown.wishes()) == ["Like: Item 01", "Like: Item 05"]


def test_a_wish_that_is_not_kept_for_somebody_who_was_left(shown: Shown, server: FakeServer):
    """It says whose it was, touches nothing of the person whose list is shown, and can only be dismissed."""
    server.failures["feedback"] = [NOT_KEPT]
    shown.page.evaluate(
        """() => { document.querySelector("#list > .card [data-part=like]").click();
                   const person = document.getElementById("person");
                   person.value = "bob";
                   person.dispatchEvent(new Event("change", {bubbles: true})); }"""
    )
    shown.await_status("For bob")
    alert = shown.page.get_by_role("alert")
    expect(alert).to_contain_text("Not kept: Liked Item 12 (ada).")
    assert shown.wishes() == []
    expect(alert.get_by_role("button", name="Try again")).to_have_count(0)
    alert.get_by_role("button", name="Dismiss").click()
    expect(alert).to_be_hidden()


def test_a_server_that_is_gone_is_one_problem(shown: Shown, server: FakeServer):
    """Neither the wish nor the list is to be had: said once, and one button does both."""
    shown.page.route("**/feedback", lambda route: route.abort())
    shown.page.route("**/recommend", lambda route: route.abort())
    at_once(shown, ("like", "Item 12"))
    alert = shown.page.get_by_role("alert")
    expect(alert).to_have_text(
        "Not kept: Liked Item 12. The server cannot be reached. See whether it is still running.Try againDismiss"
    )
    shown.page.wait_for_timeout(100)
    shown.page.unroute("**/feedback")
    shown.page.unroute("**/recommend")
    alert.get_by_role("button", name="Try again").click()
    shown.await_status("Liked Item 12")
    assert server.stored["ada"]["like"] == [{"item": 12}]
    expect(alert).to_be_hidden()


def test_a_server_that_is_gone(shown: Shown):
    shown.page.route("**/recommend", lambda route: route.abort())
    shown.page.get_by_label("Leave out what is in the history").uncheck()
    expect(shown.page.get_by_role("alert")).to_contain_text("The server cannot be reached.")


def test_a_server_that_fails_at_the_start(page_of: Open, server: FakeServer):
    server.failures["model"] = [(500, {"detail": "The server failed on this request; its log says why."}, {})]
    shown = page_of().open()
    expect(shown.page.get_by_role("alert")).to_contain_text("its log says why")
    shown.page.get_by_role("button", name="Try again").click()
    shown.cards.first.wait_for()


def test_api_key(page_of: Open, server: FakeServer):
    server.key = "secret"
    shown = page_of(color_scheme="dark").open()  # a context of its own: the key is kept with it
    expect(shown.page.get_by_role("alert")).to_contain_text("This needs an API key.")
    shown.page.get_by_label("API key").fill("wrong")
    shown.page.get_by_role("button", name="Use this key").click()
    expect(shown.page.get_by_label("API key")).to_have_value("")  # asked for again
    shown.page.get_by_label("API key").fill("secret")
    shown.page.get_by_label("API key").press("Enter")
    shown.cards.first.wait_for()
    assert "secret" not in shown.page.url


def test_a_late_answer_is_dropped(shown: Shown, server: FakeServer):
    """The answer to the first request comes after that to the second, and changes nothing."""
    server.hold = True
    shown.card("Item 12").locator("[data-part=dislike]").click()
    shown.page.wait_for_function("() => document.getElementById('list').getAttribute('aria-busy') === 'true'")
    shown.page.keyboard.press("Control+z")
    while len(server.held) < 2:
        shown.page.wait_for_timeout(20)
    server.held[1]()
    shown.await_status("Undone: Disliked Item 12")
    names = shown.names()
    assert "Item 12" in names
    server.held[0]()
    shown.page.wait_for_timeout(200)
    assert shown.names() == names
    assert shown.status().startswith("Undone")
    expect(shown.page.locator("#list")).to_have_attribute("aria-busy", "false")


def test_a_name_cannot_be_markup(page_of: Open, server: FakeServer):
    """Cards, bars, chips, history, choice of people, search and the line for screen readers: text everywhere."""
    server.names = dict.fromkeys(server.names, HOSTILE)
    server.people[HOSTILE] = [1]
    shown = page_of().ready()
    shown.cards.first.locator(".why").click()
    shown.cards.first.locator("[data-part=like]").click()
    shown.await_status("Liked")
    shown.page.get_by_role("button", name="Show before").click()
    shown.page.get_by_role("radio", name="My own history").check()
    shown.page.get_by_role("combobox", name="Search").fill("img")
    shown.page.locator("#found [role=option]").first.click()
    shown.await_status("Added")
    assert shown.names()[0] == HOSTILE
    assert shown.page.locator("#history .title").first.inner_text() == HOSTILE
    assert HOSTILE in shown.status()
    assert shown.page.locator("b, img[src=x]").count() == 0
    assert shown.page.evaluate("window.pwned") is None


def test_nothing_comes_from_elsewhere(page_of: Open, server: FakeServer):
    shown, asked = page_of(), []
    shown.page.on("request", lambda request: asked.append(request.url))
    shown.ready()
    assert len(asked) > len(list(STATIC.glob("*.js")))
    assert [url for url in asked if not url.startswith(ADDRESS)] == []


def test_the_policy_that_the_tests_run_under_is_in_force(shown: Shown):
    """Inline script and style, and evaluation: all refused, so that a page that needed them would fail here."""
    found = shown.page.evaluate(
        """async () => {
             const refused = [];
             document.addEventListener("securitypolicyviolation", e => refused.push(e.effectiveDirective));
             const script = document.createElement("script");
             try { script.text = "window.ran = 1"; document.body.append(script); } catch { refused.push("trusted"); }
             document.body.setAttribute("style", "color: red");
             await new Promise(resolve => setTimeout(resolve, 50));
             return [refused.length >= 2, window.ran ?? null]; }"""
    )
    assert found == [True, None]
    shown.faults.clear()  # these are the violations


def test_parts_of_the_page_are_what_they_say(shown: Shown):
    """The pure modules by themselves, in the browser that will run them."""
    found = shown.page.evaluate(
        """async () => {
             const wishes = await import("./static/wishes.js");
             const compare = await import("./static/compare.js");
             const like = {kind: "like", item: 7};
             const before = [{item_id: 1, rank: 1}, {item_id: "1", rank: 2}, {item_id: 3, rank: 3}];
             const now = [{item_id: "1", rank: 1}, {item_id: 1, rank: 2}, {item_id: 4, rank: 3}];
             const moved = compare.movesBetween(before, now);
             const part = (source, item_id, name, category) => ({source, item_id, name, category, amount: 1});
             const parts = [part("history", null, null, null), part("history", 7, "Seven", "Red"), part("base"),
                            part("like", null, null, "Red"), part("dislike", 8, null, null)];
             return {
               other: wishes.keyOf({item: 7}) !== wishes.keyOf({item: "7"}),
               apart: wishes.keyOf({category: "7"}) !== wishes.keyOf({item: "7"}),
               told: [{item: 7, from: "like", to: "dislike"}, {category: "Red", from: "like", to: null},
                      {item: 7, from: "unseen", to: "seen"}].map(wishes.asFeedback),
               after: wishes.turned({wishes: [like], seen: [1, 2]}, [{category: "Red", from: null, to: "dislike"},
                                    {item: 7, from: "like", to: null}, {item: 1, from: "seen", to: "unseen"}]),
               alike: [{item: 7, to: "like"}, {item: 7, to: null}, {item: 7, to: "seen"}, {item: "7", to: "like"}]
                 .map(turn => wishes.sameThing({item: 7, to: "dislike"}, turn)),
               moves: [...moved.moves.values()],
               left: moved.left.map(item => item.item_id),
               signed: [0.25, -0.25, 0, -1e-9].map(amount => compare.signed(amount, {low: -0.5, high: 0.5})),
               labels: compare.rows(parts).map(row => row.label),
               coarse: compare.plain(-12.345, {low: -20, high: 10}),
             }; }"""
    )
    assert found == {
        "other": True,
        "apart": True,
        "told": [{"item": 7, "kind": "dislike"}, {"category": "Red", "kind": "clear"}, {"item": 7, "kind": "seen"}],
        "after": {"wishes": [{"kind": "dislike", "category": "Red"}], "seen": [2]},
        "alike": [True, True, False, False],
        "moves": [1, -1, None],
        "left": [3],
        "signed": ["+0.250", "−0.250", "0.000", "0.000"],
        "labels": ["In general", "The history as a whole", "Seven", "Like: Red", "Dislike: 8"],
        "coarse": "−12.35",
    }
