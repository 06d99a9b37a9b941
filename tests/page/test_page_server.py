"""The page over the server itself: `guiderec serve` on a small trained model, a database and real answers."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from page_reader import PATIENCE, WIDE, Shown
from playwright.sync_api import Browser, Response, expect

from guiderec.cli.main import main
from guiderec.data import prepared, synthetic

pytestmark = pytest.mark.slow  # trains a model and starts a server

RECIPE = "guided_sasrec:demo"
SMALL = ["--set", "model.dim=16", "--set", "training.epochs=2"]
START = "from guiderec.cli.main import main; raise SystemExit(main())"


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server in a process of its own, over 200 synthetic items and their users."""
    folder = tmp_path_factory.mktemp("page")
    prepared.save(synthetic.make(n_items=200, n_users=200, mean_length=6).dataset, folder / "data")
    assert main(["train", RECIPE, "--data", str(folder / "data"), "--out", str(folder / "run"), "--json", *SMALL]) == 0
    arguments = ["serve", "run", "--data", "data", "--port", "0", "--database", "sqlite:///feedback.sqlite"]
    environment = {name: value for name, value in os.environ.items() if name != "GUIDEREC_API_KEY"}
    with subprocess.Popen(
        [sys.executable, "-c", START, *arguments], cwd=folder, env=environment, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            said = process.stdout.readline()
            found = re.search(r"http://\S+?/(?=;)", said)
            assert found, said
            yield found[0]
        finally:
            process.terminate()


@pytest.fixture
def served(browser: Browser, address: str) -> Iterator[Shown]:
    """The page of the first person, as the server sends it."""
    context = browser.new_context(viewport=WIDE, reduced_motion="reduce")
    shown = Shown(context.new_page()).ready(address)
    yield shown
    assert shown.faults == []  # its content security policy included
    context.close()


def answer_to(shown: Shown, act: Callable[[], None]) -> dict[str, Any]:
    """The reply of POST /recommend that an act leads to, once it is shown."""

    def wanted(response: Response) -> bool:
        return response.url.endswith("/recommend")

    with shown.page.expect_response(wanted, timeout=PATIENCE) as caught:
        act()
    reply: dict[str, Any] = caught.value.json()
    expect(shown.page.locator("#list > .card .name")).to_have_text([item["name"] for item in reply["items"]])
    return reply


def stored(address: str, user: str) -> dict[str, Any]:
    with urllib.request.urlopen(f"{address}feedback?user={user}") as response:
        found: dict[str, Any] = json.load(response)
    return found


def test_wishes_reach_the_database_and_act_on_the_next_request(served: Shown, address: str):
    assert served.page.locator("#model").inner_text() == "guided_sasrec over 200 items"
    first = served.names()
    assert len(first) == 10
    user = served.page.locator("#person").input_value()

    reply = answer_to(served, served.cards.nth(1).locator("[data-part=dislike]").click)
    assert reply["honoured"]["dislikes"] == "steered"
    (disliked,) = reply["wishes"]["dislikes"]
    assert stored(address, user)["dislikes"] == [disliked]
    assert first[1] not in served.names()
    assert served.wishes() == [f"Dislike: {first[1]}"]
    expect(served.page.locator("#honoured")).to_contain_text("pushed away from what you dislike")

    served.cards.nth(2).focus()
    category = reply["items"][2]["category"]
    reply = answer_to(served, lambda: served.page.keyboard.press("Shift+L"))
    assert reply["honoured"]["likes"] == "steered"
    assert stored(address, user)["likes"] == [{"category": category}]

    served.ready(address)  # the wishes are still there
    assert len(served.wishes()) == 2
    reply = answer_to(served, served.page.get_by_role("button", name="Clear all").click)
    assert served.names() == first
    assert stored(address, user)["dislikes"] == []


def test_bars_are_the_contributions_of_the_model(served: Shown):
    reply = answer_to(served, served.cards.nth(0).locator("[data-part=like]").click)
    item = reply["items"][0]
    assert sum(part["amount"] for part in item["contributions"]) == pytest.approx(item["score"], abs=1e-3)
    served.cards.first.locator(".why").click()
    labels = served.cards.first.locator(".label").all_inner_texts()
    assert any(label.startswith("Like: ") for label in labels)
    amounts = [float(text.replace("−", "-")) for text in served.cards.first.locator(".amount").all_inner_texts()]
    assert sum(amounts[:-1]) == pytest.approx(amounts[-1], abs=0.06)  # each is rounded
    answer_to(served, served.page.get_by_role("button", name="Undo").click)


def test_strength_and_comparison(served: Shown):
    plain = served.names()
    answer_to(served, served.cards.nth(0).locator("[data-part=dislike]").click)
    reply = answer_to(served, lambda: served.page.get_by_role("slider").fill("0"))
    assert reply["guidance_scale"] == 0
    expect(served.page.locator("#honoured")).to_contain_text("Strength 0.")
    assert served.names()[:9] == plain[1:]  # unsteered: the disliked item is gone, and nothing else
    served.page.get_by_role("button", name="Show before").click()
    served.page.get_by_role("radio", name="no wishes").check()
    expect(served.page.locator("#before-list .title")).to_have_text(plain)
    answer_to(served, served.page.get_by_role("button", name="Clear all").click)


def test_own_history_by_search(served: Shown):
    served.page.get_by_role("radio", name="My own history").check()
    box = served.page.get_by_role("combobox", name="Search")
    box.fill("no. 1")
    option = served.page.locator("#found [role=option]").first
    name = option.locator("span").first.inner_text()
    reply = answer_to(served, option.click)
    assert [item["name"] for item in reply["history"]] == [name]
    assert reply["user"] is None


def test_what_the_server_refuses_is_said(served: Shown, address: str):
    assert Path(served.page.url).name.startswith("?user=")
    served.page.route(
        "**/recommend", lambda route: route.continue_(post_data=json.dumps({"history": ["nobody knows this"]}))
    )
    served.page.get_by_label("Leave out what is in the history").uncheck()
    expect(served.page.get_by_role("alert")).to_contain_text("'nobody knows this' is not in the catalogue of 200 items")
