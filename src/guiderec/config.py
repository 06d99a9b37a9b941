"""Typed, frozen configuration: plain data and back, dotted overrides, all problems at once.

A `Part` is a small value that configures one thing and stands next to what it configures. Parts nest. A misspelt
field is an error at once and names the nearest valid field; all problems of one configuration are reported together.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from guiderec.errors import ConfigError, nearest


class Part(BaseModel):
    """A frozen configuration value. Compares by content, prints as its constructor, stores as JSON."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, protected_namespaces=())

    def __init__(self, **data: Any) -> None:
        try:
            super().__init__(**data)
        except ValidationError as error:
            raise _as_config_error(type(self), error) from None

    @classmethod
    def from_plain(cls, data: Mapping[str, Any]) -> Self:
        """The part described by plain data (as read from JSON). Raises ConfigError naming every problem."""
        try:
            return cls.model_validate(dict(data))
        except ValidationError as error:
            raise _as_config_error(cls, error) from None

    def to_plain(self) -> dict[str, Any]:
        """Plain data that `from_plain` turns back into an equal part."""
        return self.model_dump(mode="json")

    def replace(self, **changes: Any) -> Self:
        """A copy with some fields changed, validated again."""
        return type(self).from_plain({**{name: getattr(self, name) for name in type(self).model_fields}, **changes})


def override(part: Part, changes: Mapping[str, Any]) -> Part:
    """`part` with dotted paths replaced: `override(experiment, {"model.dim": 256})`.

    Setting the discriminating `name` of a nested part (for example `model.guidance.name`) starts that part anew from
    its defaults, since the fields of another part need not exist in it; all such changes apply before the others.
    Values may be strings as typed on a command line: they are read as JSON where possible ("2e-4", "true", "[1, 2]").

    Raises
    ------
    ConfigError
        For a path that does not exist (with the nearest one that does) or a value of the wrong type or range.
    """
    data = part.to_plain()
    known = _paths(data)
    for path, value in sorted(changes.items(), key=lambda change: change[0].rsplit(".", 1)[-1] != "name"):
        *parents, field = path.split(".")
        node: Any = data
        for parent in parents:
            node = node.get(parent) if isinstance(node, dict) else None
        if not isinstance(node, dict) or (not parents and field not in node):
            raise ConfigError(f"'{path}' is not an option of {type(part).__name__}.{nearest(path, known)}")
        if field == "name":
            node.clear()
        node[field] = _parse(value)
    return type(part).from_plain(data)


def parse_assignments(assignments: list[str]) -> dict[str, str]:
    """`["model.dim=256"]` as a mapping; ConfigError for text without '='."""
    pairs = {}
    for text in assignments:
        path, equals, value = text.partition("=")
        if not equals or not path:
            raise ConfigError(f"'{text}' is not of the form option=value.", hint="for example model.dim=256")
        pairs[path.strip()] = value.strip()
    return pairs


def _parse(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except json.JSONDecodeError:
        return value


def _paths(data: Any, prefix: str = "") -> list[str]:
    if not isinstance(data, dict):
        return [prefix.rstrip(".")]
    return [path for key, value in data.items() for path in _paths(value, f"{prefix}{key}.")]


def _as_config_error(part: type[BaseModel], error: ValidationError) -> ConfigError:
    lines = []
    for problem in error.errors():
        where = ".".join(str(step) for step in problem["loc"])
        if problem["type"] == "extra_forbidden":
            names = _field_names(part, problem["loc"][:-1])
            lines.append(f"'{where}' is not an option.{nearest(str(problem['loc'][-1]), names)}")
        else:
            lines.append(f"'{where}' = {problem['input']!r}: {problem['msg'][0].lower() + problem['msg'][1:]}.")
    head = f"{part.__name__}: {len(lines)} problem{'s' if len(lines) > 1 else ''}. "
    return ConfigError(head + " ".join(lines))


def _field_names(part: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    """Field names of the part at `location`; steps through nested parts and named alternatives of a union."""
    candidates: list[type[BaseModel]] = [part]
    for step in location:
        annotations = [c.model_fields[step].annotation for c in candidates if step in c.model_fields]
        nested = [inner for annotation in annotations for inner in _parts_in(annotation)]
        candidates = nested or candidates
    return [name for candidate in candidates for name in candidate.model_fields]


def _parts_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [inner for argument in getattr(annotation, "__args__", ()) for inner in _parts_in(argument)]
