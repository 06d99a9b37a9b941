from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import polars as pl
import pytest

from guiderec.data import cooccurrence
from guiderec.data.cooccurrence import Neighbours
from guiderec.data.dataset import Vocabulary
from guiderec.data.sequences import Rows, Sequences
from guiderec.errors import ConfigError
from guiderec.steering.groups import groups_of
from guiderec.steering.neighbours import CoOccurrence, SharedGroups

ITEMS = 12


def random_lists() -> list[list[int]]:
    random = np.random.default_rng(0)
    return [random.integers(1, ITEMS, size=random.integers(1, 9)).tolist() for _ in range(40)]  # item 12 never occurs


def vocabulary(cells: list[object] | None = None, column: str = "category") -> Vocabulary:
    raw = tuple(range(101, 101 + ITEMS))
    return Vocabulary(raw, None if cells is None else pl.DataFrame({"item": raw, column: cells}))


def meetings(lists: list[list[int]], i: int, j: int, window: int | None) -> int:
    """Sequences in which i and j meet, by looking at every pair of places."""
    return sum(
        any(
            {a, b} == {i, j} and (window is None or q - p <= window)
            for (p, a), (q, b) in combinations(enumerate(items), 2)
        )
        for items in lists
    )


def by_brute_force(similarity: list[list[float]], counts: list[int], keep: int) -> list[list[tuple[int, float]]]:
    """For each item its neighbours and their similarity, sorted by the rule."""
    found: list[list[tuple[int, float]]] = [[]]
    for i in range(1, ITEMS + 1):
        others = [(j, similarity[i][j]) for j in range(1, ITEMS + 1) if j != i and similarity[i][j] > 0]
        found.append(sorted(others, key=lambda pair: (-pair[1], -counts[pair[0]], pair[0]))[:keep])
    return found


def as_lists(found: Neighbours) -> list[list[tuple[int, float]]]:
    edges = zip(found.offsets[:-1], found.offsets[1:], strict=True)
    return [list(zip(found.items[a:b].tolist(), found.similarity[a:b].tolist(), strict=True)) for a, b in edges]


def assert_same(found: Neighbours, expected: list[list[tuple[int, float]]]) -> None:
    for ours, theirs in zip(as_lists(found), expected, strict=True):
        assert [item for item, _ in ours] == [item for item, _ in theirs]
        assert [value for _, value in ours] == pytest.approx([value for _, value in theirs])


@pytest.mark.parametrize("block", [1, 40, 2**22])
@pytest.mark.parametrize("window", [None, 1, 3])
@pytest.mark.parametrize("kind", ["cosine", "pmi"])
def test_co_occurrence_agrees_with_a_double_loop(kind, window, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cooccurrence, "BLOCK_PAIRS", block)
    lists = random_lists()
    counts = [sum(i in items for items in lists) for i in range(ITEMS + 1)]
    table = [[0.0] * (ITEMS + 1) for _ in range(ITEMS + 1)]
    for i, j in combinations(range(1, ITEMS), 2):
        together = meetings(lists, i, j, window)
        if together and kind == "cosine":
            table[i][j] = table[j][i] = together / (math.sqrt(counts[i] * counts[j]) + 2)
        elif together:
            information = math.log(together * len(lists) / (counts[i] * counts[j]))
            table[i][j] = table[j][i] = max(0.0, information) * together / (together + 2)
    part = CoOccurrence(similarity=kind, window=window, shrinkage=2, keep=4)
    train = Rows.last_items(Sequences.from_lists(lists))
    assert_same(part(train, vocabulary()), by_brute_force(table, counts, 4))


def test_events_after_the_last_training_target_are_not_looked_at() -> None:
    """Leave-one-out keeps the answers of validation and test in the same sequences."""
    sequences = Sequences.from_lists([[1, 2, 3, 4], [1, 2, 5, 6]])
    train = Rows(sequences, np.array([0, 1]), np.array([1, 1]))
    found = CoOccurrence(shrinkage=0)(train, vocabulary())
    assert found.nearest(np.array([1, 2, 3, 5]), 2).tolist() == [[2, 0], [1, 0], [0, 0], [0, 0]]


def test_equally_similar_neighbours_stand_by_popularity_then_by_id() -> None:
    lists = [[1, 5], [1, 3], [1, 4], [4, 2], [4, 7]]
    part = SharedGroups(keep=3)
    found = part(Rows.last_items(Sequences.from_lists(lists)), vocabulary(["a"] * 6 + [None] * 6))
    assert found.nearest(np.array([2]), 5).tolist() == [[1, 4, 3, 0, 0]]  # 4 and 1 in three sequences, 3 and 5 in one
    assert found.nearest(np.array([7]), 1).tolist() == [[0]]


def test_shared_groups_agree_with_a_double_loop() -> None:
    cells = ["a|b", "b", "a|b|c", "c", None, "", "d", "a", "b|c", "c|b", "e|a", "f"]
    sets = [set()] + [set((cell or "").split("|")) - {""} for cell in cells]
    table = [[len(a & b) / len(a | b) if a and b else 0.0 for b in sets] for a in sets]
    lists = random_lists()
    counts = [sum(i in items for items in lists) for i in range(ITEMS + 1)]
    train = Rows.last_items(Sequences.from_lists(lists))
    expected = by_brute_force(table, counts, 3)
    assert_same(SharedGroups(keep=3)(train, vocabulary(cells)), expected)
    as_list = [None if cell is None else cell.split("|") for cell in cells]
    assert_same(SharedGroups(column="tags", keep=3)(train, vocabulary(as_list, "tags")), expected)


def test_similarities_are_means_over_the_items_of_a_row() -> None:
    train = Rows.last_items(Sequences.from_lists(random_lists()))
    found = CoOccurrence()(train, vocabulary())
    dense = np.zeros((ITEMS + 1, ITEMS + 1))
    for i, row in enumerate(as_lists(found)):
        for j, value in row:
            dense[i, j] = value
    items = np.array([[3, 7, 0], [12, 0, 0], [0, 0, 0], [1, 2, 4]])
    expected = [dense[[3, 7]].mean(axis=0), dense[12], dense[0], dense[[1, 2, 4]].mean(axis=0)]
    np.testing.assert_allclose(found.similarities(items), expected)
    assert not dense[12].any()


def test_groups_are_read_from_text_and_lists_and_a_missing_column_says_what_there_is() -> None:
    groups = groups_of(vocabulary(["b|a", "a", None, "", *["c"] * 8]), "category")
    assert groups.names == ("a", "b", "c")
    assert groups.items(0).tolist() == [1, 2]
    assert groups.of(1).tolist() == [0, 1]
    assert groups.of(3).tolist() == []
    with pytest.raises(ConfigError, match=r"no column 'categry': it has category. Did you mean 'category'"):
        groups_of(vocabulary(["a"] * ITEMS), "categry")
    with pytest.raises(ConfigError, match="there is none for this data"):
        groups_of(vocabulary(), "category")
