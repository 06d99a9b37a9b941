"""The page `/docs`: the OpenAPI description as plain HTML, without scripts and without anything from elsewhere."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

_TITLE = "GuideRec: the HTTP interface"


def page(openapi: Mapping[str, Any]) -> str:
    """The whole page for an OpenAPI 3.1 description."""
    schemas = openapi.get("components", {}).get("schemas", {})
    routes = [(path, method, route) for path, methods in openapi["paths"].items() for method, route in methods.items()]
    contents = "".join(
        f'<li><a href="#{_anchor(path, method)}"><code>{method.upper()} {escape(path)}</code></a></li>'
        for path, method, _ in routes
    )
    sections = "".join(_route(path, method, route, schemas) for path, method, route in routes)
    types = "".join(_type(name, schema) for name, schema in sorted(schemas.items()) if "properties" in schema)
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{_TITLE}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<link rel="stylesheet" href="static/docs.css"></head><body><main>'
        f"<h1>{_TITLE}</h1><p>{escape(openapi['info'].get('description', ''))} "
        'The same for programs: <a href="openapi.json">openapi.json</a>.</p>'
        f"<ul>{contents}</ul>{sections}<h2>Types</h2>{types}</main></body></html>"
    )


def _anchor(path: str, method: str) -> str:
    return escape(f"{method}{path}".replace("/", "-"))


def _route(path: str, method: str, route: Mapping[str, Any], schemas: Mapping[str, Any]) -> str:
    body = route.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema")
    parts = [f'<h2 id="{_anchor(path, method)}"><code>{method.upper()} {escape(path)}</code></h2>']
    parts += [f"<p>{escape(line)}</p>" for line in route.get("description", "").split("\n\n") if line]
    parts += _parameters(route.get("parameters", []))
    if body is not None:
        parts += ["<h3>Request</h3>", *_shown(body, schemas)]
    for status, reply in route["responses"].items():
        parts.append(f"<h3>{escape(status)}: {escape(reply['description'])}</h3>")
        schema = reply.get("content", {}).get("application/json", {}).get("schema")
        if schema and status.startswith("2"):
            parts += _shown(schema, schemas)
    return f"<section>{''.join(parts)}</section>"


def _parameters(parameters: list[Mapping[str, Any]]) -> Iterator[str]:
    if parameters:
        rows = "".join(
            f"<dt><code>{escape(each['name'])}</code>{' (needed)' if each.get('required') else ''}</dt>"
            f"<dd>{escape(each.get('description', ''))}</dd>"
            for each in parameters
        )
        yield f"<h3>Query</h3><dl>{rows}</dl>"


def _shown(schema: Mapping[str, Any], schemas: Mapping[str, Any]) -> Iterator[str]:
    """A link to the type, and its example."""
    name = schema.get("$ref", "").rpartition("/")[2]
    if name:
        yield f'<p><a href="#type-{escape(name)}">{escape(name)}</a></p>'
    for example in schemas.get(name, schema).get("examples", [])[:1]:
        yield f"<pre>{escape(json.dumps(example, indent=2, ensure_ascii=False))}</pre>"


def _type(name: str, schema: Mapping[str, Any]) -> str:
    needed = set(schema.get("required", []))
    rows = "".join(
        f"<dt><code>{escape(field)}</code> {escape(_kind(about))}{' (needed)' if field in needed else ''}</dt>"
        f"<dd>{escape(about.get('description', ''))}</dd>"
        for field, about in schema["properties"].items()
    )
    about = escape(schema.get("description", ""))
    return f'<section><h3 id="type-{escape(name)}">{escape(name)}</h3><p>{about}</p><dl>{rows}</dl></section>'


def _kind(schema: Mapping[str, Any]) -> str:
    """A type in few words: `list of Item`, `number or null`."""
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2]
    for union in ("anyOf", "oneOf"):
        if union in schema:
            return " or ".join(dict.fromkeys(_kind(each) for each in schema[union]))
    if "enum" in schema:
        return " | ".join(map(str, schema["enum"]))
    if schema.get("type") == "array":
        return f"list of {_kind(schema.get('items', {}))}"
    return str(schema.get("type", "anything"))
