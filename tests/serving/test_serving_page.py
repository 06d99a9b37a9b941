"""The examples of docs/serving.md, sent to a server: statuses, sentences and fields are those that the page shows."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient

from documents import ROOT, blocks
from guiderec import limits
from guiderec.data import synthetic
from guiderec.model import Model
from guiderec.models.steerrec import SteerRecConfig
from guiderec.recipes.registry import build
from guiderec.rng import seed_everything
from guiderec.serving import schema
from guiderec.serving.app import create_app
from guiderec.serving.metrics import Metrics
from guiderec.serving.people import People

from .conftest import running_service

PAGE = ROOT / "docs/serving.md"
METRICS = Metrics()


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """The embedded catalogue under a model of random weights."""
    folder = tmp_path_factory.mktemp("page")
    data = synthetic.make(n_items=1000, n_users=100, seed=0).dataset
    seed_everything(0)
    Model(build(SteerRecConfig(dim=16), data.n_items), data.vocabulary, 10).save_pretrained(folder / "model")
    with (
        running_service(folder / "model", f"sqlite:///{folder / 'f.sqlite'}", people=People.of(data)) as service,
        TestClient(create_app(service, metrics=METRICS)) as client,
    ):
        yield client


def fields(value: Any) -> Any:
    """The names in a JSON value, with the first entry of each list standing for all."""
    if isinstance(value, dict):
        return {name: fields(inner) for name, inner in value.items()}
    return [fields(inner) for inner in value[:1]] if isinstance(value, list) else None


def test_examples(client: TestClient):
    requests, replies = blocks(PAGE, "http"), blocks(PAGE, "json")
    assert len(requests) == len(replies) >= 9
    for request, shown in zip(requests, replies, strict=True):
        assert request.line < shown.line
        line, _, body = request.text.partition("\n")
        method, path = line.split()
        reply = client.request(method, path, json=json.loads(body) if body.strip() else None)
        expected = json.loads(shown.text)
        if "detail" in expected:
            assert (reply.status_code, reply.json()) == (422, expected)
        else:
            assert reply.status_code in (200, 201), reply.text
            assert fields(reply.json()) == fields(expected), line


def test_every_metric_is_on_the_page():
    page = PAGE.read_text(encoding="utf-8")
    names = {line.split()[2] for line in METRICS.text().decode().splitlines() if line.startswith("# TYPE")}
    shown = {name for name in names if not name.endswith("_created")}
    assert {name for name in shown if f"`{name}`" not in page and f"`{name}_total`" not in page} == set()


def test_the_limits_of_the_page_are_those_of_the_schema():
    page = " ".join(PAGE.read_text(encoding="utf-8").split())
    assert (
        f"{schema.MAX_HISTORY:,} items of history, {schema.MAX_LISTED_WISHES} likes and {schema.MAX_LISTED_WISHES} "
        f"dislikes, k of {schema.MAX_K:,} and of the catalogue, strength {limits.MAX_GUIDANCE_SCALE:,.0f}, "
        f"{schema.MAX_TEXT} characters"
    ) in page
    assert f"k times the number of wishes that act + 2 may be {schema.MAX_CONTRIBUTIONS:,}" in page
