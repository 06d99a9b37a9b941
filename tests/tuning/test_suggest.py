"""What is tried next: in the space, reproducible, and, by TPE, near what was good."""

from __future__ import annotations

import math
import statistics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from guiderec.errors import ConfigError
from guiderec.tuning import suggest
from guiderec.tuning.space import Range, Space
from guiderec.tuning.suggest import UNPRUNED_TRIALS, Seen, falls_behind, suggester

SPACE = Space(
    options={
        "rate": Range(low=1e-4, high=1e-1, log=True),
        "width": Range(low=1, high=8),
        "share": Range(low=0.0, high=1.0),
        **Space.parse(["kind=[1],[2],none"]).options,
    }
)


def searched(method, count, value, *, space=SPACE, seed=0):
    """All trials of a search in which `value(options)` is what a trial gives."""
    choose, seen = suggester(space, method, seed), []
    for _ in range(count):
        options = choose(seen)
        seen.append(Seen(options, value(options)))
    return seen


@pytest.mark.parametrize("method", ["random", "tpe"])
def test_suggestions_are_in_the_space_and_of_its_kinds(method):
    for trial in searched(method, 30, lambda options: options["share"]):
        assert 1e-4 <= trial.options["rate"] <= 1e-1
        assert trial.options["width"] in range(1, 9)
        assert type(trial.options["width"]) is int
        assert 0 <= trial.options["share"] <= 1
        assert trial.options["kind"] in ([1], [2], "none")
        assert list(trial.options) == list(SPACE.options)


def test_random_draws_are_uniform_each_on_its_scale():
    drawn = [trial.options for trial in searched("random", 400, lambda _: 0.0)]
    logs = [math.log10(options["rate"]) for options in drawn]
    assert stats.kstest(logs, stats.uniform(-4, 3).cdf).pvalue > 0.01
    assert stats.kstest([options["share"] for options in drawn], stats.uniform().cdf).pvalue > 0.01
    widths = [sum(options["width"] == width for options in drawn) for width in range(1, 9)]
    assert stats.chisquare(widths).pvalue > 0.01
    assert abs(stats.pearsonr(logs, [options["share"] for options in drawn]).statistic) < 0.13


@pytest.mark.parametrize("method", ["random", "tpe"])
def test_a_suggestion_is_a_function_of_the_seed_and_the_trials_before(method):
    def value(options):
        return -abs(options["share"] - 0.3)

    whole = searched(method, 16, value)
    assert searched(method, 16, value) == whole
    assert suggester(SPACE, method, 0)(whole[:13]) == whole[13].options  # and of nothing that is kept between calls
    assert suggester(SPACE, method, 1)(whole[:13]) != whole[13].options


def test_tpe_comes_near_a_planted_optimum_where_random_does_not():
    space = Space(options={"x": Range(low=-1.0, high=1.0), "rate": Range(low=1e-4, high=1.0, log=True)})

    def distance(options):
        return abs(options["x"] - 0.6) + abs(math.log10(options["rate"]) + 2.5) / 2

    def late(method, seed):
        trials = searched(method, 40, lambda options: -distance(options), space=space, seed=seed)
        return statistics.mean(distance(trial.options) for trial in trials[20:])

    ratios = [late("tpe", seed) / late("random", seed) for seed in range(3)]
    assert max(ratios) < 0.7, ratios


def test_failed_trials_teach_where_not_to_look():
    space = Space(options={"x": Range(low=0.0, high=1.0)})
    trials = searched("tpe", 40, lambda options: options["x"] if options["x"] < 0.5 else None, space=space)
    assert sum(trial.value is None for trial in trials[20:]) < 10


def test_a_grid_needs_no_optuna(monkeypatch):
    def missing():
        raise ConfigError("not installed")

    monkeypatch.setattr(suggest, "require_optuna", missing)
    space = Space.parse(["a=1,2", "b=3,4"])
    assert [trial.options for trial in searched("grid", 4, lambda _: 0.0, space=space)] == space.grid
    with pytest.raises(ConfigError, match="not installed"):
        suggester(space, "tpe", 0)


# --------------------------------------------------------------------------------------------------- the median rule


def finished(*curves):
    return [Seen({}, max(curve), dict(enumerate(curve, start=1))) for curve in curves]


def by_hand(seen, curve):
    """The rule in plain words: my best so far against the median of what the finished ones had after this epoch."""
    now = max(curve)
    others = [
        trial.curve[now] for trial in seen if trial.value is not None and not trial.given_up and now in trial.curve
    ]
    ended = [trial for trial in seen if trial.value is not None and not trial.given_up]
    if len(ended) < UNPRUNED_TRIALS or not others:
        return False
    return max(curve.values()) < float(np.median(others))


curves = st.lists(st.sampled_from([0.1, 0.2, 0.3, 0.4, 0.5]), min_size=1, max_size=4)
trials = st.builds(
    lambda curve, state: Seen(
        {}, None if state == "failed" else max(curve), dict(enumerate(curve, start=1)), given_up=state == "given_up"
    ),
    curves,
    st.sampled_from(["finished", "finished", "finished", "given_up", "failed"]),
)


@given(st.lists(trials, max_size=9), curves)
def test_the_median_rule_is_the_one_by_hand(seen, curve):
    running = dict(enumerate(curve, start=1))
    assert falls_behind(seen, running) == by_hand(seen, running)


def test_the_best_so_far_counts_and_not_the_last_value():
    seen = finished([0.1, 0.3], [0.1, 0.3], [0.1, 0.3], [0.1, 0.3], [0.1, 0.3])
    assert not falls_behind(seen, {1: 0.4, 2: 0.2})
    assert falls_behind(seen, {1: 0.1, 2: 0.2})
    assert not falls_behind(seen[1:], {1: 0.1, 2: 0.2})
    assert not falls_behind(seen, {1: 0.1, 2: 0.2, 3: 0.2})  # nobody trained so long
