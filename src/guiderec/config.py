"""Typed, frozen configuration: plain data and back, dotted overrides, all problems at once.

A `Part` is a small value that configures one thing and stands next to what it configures. Parts nest. A misspelt
field is an error at once and names the nearest valid field; all problems of one configuration are reported together.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, Self, TypeVar, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError

from guiderec.errors import ConfigError, nearest

if TYPE_CHECKING:
    from pydantic._internal._model_construction import ModelMetaclass
else:
    ModelMetaclass = type(BaseModel)  # it has no public name

PartT = TypeVar("PartT", bound="Part")


class _PartType(ModelMetaclass):
    if not TYPE_CHECKING:  # so that constructors keep the signatures of their fields

        def __call__(cls, *args: Any, **data: Any) -> Any:
            """Construct, with problems as ConfigError.

            Here and not in `__init__`: pydantic calls an `__init__` of ours for nested parts too, and the first
            nested error would then hide all others and where it happened.
            """
            try:
                return super().__call__(*args, **data)
            except ValidationError as error:
                raise _report(cls, _problems(cls, data, error)) from None


class Part(BaseModel, metaclass=_PartType):
    """A frozen configuration value. Compares by content, prints as its constructor, stores as JSON.

    Numbers are finite. Validators report by raising ValueError.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, protected_namespaces=(), allow_inf_nan=False
    )

    @classmethod
    def from_plain(cls, data: Mapping[str, Any]) -> Self:
        """The part described by plain data (as read from JSON). Raises ConfigError naming every problem."""
        if not isinstance(data, Mapping):
            raise ConfigError(f"{cls.__name__}: expected a mapping of options, got {type(data).__name__}: {data!r}.")
        try:
            return cls.model_validate(dict(data))
        except ValidationError as error:
            raise _report(cls, _problems(cls, data, error)) from None

    def to_plain(self) -> dict[str, Any]:
        """Plain data that `from_plain` turns back into an equal part."""
        return self.model_dump(mode="json")

    def replace(self, **changes: Any) -> Self:
        """A copy with some fields changed, validated again."""
        return type(self).from_plain({**{name: getattr(self, name) for name in type(self).model_fields}, **changes})


def override(part: PartT, changes: Mapping[str, Any]) -> PartT:
    """`part` with dotted paths replaced: `override(experiment, {"model.dim": 256})`.

    Setting the discriminating `name` of a nested part (for example `model.guidance.name`) starts that part anew from
    its defaults, since the fields of another part need not exist in it. Such changes apply before all others, outer
    ones first; the order of `changes` does not matter. Values may be strings as typed on a command line: they are read
    as JSON where possible ("2e-4", "true", "[1, 2]").

    Raises
    ------
    ConfigError
        For paths that do not exist (with the nearest one that does) and values of the wrong type or range, all
        together.
    """
    data, current = part.to_plain(), part
    problems = []
    for path, value in sorted(changes.items(), key=_names_first):
        *parents, field = path.split(".")
        node = _node(data, parents)
        if node is None or not field:
            problems.append(f"'{path}' is not an option.{nearest(path, flat(data))}")
            continue
        renamed = field == "name" and bool(parents) and _is_tagged(current, parents)
        if renamed:
            node.clear()
        node[field] = parse(value)
        if renamed:
            try:  # fill in the defaults of the new part, so that paths into it exist
                current = type(part).from_plain(data)
                data = current.to_plain()
            except ConfigError:
                pass  # an unknown name, or a part with required fields: the validation below sees all changes
    try:
        changed = type(part).model_validate(data)
    except ValidationError as error:
        raise _report(type(part), problems + _problems(type(part), data, error)) from None
    except ConfigError as error:
        raise (_report(type(part), [*problems, str(error)]) if problems else error) from None
    if problems:
        raise _report(type(part), problems)
    return changed


def parse_assignments(assignments: Sequence[str]) -> dict[str, str]:
    """`["model.dim=256"]` as a mapping; ConfigError for text without '=' and for an option that is given twice."""
    pairs: dict[str, str] = {}
    for text in assignments:
        path, equals, value = (piece.strip() for piece in text.partition("="))
        if not equals or not path:
            raise ConfigError(f"'{text}' is not of the form option=value.", hint="for example model.dim=256")
        if path in pairs:
            raise ConfigError(f"'{path}' is given twice: {pairs[path]} and {value}.")
        pairs[path] = value
    return pairs


class Option(NamedTuple):
    """One option of a configuration, as `override` takes it."""

    path: str
    """Dotted: `model.guidance.scale`."""
    value: Any
    """Its present value, as plain data."""
    type: str
    """What it may be: `int, >= 1`, `keep | mask`, `float | null`."""
    about: str
    """What it means, in the words of its docstring; of a `name`, what the part is that it chooses."""


def options(part: Part) -> list[Option]:
    """Every option of a configuration in the order of its fields, those of nested parts at their place."""
    return _options(part, part.to_plain(), "", [])


def _options(part: BaseModel, plain: Mapping[str, Any], prefix: str, names: list[str]) -> list[Option]:
    found = []
    for field, info in type(part).model_fields.items():
        value = getattr(part, field)
        if isinstance(value, BaseModel):
            tags = [tag for tag in map(_tag, _parts_in(info.annotation)) if tag]
            found += _options(value, plain[field], f"{prefix}{field}.", tags)
        elif field == "name" and _tag(type(part)):
            about = next(iter(inspect.cleandoc(type(part).__doc__ or "").splitlines()), "")
            found.append(Option(f"{prefix}name", value, " | ".join(names or [value]), about))
        else:
            bounds = [f"{sign} {getattr(limit, name):g}" for limit in info.metadata for name, sign in _BOUNDS.items()
                      if getattr(limit, name, None) is not None]  # fmt: skip
            kind = ", ".join([_kind(info.annotation), *bounds])
            found.append(Option(f"{prefix}{field}", plain[field], kind, " ".join((info.description or "").split())))
    return found


_BOUNDS = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}


def _kind(annotation: Any) -> str:
    """A type in words: `int`, `keep | mask`, `float | null`, `list of str`, `object`, and the names of parts."""
    if get_origin(annotation) is Literal:
        return " | ".join(map(str, get_args(annotation)))
    if annotation is type(None):
        return "null"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return _tag(annotation) or annotation.__name__
    if get_origin(annotation) in (tuple, list):
        return f"list of {_kind(get_args(annotation)[0])}"
    if get_origin(annotation) is dict:
        return "object"
    if get_origin(annotation) is Annotated:
        return _kind(get_args(annotation)[0])
    if isinstance(annotation, type) and not get_args(annotation):
        return annotation.__name__
    return " | ".join(dict.fromkeys(map(_kind, get_args(annotation)))) or str(annotation)


def _names_first(change: tuple[str, Any]) -> tuple[bool, int]:
    """Names before values, and outer names before inner ones, which they would wipe out."""
    *parents, field = change[0].split(".")
    return (True, 0) if field != "name" else (False, len(parents))


def _node(data: dict[str, Any], parents: list[str]) -> dict[str, Any] | None:
    """The mapping at a path, None where there is none. An optional part that is None starts from its defaults."""
    node: Any = data
    for parent in parents:
        if not isinstance(node, dict) or parent not in node:
            return None
        if node[parent] is None:
            node[parent] = {}
        node = node[parent]
    return node if isinstance(node, dict) else None


def _is_tagged(part: Any, parents: list[str]) -> bool:
    """Whether `name` tells alternatives apart at this path, and is not just a field that is called so."""
    for parent in parents:
        part = getattr(part, parent, None)
    return not isinstance(part, BaseModel) or _tag(type(part)) is not None


def parse(value: Any) -> Any:
    """A value as `override` reads it: text as typed on a command line is JSON where possible."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):  # no JSON, a number of thousands of digits, nested absurdly deep
        return value


def flat(data: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Plain data with dotted names: `{"model": {"dim": 64}}` becomes `{"model.dim": 64}`."""
    found: dict[str, Any] = {}
    for name, value in data.items():
        found |= flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return found


# ------------------------------------------------------------------------------------------------------ error messages


def _report(part: type[BaseModel], problems: list[str]) -> ConfigError:
    return ConfigError(f"{part.__name__}: {len(problems)} problem{'s' * (len(problems) > 1)}. " + " ".join(problems))


def _problems(part: type[BaseModel], data: Any, error: ValidationError) -> list[str]:
    """One sentence per problem."""
    sentences = []
    for problem in error.errors():
        kind, location, context = problem["type"], problem["loc"], problem.get("ctx", {})
        extra = kind == "extra_forbidden"
        path, owners = _place(part, location[:-1] if extra else location, data)
        prefix = "".join(f"{step}." for step in path)
        where = prefix[:-1]
        if extra:
            near = nearest(str(location[-1]), [name for owner in owners for name in owner.model_fields])
            near = near.replace("mean '", f"mean '{prefix}")
            near = near or ("" if prefix else _further_in(str(location[-1]), data))
            sentences.append(f"'{prefix}{location[-1]}' is not an option.{near}")
        elif kind == "missing":
            sentences.append(f"'{where}' is missing.")
        elif kind == "union_tag_not_found":
            sentences.append(f"'{prefix}name' is missing.")
        elif kind == "union_tag_invalid":
            tags = [tag.strip(" '") for tag in str(context["expected_tags"]).split(",")]
            near = nearest(str(context["tag"]), tags)
            sentences.append(f"'{prefix}name' = {context['tag']!r} does not exist.{near} Known: {', '.join(tags)}.")
        elif kind == "value_error" and not where:
            sentences.append(f"{str(context['error']).rstrip('.')}.")
        elif kind == "value_error":
            sentences.append(f"'{where}': {str(context['error']).rstrip('.')}.")
        else:
            message = problem["msg"][0].lower() + problem["msg"][1:]
            sentences.append(f"'{where}' = {_shown(problem['input'])}: {message}.")
    return sentences


def _further_in(name: str, data: Any) -> str:
    """`" Did you mean 'model.dim'?"` for `dim`."""
    found = [path for path in flat(data) if path.endswith(f".{name}")] if isinstance(data, Mapping) else []
    return f" Did you mean '{found[0]}'?" if found else ""


def _shown(value: Any) -> str:
    """A value as code, cut where it is very long: a message is one line."""
    text = repr(value)
    return text if len(text) <= _LONGEST_VALUE else f"{text[:_LONGEST_VALUE]}..."


_LONGEST_VALUE = 200
"""Characters of a value in a message."""


def _place(
    part: type[BaseModel], location: Sequence[int | str], data: Any
) -> tuple[list[int | str], list[type[BaseModel]]]:
    """The path that a user would write for an error location, and the parts that may stand there.

    Locations inside a union of parts also name the alternative, which is no step of a path.
    """
    path: list[int | str] = []
    owners = [part]
    for step in location:
        annotations = [owner.model_fields[step].annotation for owner in owners if step in owner.model_fields]
        if not annotations and step in [_tag(owner) for owner in owners]:
            owners = [owner for owner in owners if _tag(owner) == step]
            continue
        path.append(step)
        data = data.get(step) if isinstance(data, Mapping) else getattr(data, str(step), None)
        owners = [inner for annotation in annotations for inner in _parts_in(annotation)] or owners
        name = data.get("name") if isinstance(data, Mapping) else None
        owners = [owner for owner in owners if _tag(owner) == name] or owners
    return path, owners


def _parts_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [inner for argument in get_args(annotation) for inner in _parts_in(argument)]


def _tag(part: type[BaseModel]) -> str | None:
    """The fixed `name` of a part that is one of several alternatives."""
    field = part.model_fields.get("name")
    return get_args(field.annotation)[0] if field and get_origin(field.annotation) is Literal else None
