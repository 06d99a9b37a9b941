"""The OpenAPI description: it is complete, its examples are true, and nothing that fits it, or does not, is a 5xx."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from guiderec.serving import schema as wire
from guiderec.serving.app import create_app
from guiderec.serving.service import Service

from .conftest import running_service

ROUTES = {
    "POST /recommend", "POST /feedback", "GET /feedback", "GET /items", "GET /categories", "GET /people", "GET /model",
    "POST /model", "GET /health", "GET /ready", "GET /metrics",
}  # fmt: skip
"""Everything that clients may rely on; a change here is a change for users and belongs in the changelog."""

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]


@pytest.fixture(scope="module")
def service(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    database = f"sqlite:///{tmp_path_factory.mktemp('openapi') / 'f.sqlite'}"
    with running_service(models / "first", database, models=models) as service:
        yield service


@pytest.fixture
def fuzzed(models: Path, tmp_path: Path) -> Iterator[Service]:
    """A service of its own: the application that is fuzzed ends it."""
    with running_service(models / "first", f"sqlite:///{tmp_path / 'f.sqlite'}", models=models) as service:
        yield service


@pytest.fixture(scope="module")
def openapi(service: Service) -> dict[str, Any]:
    found: dict[str, Any] = (
        TestClient(create_app(service)).get("/openapi.json").json()
    )  # not entered: the service lives
    return found


def test_the_routes_are_these(openapi: dict[str, Any]):
    assert {f"{method.upper()} {path}" for path, methods in openapi["paths"].items() for method in methods} == ROUTES


def test_every_route_says_what_it_does_and_every_field_what_it_means(openapi: dict[str, Any]):
    for path, methods in openapi["paths"].items():
        for method, route in methods.items():
            assert route.get("description"), (method, path)
    for name, found in openapi["components"]["schemas"].items():
        assert found.get("description"), name
        for field, about in found.get("properties", {}).items():
            assert about.get("description") or "$ref" in about, (name, field)


def test_every_body_and_reply_has_a_true_example(openapi: dict[str, Any]):
    named = set()
    for methods in openapi["paths"].values():
        for route in methods.values():
            contents = [route.get("requestBody", {}), *route["responses"].values()]
            for content in contents:
                found = content.get("content", {}).get("application/json", {}).get("schema")
                named |= {found["$ref"].rpartition("/")[2]} if found else set()
    assert {"RecommendRequest", "RecommendReply", "FeedbackRequest", "Problem", "ModelReply"} <= named
    for name in named:
        (example,) = openapi["components"]["schemas"][name]["examples"]
        getattr(wire, name).model_validate(example)


def fuzz(service: Service, examples: int, api_key: str | None = None, only: set[str] = ROUTES) -> list[str]:
    """Requests that fit the description and requests that do not; the routes that were tried."""
    app = create_app(service, api_key=api_key)
    schema = schemathesis.openapi.from_asgi("/openapi.json", app)
    headers = {"X-API-Key": api_key} if api_key else {}
    tried = []
    for result in schema.get_all_operations():
        operation = result.ok()
        name = f"{operation.method.upper()} {operation.path}"
        if name not in only:
            continue
        tried.append(name)
        for mode in schemathesis.GenerationMode:

            @given(case=operation.as_strategy(generation_mode=mode))
            @settings(
                max_examples=examples,
                deadline=None,
                derandomize=True,
                database=None,
                phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
            )
            def send(case: Any) -> None:
                case.call_and_validate(headers=headers, checks=CHECKS)

            try:
                send()
            except Unsatisfiable:
                if name not in BARE:
                    raise
    return tried


BARE = {"GET /categories", "GET /model", "GET /health", "GET /ready", "GET /metrics"}
"""Routes whose requests have no parts, so that none can be wrong."""


def test_no_request_is_a_server_error(fuzzed: Service):
    tried = {"POST /recommend", "POST /feedback", "GET /items"}
    assert set(fuzz(fuzzed, 5, only=tried)) == tried


@pytest.mark.slow
def test_no_request_of_very_many_is_a_server_error(fuzzed: Service):
    assert set(fuzz(fuzzed, 60, "k")) == ROUTES
