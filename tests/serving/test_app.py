"""The HTTP interface in process: statuses, sentences, limits, the key, headers, metrics."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient

from guiderec.errors import ScoreError
from guiderec.serving.app import MAX_BODY, create_app
from guiderec.serving.batching import QueueFull
from guiderec.serving.metrics import Metrics
from guiderec.serving.schema import MAX_HISTORY, MAX_LISTED_WISHES
from guiderec.serving.service import Service

from .conftest import running_service


def test_from_a_dislike_to_another_list_and_back(client: TestClient):
    """The contract in one visit."""
    before = client.post("/recommend", json={"user": "0", "k": 3}).json()
    top = before["items"][0]
    assert set(top) == {"item_id", "name", "category", "rank", "score", "contributions"}
    assert before["history"][0] == {"item_id": "i01", "name": "Thing 1", "category": "Jazz"}
    assert before["honoured"] == {"likes": None, "dislikes": None}
    assert before["model"]["name"] == "steerrec"

    said = client.post("/feedback", json={"user": "0", "kind": "dislike", "item": top["item_id"]})
    assert said.status_code == 201
    assert set(said.json()) == {"id", "user", "kind", "item", "time"}
    after = client.post("/recommend", json={"user": "0", "k": 3, "explain": True}).json()
    assert top["item_id"] not in [item["item_id"] for item in after["items"]]
    assert after["honoured"]["dislikes"] == "steered"
    named = {name: top[name] for name in ("item_id", "name", "category")}
    assert after["wishes"] == {"likes": [], "dislikes": [{"item": top["item_id"]}], "items": [named]}
    assert set(after["items"][0]["contributions"][0]) == {"source", "item_id", "name", "category", "amount"}
    stored = client.get("/feedback", params={"user": "0"}).json()
    assert stored == {"user": "0", "likes": [], "dislikes": [{"item": top["item_id"]}], "seen": []}

    client.post("/feedback", json={"user": "0", "kind": "clear", "item": top["item_id"]})
    again = client.post("/recommend", json={"user": "0", "k": 3}).json()
    assert again["items"] == before["items"]


def test_what_the_catalogue_and_the_model_are(client: TestClient):
    assert client.get("/items", params={"search": "thing 30"}).json()["items"][0]["item_id"] == "i30"
    assert client.get("/categories").json()["categories"][0] == {"name": "Jazz", "n_items": 20}
    assert client.get("/people", params={"limit": 1}).json()["people"][0]["user"] == "0"
    model = client.get("/model").json()
    assert (model["has_people"], model["has_categories"], model["n_items"]) == (True, True, 30)
    assert client.get("/health").json() == {"status": "ok"}
    assert client.get("/ready").json() == {"status": "ready"}


@pytest.fixture(scope="module")
def still(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """A client for requests that change nothing."""
    database = f"sqlite:///{tmp_path_factory.mktemp('still') / 'f.sqlite'}"
    with running_service(models / "first", database) as service, TestClient(create_app(service)) as client:
        yield client


BAD: list[tuple[Any, str]] = [
    ({}, "Give 'user', 'history' or both."),
    ({"user": "a", "histroy": []}, "'histroy' is not a field. Did you mean 'history'?"),
    ({"user": 7}, "'user' = 7: expected text."),
    ({"user": ""}, "'user' = \"\": string should have at least 1 character."),
    ({"user": "a\u0000b"}, "'user' = \"a\\u0000b\": text may not have control characters, such as line breaks."),
    ({"user": "a" * 257}, "string should have at most 256 characters."),
    ({"history": ["i01"] * (MAX_HISTORY + 1)}, "a list may have 1000 entries at most, and this one has 1001."),
    ({"history": [1.5]}, "'history.0' = 1.5: an item id is text or a whole number."),
    ({"history": [True]}, "'history.0' = true: an item id is text or a whole number."),
    ({"history": ["i01", "nowhere"]}, "Item 'nowhere' is not in the catalogue of 30 items."),
    ({"history": [10**30]}, "less than 9223372036854775808"),
    ({"history": [], "likes": [{"item": "i01"}] * (MAX_LISTED_WISHES + 1)}, "a list may have 100 entries at most"),
    ({"history": "i01"}, "'history' = \"i01\": expected a list."),
    ({"history": [], "dislikes": {"item": None}}, "'dislikes' = {\"item\": null}: expected a list."),
    ({"history": [], "likes": [{}]}, 'a wish is {"item": id} or {"category": name}, one of the two.'),
    ({"history": [], "likes": [{"item": "i01", "category": "Tea"}]}, "one of the two."),
    ({"history": [], "dislikes": ["i01"]}, "one of the two."),
    ({"history": [], "dislikes": [{"category": "tea"}]}, "Category 'tea' is not one of the 2 of the catalogue. Did"),
    ({"history": [], "k": 0}, "'k' = 0: input should be greater than or equal to 1."),
    ({"history": [], "k": 1001}, "less than or equal to 1000."),
    ({"history": [], "k": "5"}, "'k' = \"5\": expected a whole number."),
    ({"history": [], "k": 31}, "k = 31, but the catalogue has 30 items."),
    ({"history": [], "guidance_scale": -1}, "'guidance_scale' = -1: input should be greater than or equal to 0."),
    ({"history": [], "guidance_scale": 1e300}, "less than or equal to 1000."),
    ({"history": [], "explain": "yes"}, "'explain' = \"yes\": expected true or false."),
    ([], "The body must be a JSON object"),
    (None, "The request has no body; send a JSON object."),
]


@pytest.mark.parametrize(("body", "sentence"), BAD)
def test_a_bad_request_is_told_what_was_wrong(still: TestClient, body: Any, sentence: str):
    reply = still.post("/recommend", json=body)
    assert reply.status_code == 422
    assert sentence in reply.json()["detail"]
    assert "\n" not in reply.json()["detail"]


@pytest.mark.parametrize(
    ("text", "status", "sentence"),
    [
        ("", 422, "The request has no body; send a JSON object."),
        ("{", 422, "The body is not valid JSON"),
        ('{"user": "\\ud800"}', 422, "'user' = \"\\ud800\": expected text that is valid Unicode"),
        ('{"history": ["\\ud800"]}', 422, "'history.0' = \"\\ud800\": expected text that is valid Unicode"),
        ('{"history": [], "guidance_scale": NaN}', 422, "'guidance_scale' = NaN: input should be a finite number."),
        ('{"history": ' + "[" * 100_000, 400, "There was an error parsing the body"),
        ('{"history": [' + "9" * 5000 + "]}", 400, "There was an error parsing the body"),
        ("\xff", 400, "There was an error parsing the body"),
    ],
)
def test_bytes_that_are_no_request(still: TestClient, text: str, status: int, sentence: str):
    reply = still.post("/recommend", content=text.encode("latin-1"), headers={"content-type": "application/json"})
    assert reply.status_code == status
    assert sentence in reply.json()["detail"]


def test_all_problems_are_told_at_once(still: TestClient):
    reply = still.post("/recommend", json={"user": "a", "k": 0, "explain": 1, **{f"x{n}": 0 for n in range(9)}})
    detail = reply.json()["detail"]
    assert "'k' = 0" in detail
    assert "'explain' = 1" in detail
    assert detail.endswith("And 6 more problems.")


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ({"user": "a", "kind": "like"}, "Give one of 'item' and 'category'."),
        ({"user": "a", "kind": "like", "item": "i01", "category": "Tea"}, "Give one of 'item' and 'category'."),
        ({"user": "a", "kind": "seen", "category": "Tea"}, "'seen' is said of an item, not of a category."),
        ({"user": "a", "kind": "love", "item": "i01"}, "'kind' = \"love\": input should be 'like', 'dislike', 'clear'"),
        ({"kind": "like", "item": "i01"}, "'user' is missing."),
        ({"user": "a", "kind": "like", "item": "i99"}, "Item 'i99' is not in the catalogue of 30 items."),
    ],
)
def test_bad_feedback_is_told_and_not_stored(still: TestClient, body: dict[str, Any], sentence: str):
    reply = still.post("/feedback", json=body)
    assert (reply.status_code, sentence in reply.json()["detail"]) == (422, True), reply.json()
    assert still.get("/feedback", params={"user": "a"}).json()["likes"] == []


@pytest.mark.parametrize(
    ("method", "path", "status", "sentence"),
    [
        ("GET", "/nothing", 404, "There is no /nothing."),
        ("GET", "/static/../app.py", 404, "There is no /app.py."),
        ("GET", "/static/%2e%2e/app.py", 404, "There is no"),
        ("DELETE", "/recommend", 405, "/recommend takes no DELETE."),
        ("GET", "/feedback", 422, "'user' is missing."),
        ("GET", "/items?limit=0", 422, "'limit' = \"0\": input should be greater than or equal to 1."),
        ("GET", "/people?limit=x", 422, "'limit' = \"x\": expected a whole number."),
        ("GET", f"/items?search={'a' * 257}", 422, "at most 256 characters"),
    ],
)
def test_wrong_addresses(still: TestClient, method: str, path: str, status: int, sentence: str):
    reply = still.request(method, path)
    assert reply.status_code == status
    assert sentence in reply.json()["detail"]


def test_large_bodies_are_refused_however_they_are_sent(still: TestClient):
    whole = still.post("/recommend", content=b" " * (MAX_BODY + 1), headers={"content-type": "application/json"})
    assert (whole.status_code, whole.json()["detail"]) == (413, "The body has more than 256 KiB.")

    def pieces() -> Iterator[bytes]:
        for _ in range(40):
            yield b" " * 10_000

    chunked = still.post("/recommend", content=pieces(), headers={"content-type": "application/json"})
    assert chunked.status_code == 413
    assert still.post("/recommend", json={"history": []}).status_code == 200


def test_browsers_ask_again_for_every_file_of_the_page(client: TestClient) -> None:
    """And are told that it has not changed, so that after an upgrade old and new files never meet."""
    for path in ("/", "/static/app.js"):
        first = client.get(path)
        assert first.headers["cache-control"] == "no-cache"
        again = client.get(path, headers={"if-none-match": first.headers["etag"]})
        assert again.status_code == (304 if path != "/" else 200)
        assert again.headers["cache-control"] == "no-cache"


def test_every_answer_forbids_what_is_from_elsewhere(still: TestClient):
    for path in ("/", "/docs", "/health", "/nothing", "/static/app.js"):
        headers = still.get(path).headers
        policy = headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src 'self';")
        assert "unsafe" not in policy
        assert "http" not in policy
        assert headers["x-content-type-options"] == "nosniff"
    for path in ("/", "/docs"):
        page = still.get(path)
        assert page.headers["content-type"].startswith("text/html")
        assert "://" not in page.text.replace("http://www.w3.org/2000/svg", "")


def test_reference_shows_all_routes_types_and_examples(still: TestClient):
    page = still.get("/docs").text
    routes = still.get("/openapi.json").json()["paths"]
    for path in routes:
        assert f"{path}</code>" in page
    assert "Item 18000 is not in" in page or "&quot;dislikes&quot;" in page
    assert 'id="type-RecommendRequest"' in page
    assert "<script" not in page


# ------------------------------------------------------------------------------------------------------------- the key


@pytest.fixture(scope="module")
def keyed(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    database = f"sqlite:///{tmp_path_factory.mktemp('keyed') / 'f.sqlite'}"
    with (
        running_service(models / "first", database, models=models) as service,
        TestClient(create_app(service, api_key="sésame")) as client,
    ):
        yield client


KEY = {"X-API-Key": "sésame".encode()}
GUARDED = [
    *(("GET", path) for path in ("/model", "/items", "/categories", "/people", "/feedback?user=a")),
    *(("POST", path) for path in ("/recommend", "/feedback", "/model")),
]


@pytest.mark.parametrize(("method", "path"), GUARDED)
@pytest.mark.parametrize("key", [None, "", "sesame", "sésame ", "ü"])
def test_without_the_key_there_is_nothing(keyed: TestClient, method: str, path: str, key: str | None):
    headers = {} if key is None else {"X-API-Key": key.encode()}
    reply = keyed.request(method, path, headers=headers, json={} if method == "POST" else None)
    assert reply.status_code == 401
    assert reply.json()["detail"] == "This server needs its API key in the header X-API-Key."


def test_with_the_key_there_is_everything_and_some_things_are_open(keyed: TestClient, models: Path):
    assert keyed.post("/recommend", json={"history": []}, headers=KEY).status_code == 200
    for path in ("/", "/docs", "/health", "/ready", "/metrics", "/openapi.json", "/static/app.js"):
        assert keyed.get(path).status_code == 200
    swapped = keyed.post("/model", json={"path": "second"}, headers=KEY)
    assert (swapped.status_code, swapped.json()["name"]) == (200, "steerrec")
    assert 'guiderec_model{name="steerrec",version="' + swapped.json()["version"] in keyed.get("/metrics").text
    outside = keyed.post("/model", json={"path": "../.."}, headers=KEY)
    assert outside.status_code == 422
    assert "lies outside" in outside.json()["detail"]


def test_models_are_not_swapped_without_a_key(still: TestClient):
    reply = still.post("/model", json={"path": "second"})
    assert reply.status_code == 403
    assert "GUIDEREC_API_KEY" in reply.json()["detail"]


# ----------------------------------------------------------------------------------------------------- load and metrics


def held(service: Service, monkeypatch: pytest.MonkeyPatch) -> tuple[threading.Event, threading.Event, list[int]]:
    """The model waits for the second event; the first says that it was asked; rows of every call."""
    entered, go, rows = threading.Event(), threading.Event(), []
    real: Callable[..., Any] = service._served.model.recommend

    def recommend(histories: Any, **options: Any) -> Any:
        rows.append(len(histories))
        entered.set()
        assert go.wait(timeout=30)
        return real(histories, **options)

    monkeypatch.setattr(service._served.model, "recommend", recommend)
    return entered, go, rows


def in_process(service: Service, metrics: Metrics) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(create_app(service, metrics=metrics))
    return httpx.AsyncClient(transport=transport, base_url="http://test")


def test_a_full_queue_sheds_load_and_recovers(models: Path, database: str, monkeypatch: pytest.MonkeyPatch):
    metrics = Metrics()

    async def storm(service: Service) -> None:
        entered, go, _ = held(service, monkeypatch)
        async with in_process(service, metrics) as client:
            first = asyncio.create_task(client.post("/recommend", json={"history": []}))
            await asyncio.to_thread(entered.wait, 10)
            waiting = [asyncio.create_task(client.post("/recommend", json={"history": []})) for _ in range(3)]
            while service.waiting < 3:
                await asyncio.sleep(0.01)
            refused = await client.post("/recommend", json={"history": []})
            assert refused.status_code == 503
            assert int(refused.headers["retry-after"]) >= 1
            assert refused.json()["detail"] == "3 requests are waiting already."
            assert (await client.get("/health")).status_code == 200
            go.set()
            replies = await asyncio.gather(first, *waiting)
            assert [reply.status_code for reply in replies] == [200] * 4
            assert (await client.post("/recommend", json={"history": []})).status_code == 200

    with running_service(models / "first", database, max_queue=3, watch=metrics) as service:
        asyncio.run(storm(service))
    text = metrics.text().decode()
    assert "guiderec_shed_total 1.0" in text
    assert 'guiderec_requests_total{method="POST",route="/recommend",status="200"} 5.0' in text
    assert 'guiderec_requests_total{method="POST",route="/recommend",status="503"} 1.0' in text
    assert "guiderec_batch_requests_sum 5.0" in text
    assert "guiderec_model_seconds_count 3.0" in text


def test_a_client_that_goes_away_costs_nothing(service: Service, monkeypatch: pytest.MonkeyPatch):
    """Its request leaves the queue, and the model never sees it."""
    metrics = Metrics()
    app = create_app(service, metrics=metrics)

    async def leave(body: bytes, gone: asyncio.Event) -> list[dict[str, Any]]:
        scope = {"type": "http", "method": "POST", "path": "/recommend", "raw_path": b"/recommend", "query_string": b"",
                 "headers": [(b"content-type", b"application/json")], "http_version": "1.1", "scheme": "http",
                 "root_path": "", "server": ("test", 80), "client": ("test", 1)}  # fmt: skip
        messages = [{"type": "http.request", "body": body, "more_body": False}]
        sent: list[dict[str, Any]] = []

        async def receive() -> dict[str, Any]:
            if messages:
                return messages.pop()
            await gone.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            sent.append(message)

        await app(scope, receive, send)
        return sent

    async def visit() -> None:
        entered, go, rows = held(service, monkeypatch)
        stays, goes = asyncio.Event(), asyncio.Event()
        first = asyncio.create_task(leave(b'{"history": [], "k": 1}', stays))
        await asyncio.to_thread(entered.wait, 10)
        leaving = [asyncio.create_task(leave(b'{"history": [], "k": 2}', goes)) for _ in range(5)]
        staying = asyncio.create_task(leave(b'{"history": [], "k": 3}', stays))
        while service.waiting < 6:
            await asyncio.sleep(0.01)
        goes.set()
        await asyncio.gather(*leaving)
        assert service.waiting == 1
        go.set()
        sent = await asyncio.gather(first, staying)
        assert [messages[0]["status"] for messages in sent] == [200, 200]
        assert rows == [1, 1]

    asyncio.run(visit())
    assert "guiderec_abandoned_total 5.0" in metrics.text().decode()


def test_readiness_follows_the_database(client: TestClient, service: Service, monkeypatch: pytest.MonkeyPatch):
    from guiderec.errors import ServingError

    def silent() -> None:
        raise ServingError("The feedback database does not answer: gone.")

    monkeypatch.setattr(service.feedback, "check", silent)
    reply = client.get("/ready")
    assert (reply.status_code, reply.headers["retry-after"]) == (503, "1")
    assert client.get("/health").status_code == 200


def test_feedback_that_cannot_be_stored_is_not_acknowledged(client: TestClient, service: Service):
    with service.feedback._engine.begin() as connection:
        connection.exec_driver_sql("DROP TABLE guiderec_feedback")
    reply = client.post("/feedback", json={"user": "a", "kind": "like", "item": "i01"})
    assert reply.status_code == 503
    assert "did not take the feedback" in reply.json()["detail"]


def test_faults_of_ours_are_a_500_without_a_traceback(service: Service, monkeypatch: pytest.MonkeyPatch):
    def broken(*_: Any, **__: Any) -> Any:
        raise ScoreError("Row 0 scores item 3 with nan.")

    with TestClient(create_app(service), raise_server_exceptions=False) as client:
        monkeypatch.setattr(service._served.model, "recommend", broken)
        reply = client.post("/recommend", json={"history": []})
        assert (reply.status_code, reply.json()["detail"]) == (500, "Row 0 scores item 3 with nan.")
        monkeypatch.setattr(service, "categories", lambda: 1 / 0)
        reply = client.get("/categories")
        assert reply.status_code == 500
        assert reply.json()["detail"] == "The server failed on this request; its log says why."


def test_queue_full_names_the_wait():
    error = QueueFull(7, 3)
    assert (error.retry_after, str(error)) == (3, "7 requests are waiting already. Hint: try again in 3 s")


def test_seconds_are_counted_by_route(client: TestClient):
    begun = time.perf_counter()
    client.get("/model")
    client.get("/unheard-of/17")
    spent = time.perf_counter() - begun
    lines = dict(line.rsplit(" ", 1) for line in client.get("/metrics").text.splitlines() if not line.startswith("#"))
    assert lines['guiderec_request_seconds_count{route="/model"}'] == "1.0"
    assert 0 < float(lines['guiderec_request_seconds_sum{route="/model"}']) < spent
    assert lines['guiderec_requests_total{method="any",route="other",status="404"}'] == "1.0"


# ------------------------------------------------------------------------------------------------------ the quick way


@pytest.mark.parametrize("kind", ["application/json", "application/json; charset=utf-8", "application/vnd.shop+json"])
def test_both_ways_of_reading_a_request_give_the_same_answer(client: TestClient, kind: str):
    """Only the plainest content type is read in one step; any other JSON goes through the framework."""
    asked = {"user": "0", "likes": [{"category": "Tea"}], "dislikes": [{"item": "i03"}], "guidance_scale": 2, "k": 5}
    reply = client.post("/recommend", content=json.dumps(asked), headers={"content-type": kind})
    assert reply.status_code == 200
    assert reply.json() == client.post("/recommend", json=asked).json()


@pytest.mark.parametrize(
    "body", ['{"k": 0}', '{"user": "a", "k": 10.0}', '{"user": "a", "x": 1}', "{", "", "[]", '"a"']
)
def test_both_ways_say_the_same_about_what_is_wrong(client: TestClient, body: str):
    replies = [
        client.post("/recommend", content=body, headers={"content-type": kind})
        for kind in ("application/json", "application/json; charset=utf-8")
    ]
    assert replies[0].status_code in (400, 422)
    assert replies[0].json() == replies[1].json()


def test_the_quick_way_needs_the_key_too(service: Service):
    with TestClient(create_app(service, api_key="secret")) as client:
        for headers in ({}, {"X-API-Key": "wrong"}):
            assert client.post("/recommend", json={"user": "0"}, headers=headers).status_code == 401
        assert client.post("/recommend", json={"user": "0"}, headers={"X-API-Key": "secret"}).status_code == 200
