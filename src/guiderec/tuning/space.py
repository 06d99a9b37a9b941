"""What is searched: for each option of an experiment the values it may take.

model.dim=64,128,256                      these values
model.dropout=0.1:0.5                     any number between, ends included; whole numbers between whole ends
training.learning_rate=1e-4:1e-2:log      any number between, as likely in each factor of ten
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from guiderec.config import Part, options, override, parse_assignments
from guiderec.errors import ConfigError


class Choice(Part):
    """One of several values, of any kind; their order says nothing."""

    name: Literal["choice"] = "choice"
    values: tuple[Any, ...] = Field(min_length=2)
    """What the option may be, as plain data; at least two, all different."""

    @model_validator(mode="after")
    def _all_different(self) -> Choice:
        for first, second in itertools.combinations(self.values, 2):
            if _same(first, second):
                raise ValueError(f"{json.dumps(first)} stands there twice")
        return self

    @property
    def probes(self) -> tuple[Any, ...]:
        """Values that tell whether the option may take all of them."""
        return self.values

    def index(self, value: Any) -> int:
        """Where the value stands; 1, 1.0 and true are three."""
        return next(place for place, each in enumerate(self.values) if _same(each, value))


class Range(Part):
    """Any number from `low` to `high`, both included. Whole numbers alone, where both ends are."""

    name: Literal["range"] = "range"
    low: int | float
    """The least value."""
    high: int | float
    """The greatest value, above `low`."""
    log: bool = False
    """Whether each factor is as likely, instead of each distance; `low` must then be above 0."""

    @model_validator(mode="after")
    def _rises(self) -> Range:
        if not self.low < self.high:
            raise ValueError(f"{self.low} is not below {self.high}")
        if self.log and self.low <= 0:
            raise ValueError(f"on a logarithmic scale all is above 0, got {self.low}")
        return self

    @property
    def whole(self) -> bool:
        """Whether it has whole numbers alone."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    @property
    def probes(self) -> tuple[Any, ...]:
        """Values that tell whether the option may take all of them."""
        return (self.low, self.high)


Values = Annotated[Choice | Range, Field(discriminator="name")]

_NOT_SEARCHED = {
    "seed": "the best of several seeds is luck, and no better with new users",
    "recipe": "it is a name",
    "metrics": "it is what is measured",
    "validation_rows": "it is on what is measured, so that the trials could not be compared",
    "validation_options": "it is how it is measured, so that the trials could not be compared",
    "dislikes": "it is what the model is told of the users, so that the trials could not be compared",
    "training.metric": "it is what is measured",
    "training.accelerator": "it is where a run is carried out",
}


class Space(Part):
    """The options that are searched, by dotted path, with the values of each."""

    options: dict[str, Values] = Field(min_length=1)
    """`{"model.dropout": Range(low=0.1, high=0.5)}`."""

    @model_validator(mode="after")
    def _can_be_searched(self) -> Space:
        for path in self.options:
            if path in _NOT_SEARCHED:
                raise ValueError(f"{path} is not searched: {_NOT_SEARCHED[path]}")
        return self

    @classmethod
    def parse(cls, assignments: Sequence[str]) -> Space:
        """The space that `["model.dim=64,128", "model.dropout=0.1:0.5"]` describes.

        Raises ConfigError for text that describes none, and for an option that is given twice.
        """
        return cls.from_texts(parse_assignments(assignments))

    @classmethod
    def from_texts(cls, values: Mapping[str, str | Sequence[Any] | Choice | Range]) -> Space:
        """The space of a mapping from options to text as on the command line, lists of values, or parts."""
        if not values:
            raise ConfigError("There is nothing to search.", hint="for example --search model.dropout=0.1:0.5")
        return cls(options={path: _parse(path, given) for path, given in values.items()})

    @property
    def grid(self) -> list[dict[str, Any]]:
        """Every combination, the last option changing first. ConfigError where a range has no end of values."""
        if ranges := [path for path, values in self.options.items() if isinstance(values, Range)]:
            raise ConfigError(
                f"A grid needs values, and {', '.join(ranges)} has a range.",
                hint="list the values, as in 0.1,0.3,0.5, or search by tpe or random",
            )
        lists = [values.values for values in self.options.values() if isinstance(values, Choice)]
        return [dict(zip(self.options, values, strict=True)) for values in itertools.product(*lists)]

    def of(self, experiment: Part) -> Space:
        """The same space as this experiment reads it: `0:1` has all numbers between, for an option that has them.

        Raises ConfigError with the first value that the experiment can take neither alone nor beside one of another
        option: two may fit only together, such as a width and the number of heads that divides it.
        """
        found: dict[str, Choice | Range] = {}
        for path, values in self.options.items():
            for value in values.probes:
                changed = self._taken(experiment, path, value)
            kinds = {option.path: option.type for option in options(changed)}
            if isinstance(values, Range) and not kinds.get(path, "").startswith("int"):
                values = values.replace(low=float(values.low), high=float(values.high))
            found[path] = values
        return Space(options=found)

    def _taken(self, experiment: Part, path: str, value: Any) -> Part:
        """The experiment with the value, alone or beside the first of the others that lets it be."""
        refused = None
        for others in self._others(path):
            try:
                return override(experiment, {**others, path: value})
            except ConfigError as error:
                refused = refused or error
        raise ConfigError(f"--search {path}: {refused}")

    def _others(self, path: str) -> Iterator[Mapping[str, Any]]:
        """Nothing, and then each value of each other option alone."""
        yield {}
        for other, values in self.options.items():
            if other != path:
                yield from ({other: value} for value in values.probes)


def _parse(path: str, given: str | Sequence[Any] | Choice | Range) -> Choice | Range:
    """The values that stand after `path=`."""
    if isinstance(given, Choice | Range):
        return given
    try:
        if not isinstance(given, str):
            return _chosen(given)
        return _range(given) if _is_range(given) else _chosen(_values(given))
    except ConfigError as error:
        raise ConfigError(f"--search {path}={given}: {error}") from None


def _is_range(text: str) -> bool:
    return ":" in text and not text.lstrip().startswith(("[", "{", '"'))


def _range(text: str) -> Range:
    low, high, *scale = text.split(":")
    if scale not in ([], ["log"]):
        raise ConfigError("A range is LOW:HIGH or LOW:HIGH:log.")
    return Range(low=_number(low), high=_number(high), log=bool(scale))


def _number(text: str) -> int | float:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    raise ConfigError(f"{text!r} is no number.", hint="a range is LOW:HIGH, values are separated by commas")


def _values(text: str) -> list[Any]:
    try:
        found: list[Any] = json.loads(f"[{text}]")
    except (ValueError, RecursionError):  # names, which JSON would have in quotes
        found = [_value(piece.strip()) for piece in text.split(",")]
    return found


def _chosen(values: Sequence[Any]) -> Choice:
    if len(values) < 2:
        raise ConfigError("Fewer than two values.", hint="what does not change is given with --set")
    return Choice(values=tuple(values))


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _same(first: Any, second: Any) -> bool:
    return json.dumps(first, sort_keys=True) == json.dumps(second, sort_keys=True)
