"""What a person sees who types a data set at the prompt: its name, protocol and counts, on one line."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from guiderec.data import synthetic
from guiderec.data.dataset import Dataset, Vocabulary
from guiderec.data.protocols import LeaveOneOut
from guiderec.data.sequences import ItemLists, Rows, Sequences


def test_short_ones_are_written_out():
    sequences = Sequences.from_lists([[3, 1, 4], [2], []])
    assert repr(sequences) == "Sequences(3 sequences, 4 events)"
    timed = Sequences(sequences.items, sequences.offsets, sequences.users, times=np.arange(4))
    assert repr(timed) == "Sequences(3 sequences, 4 events, with times)"
    assert repr(Rows.every_prefix(sequences)) == "Rows(2 rows of Sequences(3 sequences, 4 events))"
    assert repr(ItemLists.from_lists([[1, 2], []])) == "ItemLists(2 lists, 2 items)"
    assert repr(Vocabulary(("a", "b"))) == "Vocabulary(2 items: 'a', 'b')"
    table = pl.DataFrame({"item": [7, 8, 9, 10], "name": ["w", "x", "y", "z"]})
    assert repr(Vocabulary((7, 8, 9, 10), table)) == "Vocabulary(4 items: 7, 8, 9, ...; table: item, name)"


@pytest.fixture(scope="module")
def shop() -> Dataset:
    return synthetic.make(n_items=2_000, n_users=500, seed=0).dataset


def test_a_data_set_says_what_it_is(shop: Dataset):
    parts = ", ".join(f"{len(shop.part(name)):,} {name}" for name in ("train", "valid", "test"))
    said = repr(shop)
    assert said.startswith(f"Dataset({shop.name!r}, protocol 'user-split': 500 users, 2,000 items, ")
    assert f"{shop.fingerprint.interactions:,} interactions; rows: {parts}; seen items are " in said


def test_options_of_a_split_are_named():
    sequences = Sequences.from_lists([[1, 2, 3, 1], [2, 3, 1, 2]])
    dataset = LeaveOneOut(seen="mask").dataset(sequences, Vocabulary(("a", "b", "c")), name="toy")
    assert repr(dataset) == (
        "Dataset('toy', protocol 'leave-one-out': 2 users, 3 items, 8 interactions; rows: 2 train, 2 valid, 2 test; "
        "seen items are masked)"
    )
    lists = {"valid": np.ones((2, 1), dtype=np.int64)}
    extended = Dataset(**{**vars(dataset), "dislikes": lists, "filters": ({"name": "k-core"},)})
    assert repr(extended).endswith("seen items are masked; with dislikes, filters)")


def test_none_grows_with_the_data(shop: Dataset):
    """A catalogue used to be written out in full: tens of thousands of characters."""
    for each in (shop, shop.vocabulary, shop.train, shop.train.sequences):
        assert len(repr(each)) < 400, repr(each)
        assert "\n" not in repr(each)
