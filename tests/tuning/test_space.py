"""What `--search` means, and what it refuses."""

from __future__ import annotations

import itertools
import json

import pytest

from guiderec.api import configure
from guiderec.errors import ConfigError
from guiderec.tuning.space import Choice, Range, Space

SASREC = configure("sasrec:demo", {"model.dim": 64, "model.heads": 2})


def only(text: str) -> Choice | Range:
    (values,) = Space.parse([f"model.thing={text}"]).options.values()
    return values


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("64,128", [64, 128]),
        ("0.1, 1, true, null", [0.1, 1, True, None]),
        ("none,cfg", ["none", "cfg"]),
        ("cfg,2,0.5", ["cfg", 2, 0.5]),
        ("[200],[200,100]", [[200], [200, 100]]),
        ('"a,b","c"', ["a,b", "c"]),
        ("1e-3,1e-4", [1e-3, 1e-4]),
    ],
)
def test_values_with_commas_are_a_choice(text, values):
    found = only(text)
    assert isinstance(found, Choice)
    assert json.dumps(found.values) == json.dumps(values)


@pytest.mark.parametrize(
    ("text", "low", "high", "log"),
    [("1:9", 1, 9, False), ("0.1:0.5", 0.1, 0.5, False), ("1e-4:1e-2:log", 1e-4, 1e-2, True), ("-1:1", -1, 1, False)],
)
def test_a_colon_makes_a_range(text, low, high, log):
    found = only(text)
    assert isinstance(found, Range)
    assert (found.low, found.high, found.log) == (low, high, log)
    assert found.whole == isinstance(low, int)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("64", "Fewer than two values"),
        ("", "Fewer than two values"),
        ("1,2,1", "1 stands there twice"),
        ("5:1", "5 is not below 1"),
        ("1:1", "1 is not below 1"),
        ("0:1:log", "all is above 0, got 0"),
        ("a:b", "'a' is no number"),
        ("1:2:3", "LOW:HIGH or LOW:HIGH:log"),
        ("0:inf", "finite number"),
    ],
)
def test_what_is_no_space_says_which_option(text, message):
    with pytest.raises(ConfigError, match=message) as caught:
        only(text)
    assert f"--search model.thing={text}" in str(caught.value)


def test_equal_numbers_of_other_kinds_are_other_values():
    assert [only("1,true,1.0").index(value) for value in (1, True, 1.0)] == [0, 1, 2]


def test_nothing_to_search_and_twice_the_same_option():
    with pytest.raises(ConfigError, match="nothing to search"):
        Space.parse([])
    with pytest.raises(ConfigError, match="given twice"):
        Space.parse(["a=1,2", "a=3,4"])


@pytest.mark.parametrize("path", ["seed", "metrics", "training.metric", "validation_rows", "dislikes"])
def test_what_would_make_trials_incomparable_is_not_searched(path):
    with pytest.raises(ConfigError, match=f"{path} is not searched: "):
        Space.parse([f"{path}=1,2"])


def test_a_grid_is_the_product_with_the_last_option_fastest():
    space = Space.parse(["a=1,2", "b=x,y,z", "c=true,false"])
    expected = [dict(zip("abc", row, strict=True)) for row in itertools.product([1, 2], ["x", "y", "z"], [True, False])]
    assert space.grid == expected
    with pytest.raises(ConfigError, match=r"A grid needs values, and d has a range\. Hint: list the values"):
        _ = Space.parse(["a=1,2", "d=0:1"]).grid


def test_a_space_survives_json():
    space = Space.parse(["a=[1],[2]", "b=0.5:1", "c=1:9:log"])
    again = Space.from_plain(json.loads(json.dumps(space.to_plain())))
    assert again == space
    assert isinstance(again.options["c"], Range)
    assert again.options["c"].whole


# --------------------------------------------------------------------------------------------------- of an experiment


def test_whole_ends_of_an_option_with_fractions_are_a_range_of_fractions():
    found = Space.parse(["model.dropout=0:0.5", "training.weight_decay=0:1", "model.layers=1:4"]).of(SASREC).options
    assert [values.whole for values in found.values()] == [False, False, True]
    assert isinstance(found["training.weight_decay"].low, float)


def test_fractions_of_whole_numbers_are_refused():
    with pytest.raises(ConfigError, match=r"--search model\.layers: .*'layers' = 1\.5"):
        Space.parse(["model.layers=1.5:4.5"]).of(SASREC)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model.dropuot=0.1,0.2", "Did you mean 'dropout'"),
        ("model.dropout=0.1,1.5", "less than 1"),
        ("model.dropout=0.1:1.5", "less than 1"),
        ("model.dim=64,63", "heads = 2 does not divide dim = 63"),
    ],
)
def test_an_impossible_value_is_refused_before_anything_is_trained(text, message):
    with pytest.raises(ConfigError, match=message):
        Space.parse([text]).of(SASREC)


def test_options_that_fit_only_together_are_taken():
    space = Space.parse(["model.dim=48,64", "model.heads=2,3"])  # 3 heads divide 48, and not the 64 of the recipe
    assert space.of(SASREC) == space
    with pytest.raises(ConfigError, match="heads = 5"):
        Space.parse(["model.dim=48,64", "model.heads=2,5"]).of(SASREC)
