from __future__ import annotations

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guiderec.data.filters import DropDuplicates, KCore, MinimumLength, MinimumRating
from guiderec.data.interactions import Interactions
from guiderec.errors import DataError


def log(events, columns=("user", "item")) -> Interactions:
    frame = pl.DataFrame(events, schema=list(columns), orient="row")
    return Interactions.read(frame, order="time" if "time" in columns else "row")


def left(interactions: Interactions) -> list[tuple]:
    return interactions.frame.drop("row").collect().rows()


def test_core_docstring_matrix():
    whole = [("u1", "a"), ("u1", "b"), ("u1", "c"), ("u2", "a"), ("u2", "b"), ("u3", "c"), ("u3", "a")]
    assert left(KCore(users=2, items=2)(log(whole))) == whole
    torn = [*whole[:6], ("u3", "d")]
    assert left(KCore(users=2, items=2)(log(torn))) == [("u1", "a"), ("u1", "b"), ("u2", "a"), ("u2", "b")]


@settings(max_examples=30, deadline=None)
@given(
    events=st.lists(st.tuples(st.integers(0, 7), st.integers(0, 7)), min_size=1, max_size=50),
    users=st.integers(1, 4),
    items=st.integers(1, 4),
)
def test_core_is_the_largest_one(events, users, items):
    """The oracle removes one event at a time, in whatever order it meets them."""
    kept = list(events)
    while bad := next(
        (e for e in kept if sum(o[0] == e[0] for o in kept) < users or sum(o[1] == e[1] for o in kept) < items),
        None,
    ):
        kept.remove(bad)
    if kept:
        assert left(KCore(users=users, items=items)(log(events))) == kept
    else:
        with pytest.raises(DataError, match="no event is left in the core of"):
            KCore(users=users, items=items)(log(events))


def test_core_of_nothing_names_the_limits():
    with pytest.raises(DataError) as caught:
        KCore(users=3, items=2)(log([(1, 1)]))
    assert str(caught.value) == (
        "polars DataFrame: no event is left in the core of 3 events per user and 2 per item. Hint: lower the limits."
    )


def test_rating():
    rated = log([(1, 5, 2.0), (1, 6, 4.0), (2, 5, 3.5)], ("user", "item", "rating"))
    assert left(MinimumRating(at_least=3.5)(rated)) == [(1, 6, 4.0), (2, 5, 3.5)]
    with pytest.raises(DataError, match=r'no rating column. Hint: name it: rating="..." \(--rating\)'):
        MinimumRating(at_least=1)(log([(1, 2)]))


def test_length():
    assert left(MinimumLength(events=2)(log([(1, 5), (2, 6), (1, 5), (3, 7)]))) == [(1, 5), (1, 5)]


def test_duplicates_keep_the_first():
    events = [(1, 5, 9), (2, 5, 9), (1, 5, 9), (1, 5, 8), (2, 5, 9)]
    assert left(DropDuplicates()(log(events, ("user", "item", "time")))) == [(1, 5, 9), (2, 5, 9), (1, 5, 8)]


def test_everything_filtered_away():
    gone = MinimumLength(events=9)(log([(1, 5)]))
    with pytest.raises(DataError, match="no events are left after the filters"):
        gone.sequences()


def test_filters_are_recorded_in_order():
    rated = log([(1, 5, 4.0), (1, 6, 4.0)], ("user", "item", "rating"))
    both = KCore(users=1, items=1)(MinimumRating(at_least=3)(rated))
    assert both.filters == (
        {"name": "minimum-rating", "at_least": 3.0},
        {"name": "k-core", "users": 1, "items": 1},
    )
