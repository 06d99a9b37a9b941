from __future__ import annotations

import json
import re
from itertools import permutations
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import Field, ValidationError, model_validator

from guiderec.config import Part, options, override, parse_assignments
from guiderec.errors import ConfigError


class Off(Part):
    name: Literal["off"] = "off"


class Pull(Part):
    name: Literal["pull"] = "pull"
    scale: float = Field(2.0, ge=0)
    """Strength."""
    steps: int = 5


class Push(Part):
    name: Literal["push"] = "push"
    scale: float = Field(4.0, ge=0)
    margin: float = 0.1


class Budget(Part):
    name: str = "budget"
    """A label, and no alternative of anything."""
    epochs: int = Field(10, ge=1)
    rate: float = 1e-3


class Model(Part):
    dim: int = Field(64, ge=1)
    heads: int = 2
    band: tuple[float, float] = (0.0, 1.0)
    norm: Literal["pre", "post"] = "pre"
    guidance: Annotated[Off | Pull | Push, Field(discriminator="name")] = Pull()
    extra: Pull | None = None

    @model_validator(mode="after")
    def _heads_divide(self) -> Model:
        if self.dim % self.heads:
            raise ValueError(f"heads = {self.heads} does not divide dim = {self.dim}")
        return self


class Whole(Part):
    model: Model = Model()
    budget: Budget = Budget()
    label: str | None = None


def problem(call: Any, *args: Any, **kwargs: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        call(*args, **kwargs)
    return str(caught.value)


# ------------------------------------------------------------------------------------------------------------ parts


@settings(max_examples=30, deadline=None)
@given(
    dim=st.integers(1, 10**6).map(lambda n: 2 * n),
    band=st.tuples(st.floats(0, 1), st.floats(0, 1)),
    guidance=st.one_of(
        st.just(Off()),
        st.builds(Pull, scale=st.floats(0, 1e300), steps=st.integers()),
        st.builds(Push, scale=st.floats(0, 1e300), margin=st.floats(allow_nan=False, allow_infinity=False)),
    ),
    extra=st.one_of(st.none(), st.builds(Pull)),
    label=st.one_of(st.none(), st.text()),
)
def test_plain_data_and_back(dim: int, band: tuple[float, float], guidance: Any, extra: Pull | None, label: str | None):
    whole = Whole(model=Model(dim=dim, band=band, guidance=guidance, extra=extra), label=label)
    stored = json.dumps(whole.to_plain(), allow_nan=False)
    assert Whole.from_plain(json.loads(stored)) == whole
    assert eval(repr(whole)) == whole  # prints as its constructor


def test_parts_are_frozen_and_hashable():
    part = Pull()
    with pytest.raises(ValidationError, match="frozen"):
        part.scale = 3.0  # type: ignore[misc]
    assert len({Pull(), Pull(scale=2.0), Pull(scale=3.0)}) == 2


def test_field_docstrings_are_descriptions():
    assert Pull.model_fields["scale"].description == "Strength."


def test_replace_validates_and_keeps_the_rest():
    assert Pull(steps=7).replace(scale=1.0) == Pull(scale=1.0, steps=7)
    assert problem(Pull().replace, scale=-1.0).startswith("Pull: 1 problem. 'scale' = -1.0: ")
    assert problem(Pull().replace, scal=1.0) == "Pull: 1 problem. 'scal' is not an option. Did you mean 'scale'?"


@pytest.mark.parametrize("data", [[("dim", 3)], "dim", 3, None])
def test_plain_data_must_be_a_mapping(data: Any):
    assert "Model: expected a mapping of options, got" in problem(Model.from_plain, data)


# ------------------------------------------------------------------------------------------------------------ messages


def test_all_problems_at_once_with_paths():
    """Also those of nested parts: a nested part once stopped at its own first error and hid all others."""
    text = problem(
        Whole.from_plain,
        {
            "model": {"dmi": 3, "norm": "prae", "guidance": {"name": "push", "marginn": 1, "scale": -1}},
            "budget": {"epochs": 0, "rate": "fast"},
            "lable": "x",
        },
    )
    assert text.startswith("Whole: 7 problems. ")
    for part in (
        "'model.dmi' is not an option. Did you mean 'model.dim'?",
        "'model.norm' = 'prae': input should be 'pre' or 'post'.",
        "'model.guidance.marginn' is not an option. Did you mean 'model.guidance.margin'?",
        "'model.guidance.scale' = -1: input should be greater than or equal to 0.",
        "'budget.epochs' = 0: input should be greater than or equal to 1.",
        "'budget.rate' = 'fast': input should be a valid number",
        "'lable' is not an option. Did you mean 'label'?",
    ):
        assert part in text


def test_a_field_without_its_path_is_recognised():
    assert "'dim' is not an option. Did you mean 'model.dim'?" in problem(override, Whole(), {"dim": 4})
    assert "'' is not an option." in problem(override, Whole(), {"": 1})


def test_constructor_and_plain_data_say_the_same():
    data = {"dmi": 3, "guidance": {"name": "push", "marginn": 1}}
    assert problem(Model, **data) == problem(Model.from_plain, data)


def test_nearest_name_is_that_of_the_chosen_alternative():
    """`steps` exists in another alternative only, so it must not be proposed."""
    text = problem(Model, guidance={"name": "push", "step": 3})
    assert text == "Model: 1 problem. 'guidance.step' is not an option."
    assert "mean 'guidance.steps'" in problem(Model, guidance={"name": "pull", "step": 3})


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (
            {"guidance": {"name": "pul"}},
            "'guidance.name' = 'pul' does not exist. Did you mean 'pull'? Known: off, pull, push.",
        ),
        ({"guidance": {"scale": 3}}, "'guidance.name' is missing."),
        ({"dim": 9}, "heads = 2 does not divide dim = 9."),
        ({"band": [1]}, "'band.1' is missing."),
        ({"dim": float("inf")}, "'dim' = inf: input should be a finite number."),
        (
            {"guidance": {"name": "pull", "scale": float("nan")}},
            "'guidance.scale' = nan: input should be a finite number.",
        ),
    ],
)
def test_message(options: dict[str, Any], text: str):
    assert problem(Model.from_plain, options) == f"Model: 1 problem. {text}"


def test_value_error_of_a_nested_part_has_its_path():
    text = problem(Whole.from_plain, {"model": {"dim": 9}, "budget": {"epochs": 0}})
    assert "2 problems" in text
    assert "'model': heads = 2 does not divide dim = 9." in text


# ------------------------------------------------------------------------------------------------------------ override


def test_override_replaces_what_it_names_and_nothing_else():
    whole = Whole(model=Model(dim=8, guidance=Push(margin=0.5)))
    changed = override(whole, {"model.guidance.scale": 1.5, "budget.epochs": 3, "label": "mine"})
    assert changed == Whole(
        model=Model(dim=8, guidance=Push(margin=0.5, scale=1.5)), budget=Budget(epochs=3), label="mine"
    )
    assert whole == Whole(model=Model(dim=8, guidance=Push(margin=0.5)))
    assert override(whole, {}) == whole


@pytest.mark.parametrize(
    ("path", "text", "value"),
    [
        ("model.dim", "256", 256),
        ("budget.rate", "2e-4", 2e-4),
        ("budget.rate", ".5", 0.5),
        ("model.norm", "post", "post"),
        ("model.band", "[0.1, 0.2]", (0.1, 0.2)),
        ("model.guidance", '{"name": "push", "margin": 3}', Push(margin=3)),
        ("label", "null", None),
        ("label", '"null"', "null"),
        ("label", "a text", "a text"),
    ],
)
def test_override_reads_values_as_typed(path: str, text: str, value: Any):
    found: Any = override(Whole(label="x"), {path: text})
    for step in path.split("."):
        found = getattr(found, step)
    assert found == value


def test_setting_a_name_starts_that_part_anew_in_any_order():
    changes = {"model.guidance.name": "push", "model.guidance.margin": "3", "model.dim": "8"}
    expected = Whole(model=Model(dim=8, guidance=Push(margin=3)))
    for order in permutations(changes.items()):
        assert override(Whole(model=Model(guidance=Pull(scale=9))), dict(order)) == expected


def test_a_name_that_is_a_label_is_just_set():
    assert override(Whole(budget=Budget(epochs=3)), {"budget.name": "short"}).budget == Budget(name="short", epochs=3)


def test_outer_names_do_not_wipe_inner_ones():
    """`model.name` and `model.guidance.name` in one call: the inner change was once lost in one of the two orders."""

    class First(Part):
        name: Literal["first"] = "first"
        inner: Annotated[Off | Pull | Push, Field(discriminator="name")] = Off()

    class Second(Part):
        name: Literal["second"] = "second"
        inner: Annotated[Off | Pull | Push, Field(discriminator="name")] = Pull()

    class Outer(Part):
        model: Annotated[First | Second, Field(discriminator="name")] = First()

    changes = {"model.name": "second", "model.inner.name": "push", "model.inner.margin": 3}
    for order in permutations(changes.items()):
        assert override(Outer(), dict(order)) == Outer(model=Second(inner=Push(margin=3)))
    # A path into the defaults of the new part.
    assert override(Outer(), {"model.inner.scale": 7, "model.name": "second"}).model == Second(inner=Pull(scale=7))


def test_an_optional_part_starts_from_its_defaults():
    assert override(Model(), {"extra.scale": 3}).extra == Pull(scale=3)
    assert override(Model(extra=Pull()), {"extra": "null"}).extra is None


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("model.dmi", "'model.dmi' is not an option. Did you mean 'model.dim'?"),
        ("modle.dim", "'modle.dim' is not an option. Did you mean 'model.dim'?"),
        ("model.dim.x", "'model.dim.x' is not an option. Did you mean 'model.dim'?"),
        ("model.guidance.scal", "'model.guidance.scal' is not an option. Did you mean 'model.guidance.scale'?"),
        ("lable", "'lable' is not an option. Did you mean 'label'?"),
        ("", "'' is not an option."),
        ("model.", "'model.' is not an option."),
    ],
)
def test_override_of_what_does_not_exist(path: str, text: str):
    assert problem(override, Whole(), {path: 3}).startswith(f"Whole: 1 problem. {text}")


@pytest.mark.parametrize("value", ["[" * 100_000, "1" * 5_000])
def test_absurd_values_are_problems_like_any_other(value: str):
    with pytest.raises(ConfigError) as caught:
        override(Whole(), {"model.dim": value})
    assert len(str(caught.value)) < 400
    assert "'model.dim' = " in str(caught.value)


def test_override_reports_unknown_paths_and_bad_values_together():
    text = problem(override, Whole(), {"modle.dim": 3, "budgte.epochs": 1, "model.heads": "many", "budget.epochs": 0})
    assert text.startswith("Whole: 4 problems. ")
    for path in ("'modle.dim' is not", "'budgte.epochs' is not", "'model.heads' = 'many'", "'budget.epochs' = 0"):
        assert path in text


# -------------------------------------------------------------------------------------------------------- assignments


def test_parse_assignments():
    assert parse_assignments(["model.dim=256", " label = a=b ", "x="]) == {"model.dim": "256", "label": "a=b", "x": ""}


@pytest.mark.parametrize("text", ["model.dim", "=3", "", " =3"])
def test_parse_assignments_of_something_else(text: str):
    message = f"'{text}' is not of the form option=value. Hint: for example model.dim=256"
    with pytest.raises(ConfigError, match=re.escape(message)):
        parse_assignments([text])


def test_an_option_given_twice_is_not_a_silent_choice():
    assert problem(parse_assignments, ["a=1", "b=2", "a=3"]) == "'a' is given twice: 1 and 3."


class Open(Part):
    anything: dict[str, int] = Field(default_factory=dict)
    """Names of its own."""


def test_an_option_with_names_of_its_own_is_one_option():
    assert options(Open(anything={"a": 1})) == [("anything", {"a": 1}, "object", "Names of its own.")]
    assert override(Open(), {"anything": '{"a": 2}'}).anything == {"a": 2}


def test_options_say_what_every_path_is_and_may_be():
    found = {option.path: option for option in options(Whole(model=Model(guidance=Push())))}
    assert found["model.guidance.scale"] == ("model.guidance.scale", 4.0, "float, >= 0", "")
    assert found["model.guidance.name"][1:3] == ("push", "off | pull | push")
    assert found["budget.name"] == ("budget.name", "budget", "str", "A label, and no alternative of anything.")
    assert (found["label"].value, found["label"].type) == (None, "str | null")
    assert found["model.norm"].type == "pre | post"
    assert found["model.band"].value == [0.0, 1.0]
    assert found["model.extra"].type == "pull | null"
    described = {option.path: option.about for option in options(Whole(model=Model(guidance=Pull())))}
    assert described["model.guidance.scale"] == "Strength."


def test_every_option_with_a_value_can_be_set_to_it():
    whole = Whole(model=Model(guidance=Push(margin=0.3)), label="x")
    assert override(whole, {option.path: option.value for option in options(whole)}) == whole
