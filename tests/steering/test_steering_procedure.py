"""Who wishes what: the rules, read row by row."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from steered_models import ITEMS, dataset, scores

from guiderec.data.batch import Batch
from guiderec.data.dataset import Dataset
from guiderec.errors import ConfigError
from guiderec.steering.procedure import (
    Category,
    Dislikes,
    Item,
    Likes,
    Neighbourhood,
    Rule,
    Wishes,
    name_of,
    parse_procedure,
    standard,
)


def asked() -> tuple[Dataset, Batch, torch.Tensor]:
    """The data, its test rows as a batch, and their lists (20, I) without steering."""
    data = dataset()
    history, target = data.test.windows(np.arange(20), 4)
    batch = Batch(
        history=torch.from_numpy(history), key=torch.from_numpy(data.test.keys()), target=torch.from_numpy(target)
    )
    return data, batch, scores()[:, 1:].argsort(dim=1, descending=True) + 1


def wishes(procedure: Dislikes | Likes) -> tuple[Batch, torch.Tensor, Wishes, Rule]:
    data, batch, listed = asked()
    rule = Rule.of(procedure, data.train, data.vocabulary)
    return batch, listed, rule.wishes(batch, listed, batch.history), rule


@pytest.mark.parametrize("what", [Item(neighbours=4), Neighbourhood(neighbours=4)])
def test_the_disliked_item_is_the_first_that_is_not_the_target(what) -> None:
    batch, listed, found, rule = wishes(Dislikes(what=what))
    for row in range(20):
        anchor = next(j for j in listed[row].tolist() if j != int(batch.target[row]))
        near = rule.neighbours.nearest(np.array([anchor]), 4)[0].tolist()
        assert int(found.anchor[row]) == anchor
        assert found.named[row].tolist() == [anchor]
        assert found.condition[row].tolist() == ([anchor, *near] if isinstance(what, Neighbourhood) else [anchor])
        assert found.group[row].nonzero()[:, 0].tolist() == sorted(set(near) - {0})
        assert found.concerned[row].nonzero()[:, 0].tolist() == sorted({anchor, *near} - {0})


def test_a_category_is_that_of_the_anchor_and_some_members_are_named() -> None:
    batch, listed, found, rule = wishes(Dislikes(what=Category(members=3)))
    assert rule.groups is not None
    categories = {tuple(rule.groups.items(g).tolist()): g for g in range(len(rule.groups.names))}
    for row in range(20):
        anchor = next(j for j in listed[row].tolist() if j not in (int(batch.target[row]), ITEMS))  # 30 has no category
        assert int(found.anchor[row]) == anchor
        group = categories[tuple(found.group[row].nonzero()[:, 0].tolist())]
        assert group in rule.groups.of(anchor)
        named = found.named[row].tolist()
        assert len(set(named)) == 3
        assert set(named) <= set(rule.groups.items(group).tolist())
        assert found.condition[row].equal(found.named[row])
    assert len({tuple(row) for row in found.named.tolist()}) > 10


def test_of_two_categories_of_an_item_each_is_drawn_half_of_the_time() -> None:
    data = dataset()
    rule = Rule.of(Dislikes(what=Category()), data.train, data.vocabulary)
    assert rule.groups is not None
    n, item = 1_000, 20
    history = torch.ones(n, 2, dtype=torch.int64)
    batch = Batch(history=history, key=torch.arange(n), target=torch.full((n,), 7))
    found = rule.wishes(batch, torch.tensor([[7, item, 1]]).expand(n, -1), history)
    assert (found.anchor == item).all()
    first, second = (set(rule.groups.items(int(group)).tolist()) for group in rule.groups.of(item))
    groups = [set(row.nonzero()[:, 0].tolist()) for row in found.group]
    assert all(group in (first, second) for group in groups)
    assert abs(sum(group == first for group in groups) - n / 2) < 5 * np.sqrt(n / 4)


def test_liked_items_are_drawn_from_their_places_evenly() -> None:
    procedure = Likes(what=Item(), places=(4, 9))
    counts = np.zeros(ITEMS + 1)
    batch, listed, found, _ = wishes(procedure)
    for row in range(20):
        anchor = int(found.anchor[row])
        assert anchor in listed[row, 3:9].tolist()
        assert anchor not in batch.history[row].tolist()
        assert anchor != int(batch.target[row])
    listed, allowed = torch.arange(1, 31).expand(6_000, -1), torch.ones(6_000, 30, dtype=torch.bool)
    drawn = procedure.anchors(listed, allowed, torch.arange(6_000))
    counts = np.bincount(drawn.numpy(), minlength=31)
    assert counts[4:10].sum() == 6_000
    assert np.abs(counts[4:10] - 1_000).max() < 5 * np.sqrt(1_000)


def test_small_categories_are_named_whole() -> None:
    _, _, found, rule = wishes(Dislikes(what=Category(members=40)))
    assert rule.groups is not None
    for row in range(20):
        named = [j for j in found.named[row].tolist() if j]
        assert sorted(named) == found.group[row].nonzero()[:, 0].tolist()


def test_procedures_are_named_stored_and_parsed() -> None:
    assert [name_of(p) for p in standard(dataset().vocabulary)] == [
        "dislikes item",
        "dislikes neighbourhood",
        "dislikes category",
        "likes item",
    ]
    for text in ("dislikes:item", "likes:neighbourhood", "dislikes:category"):
        procedure = parse_procedure(text)
        assert name_of(procedure) == text.replace(":", " ")
        assert type(procedure).from_plain(procedure.to_plain()) == procedure
    assert parse_procedure("likes:category:brand").what == Category(column="brand")
    for text in ("dislike:item", "dislikes", "dislikes:thing", "dislikes:item:brand"):
        with pytest.raises(ConfigError, match=f"'{text}' is no procedure"):
            parse_procedure(text)
    with pytest.raises(ConfigError, match="1 <= first <= last"):
        Likes(places=(5, 4))


def test_real_dislikes_are_the_best_placed_of_those_that_the_data_tell() -> None:
    """Wherever it stands in the list; never the target; rows without any have no wish."""
    data, batch, listed = asked()
    told = torch.from_numpy(np.random.default_rng(3).integers(1, ITEMS + 1, size=(20, 3)))
    told[4] = 0
    told[5, 1:] = 0
    procedure = Dislikes(what=Item(), given_by="data")
    rule = Rule.of(procedure, data.train, data.vocabulary)
    found = rule.wishes(batch, listed, batch.history, told)
    for row in range(20):
        real = set(told[row].tolist()) - {0, int(batch.target[row])}
        expected = next((j for j in listed[row].tolist() if j in real), 0)
        assert int(found.anchor[row]) == expected
    assert int(found.anchor[4]) == 0
    assert name_of(procedure) == "real-dislikes item"
    assert parse_procedure("real-dislikes:item") == procedure
    with pytest.raises(ConfigError, match=r"needs what users really disliked.* --dislike-at-most"):
        rule.wishes(batch, listed, batch.history)
