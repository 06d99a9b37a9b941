"""The HTTP interface of the server, ranking by a law that can be computed by hand. Answers in the browser's network.

Forty items, item j in category ("Red", "Green", "Blue", "Grey")[j % 4]. With strength w, the score of j is the sum of

    base      -j / 100
    history   +0.2 for each item of the history in its category
    like      +0.5 w for each liked item or category of its category
    dislike   -0.5 w for each disliked item or category of its category

Disliked items are left out. All that acted comes back as contributions, and all requests are kept.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from playwright.sync_api import Route

import guiderec

STATIC = Path(guiderec.__file__).parent / "serving" / "static"
ADDRESS = "http://guiderec.test/"
STRICT = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
)
TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
CATEGORIES = ("Red", "Green", "Blue", "Grey")
HOSTILE = "<img src=x onerror=\"window.pwned='name'\"><b>&amp; bold"
N_ITEMS = 40

Plain = dict[str, Any]


def category_of(j: int) -> str:
    return CATEGORIES[j % 4]


@dataclass
class FakeServer:
    """Answers every request of one page. Change the fields to change what it says."""

    names: dict[int, str] = field(default_factory=lambda: {j: f"Item {j:02d}" for j in range(1, N_ITEMS + 1)})
    people: dict[str, list[int]] = field(default_factory=lambda: {"ada": [4, 8], "bob": [1, 2, 3, 5, 6, 7]})
    steers: bool = True
    explains: bool = True
    scale: float | None = 1.0
    base: float = 0.01
    """What the base takes from an item for each place of its number."""
    first: int = 50
    """People that are listed without a search, at most."""
    seen: dict[str, list[int]] = field(default_factory=dict)
    stored: dict[str, dict[str, list[Plain]]] = field(default_factory=dict)
    key: str | None = None
    failures: dict[str, list[tuple[int, Plain, dict[str, str]]]] = field(default_factory=dict)
    """Path -> (status, body, headers) of the next answers."""
    hold: bool = False
    """True: recommendations wait in `held` until they are released."""
    held: list[Callable[[], None]] = field(default_factory=list)
    asked: list[tuple[str, Plain]] = field(default_factory=list)
    """(path, body or query) of all requests, in order."""

    def wanted(self, path: str = "recommend") -> list[Plain]:
        """Bodies of the requests to `path`."""
        return [body for asked, body in self.asked if asked == path]

    def answer(self, route: Route) -> None:
        """Fulfils one request of the browser."""
        url = urlsplit(route.request.url)
        if not route.request.url.startswith(ADDRESS):
            route.abort()
            return
        path = url.path.lstrip("/")
        if path in ("", *(f"static/{file.name}" for file in STATIC.iterdir())):
            self._file(route, "index.html" if path == "" else path.removeprefix("static/"))
            return
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        body = route.request.post_data_json if route.request.method == "POST" else query
        self.asked.append((path, body))
        status, reply, headers = self._reply(path, body, route.request.headers)
        act = lambda: route.fulfill(  # noqa: E731
            status=status, body=json.dumps(reply), headers={"Content-Type": "application/json", **headers}
        )
        if self.hold and path == "recommend":
            self.held.append(act)
        else:
            act()

    def _file(self, route: Route, name: str) -> None:
        content = (STATIC / name).read_bytes()
        kind = TYPES[Path(name).suffix]
        route.fulfill(body=content, headers={"Content-Type": kind, "Content-Security-Policy": STRICT})

    def _reply(self, path: str, body: Plain, headers: dict[str, str]) -> tuple[int, Plain, dict[str, str]]:
        if self.key is not None and headers.get("x-api-key") != self.key:
            return 401, {"detail": "This needs an API key.", "hint": "send it as X-API-Key"}, {}
        if self.failures.get(path):
            return self.failures[path].pop(0)
        if path == "feedback":
            self._store(body)
            return 201, {"id": len(self.asked), **body, "time": "2024-01-01T00:00:00Z"}, {}
        return 200, getattr(self, f"_{path}")(body), {}

    # ------------------------------------------------------------------------------------------------------ the replies

    def item(self, j: int) -> Plain:
        return {"item_id": j, "name": self.names[j], "category": category_of(j)}

    def _label(self) -> Plain:
        return {"name": "fake", "steers": self.steers, "explains": self.explains, "version": "1"}

    def _model(self, _: Plain) -> Plain:
        likes, dislikes = ("steered", "steered") if self.steers else ("history", "filtered")
        honours = {"likes": likes, "dislikes": dislikes}
        flags = {"has_people": bool(self.people), "has_categories": True}
        return {**self._label(), "n_items": N_ITEMS, "default_guidance_scale": self.scale, "honours": honours, **flags}

    def _people(self, query: Plain) -> Plain:
        found = [
            {"user": user, "length": len(items), "preview": [self.names[j] for j in reversed(items[-3:])]}
            for user, items in self.people.items()
            if query.get("search", "").lower() in user.lower()
        ]
        return {"people": found[: min(self.first, int(query["limit"]))], "total": len(found)}

    def _categories(self, _: Plain) -> Plain:
        return {"categories": [{"name": name, "n_items": N_ITEMS // 4} for name in CATEGORIES]}

    def _items(self, query: Plain) -> Plain:
        text = query["search"].lower()
        found = [self.item(j) for j, name in self.names.items() if text in f"{name} {category_of(j)}".lower()]
        return {"items": found[: int(query["limit"])]}

    def _store(self, body: Plain) -> None:
        if body["kind"] in ("seen", "unseen"):
            others = [j for j in self.seen.get(body["user"], []) if body["kind"] == "seen" or j != body["item"]]
            self.seen[body["user"]] = [*others, body["item"]] if body["kind"] == "seen" else others
            return
        target = {name: body[name] for name in ("item", "category") if name in body}
        kept = self.stored.setdefault(body["user"], {"like": [], "dislike": []})
        for kind, targets in kept.items():
            kept[kind] = [one for one in targets if one != target] + ([target] if kind == body["kind"] else [])

    def _recommend(self, body: Plain) -> Plain:
        user = body.get("user")
        kept = self.stored.get(user, {"like": [], "dislike": []})
        wishes: dict[str, list[Plain]] = {
            "likes": [*kept["like"], *body.get("likes", [])],
            "dislikes": [*kept["dislike"], *body.get("dislikes", [])],
        }
        history = body["history"] if body.get("history") is not None else [*self.people[user], *self.seen.get(user, [])]
        given = body.get("guidance_scale")
        scale = self.scale if given is None else given
        items = self.ranked(history, wishes, 0.0 if scale is None else scale, body)
        honours = {"likes": None, "dislikes": "filtered"} if scale == 0 else self._model({})["honours"]
        return {
            "user": user,
            "history": [self.item(j) for j in history],
            "items": items,
            "honoured": {kind: honours[kind] if wishes[kind] else None for kind in ("likes", "dislikes")},
            "wishes": {
                **wishes,
                "items": [self.item(w["item"]) for said in wishes.values() for w in said if "item" in w],
            },
            "guidance_scale": scale,
            "model": self._label(),
        }

    def ranked(self, history: list[int], wishes: dict[str, list[Plain]], scale: float, body: Plain) -> list[Plain]:
        """The list by the law of the file's head."""
        out = {wish["item"] for wish in wishes["dislikes"] if "item" in wish}
        out |= set(history) if body.get("exclude_seen") else set()
        scored = [(self._contributions(j, history, wishes, scale), j) for j in self.names if j not in out]
        scored.sort(key=lambda one: (-sum(part["amount"] for part in one[0]), one[1]))
        return [
            {
                **self.item(j),
                "rank": rank,
                "score": sum(part["amount"] for part in parts),
                "contributions": parts if body.get("explain") else None,
            }
            for rank, (parts, j) in enumerate(scored[: body["k"]], start=1)
        ]

    def _contributions(self, j: int, history: list[int], wishes: dict[str, list[Plain]], scale: float) -> list[Plain]:
        def part(source: str, target: Plain, amount: float) -> Plain:
            item = target.get("item")
            name = None if item is None else self.names[item]
            return {
                "source": source,
                "item_id": item,
                "name": name,
                "category": target.get("category"),
                "amount": amount,
            }

        def alike(target: Plain) -> bool:
            return category_of(j) == (target["category"] if "category" in target else category_of(target["item"]))

        parts = [part("base", {}, -j * self.base)]
        parts += [part("history", {"item": h}, 0.2 * alike({"item": h})) for h in history]
        if self.steers:
            parts += [part("like", target, 0.5 * scale * alike(target)) for target in wishes["likes"]]
            parts += [part("dislike", target, -0.5 * scale * alike(target)) for target in wishes["dislikes"]]
        return parts
