"""Every measure against a reading in plain Python, and models whose steering is known."""

from __future__ import annotations

import math
import statistics
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from steered_models import ITEMS, Planted, Vectors, dataset, scores

from guiderec.data.dataset import Dataset
from guiderec.data.sequences import Rows
from guiderec.errors import ConfigError, DataError, ScoreError
from guiderec.evaluation.evaluate import evaluate as evaluate_accuracy
from guiderec.models.base import Recommender
from guiderec.steering.evaluate import UNSTEERED, Steering, evaluate, evaluate_standard
from guiderec.steering.procedure import Category, Dislikes, Item, Likes, Neighbourhood

STRENGTHS = (0.0, 0.5, 2.0, 50.0)


def run(model: Recommender, data: Dataset, procedure: Any, **options: Any) -> Steering:
    return evaluate(model, data, procedure, max_length=3, **{"strengths": STRENGTHS, **options})


def ordered(row: list[float], hidden: set[int]) -> list[int]:
    """Items from the best to the worst, equal scores by id; hidden ones last."""
    return sorted(range(1, ITEMS + 1), key=lambda j: (-(-math.inf if j in hidden else row[j]), j))


def slow_row(
    before: list[float],
    after: list[float],
    target: int,
    anchor: int,
    group: set[int],
    named: set[int],
    hidden: set[int],
) -> dict[str, Any]:
    old, new = ordered(before, hidden), ordered(after, hidden)
    rank = {j: new.index(j) + 1 for j in new}
    was = {j: old.index(j) + 1 for j in old}
    rest = [j for j in old[:10] if j not in group | named | {anchor} | hidden]
    return {
        "item_rank": rank[anchor],
        "listed": anchor in new[:10],
        "group_rank": statistics.geometric_mean([rank[j] for j in group]) if group else None,
        "shift": statistics.fmean(math.log2(rank[j] / was[j]) for j in group) if group else None,
        "exposure": len(set(new[:10]) & group),
        "target_rank": 1 + sum(after[j] >= after[target] for j in new if j != target and j not in hidden),
        "overlap": len(set(rest) & set(new[:10])) / len(rest) if rest else None,
        "target_in_group": target in group | named | {anchor},
    }


@pytest.mark.parametrize("seen", ["keep", "mask"])
@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("what", [Item(neighbours=3), Neighbourhood(neighbours=3)])
def test_every_measure_agrees_with_a_slow_reading(what, whole: bool, seen) -> None:
    """Own steering and both filters, ties and masked histories included."""
    data, table = dataset(seen=seen), scores(whole=whole)
    procedure = Dislikes(what=what)
    near = procedure.neighbours(data.train, data.vocabulary)
    found = run(Planted(table), data, procedure, block_scores=5 * (ITEMS + 1))
    compared = 0
    for line in found.rows.iter_rows(named=True):
        row, target = line["row"], line["target"]
        base = table[row].tolist()
        history = set(data.test.sequences[row][:-1].tolist())
        hidden = history if seen == "mask" else set()
        anchor = next(j for j in ordered(base, hidden) if j != target)
        group = set(near.nearest(np.array([anchor]), 3)[0].tolist()) - {0}
        told = {anchor} | (group if isinstance(what, Neighbourhood) else set())
        filters = {"filter": {anchor}, "steering-and-filter": {anchor}, "filter-group": group | {anchor}}
        gone = filters.get(line["rival"], set())
        fall = (line["strength"] or 0) if line["rival"].startswith("steering") else 0
        after = [-math.inf if j in gone else s - fall * (j in told) for j, s in enumerate(base)]
        if line["rival"] == "oracle":
            deviation = statistics.pstdev(s for s in base[1:] if math.isfinite(s))
            after = [
                -math.inf if j == anchor else s - line["strength"] * deviation * (j in group)
                for j, s in enumerate(base)
            ]
        if line["rival"] == "similarity-co-occurrence":
            continue
        expected = slow_row(base, after, target, anchor, group, {anchor}, hidden)
        assert line["item"] == anchor
        for name, value in expected.items():
            assert line[name] == (value if value is None else pytest.approx(value)), (name, line)
        compared += 1
    assert compared == 20 * (1 + 3 * len(STRENGTHS) + 2)


@pytest.mark.parametrize("likes", [False, True])
def test_similarity_agrees_with_a_slow_reading(likes: bool) -> None:
    """s -+ w std(s) z(similarity), by cosine of vectors and by co-occurrence, and the measures of the result."""
    data = dataset()
    generator = torch.Generator().manual_seed(1)
    model = Vectors(torch.randn(20, 4, generator=generator), torch.randn(ITEMS + 1, 4, generator=generator))
    procedure = (Likes if likes else Dislikes)(what=Neighbourhood(neighbours=2))
    near = procedure.neighbours(data.train, data.vocabulary)
    found = run(model, data, procedure)
    assert found.rows["rival"].unique().sort().to_list() == sorted(
        [
            UNSTEERED,
            "similarity-vectors",
            "similarity-co-occurrence",
            *([] if likes else ["filter", "filter-group", "oracle"]),
        ]
    )
    for line in found.rows.filter(pl.col("rival").str.starts_with("similarity")).iter_rows(named=True):
        base = (model.users[line["row"]] @ model.items.T).tolist()
        group = [j for j in near.nearest(np.array([line["item"]]), 2)[0].tolist() if j]
        told = [line["item"], *group]
        if line["rival"] == "similarity-vectors":
            similar = [
                statistics.fmean(torch.cosine_similarity(model.items[j], model.items[i], dim=0).item() for i in told)
                for j in range(1, ITEMS + 1)
            ]
        else:
            mean = near.similarities(np.array([told]))[0]
            similar = [mean.max() if j in told else mean[j] for j in range(1, ITEMS + 1)]
        spread, centre, deviation = statistics.pstdev(base[1:]), statistics.fmean(similar), statistics.pstdev(similar)
        sign = 1 if likes else -1
        after = [-math.inf] + [
            s + sign * line["strength"] * spread * (z - centre) / deviation
            for s, z in zip(base[1:], similar, strict=True)
        ]
        expected = slow_row(base, after, line["target"], line["item"], set(group), {line["item"]}, set())
        for name, value in expected.items():
            assert line[name] == (value if value is None else pytest.approx(value)), (name, line)


@pytest.mark.parametrize(
    "procedure", [Dislikes(what=Item()), Dislikes(what=Category()), Likes(what=Item(), places=(8, 20))]
)
def test_strength_0_is_exactly_the_unsteered_list(procedure) -> None:
    for model in (Planted(scores()), Vectors(torch.randn(20, 3), torch.randn(ITEMS + 1, 3))):
        rows = run(model, dataset(), procedure, classifier_free=model).rows
        before = rows.filter(pl.col("rival") == UNSTEERED).drop("rival", "strength")
        filtered = rows.filter(pl.col("rival") == "filter").drop("rival", "strength")
        off = rows.filter(pl.col("strength") == 0.0).partition_by("rival")
        assert len(off) >= 2
        for each in off:
            expected = filtered if each["rival"][0] in ("steering-and-filter", "oracle") else before
            assert each.drop("rival", "strength").equals(expected)
        assert (before["shift"].drop_nulls() == 0).all()
        assert (before["overlap"].drop_nulls() == 1).all()


def test_a_model_that_steers_and_one_that_does_not_are_told_apart() -> None:
    data, table = dataset(), scores()
    for procedure, wanted in ((Dislikes(), 0.0), (Likes(places=(11, 25)), 1.0)):
        steered, deaf = (
            run(Planted(table, listens=listens), data, procedure).points(resamples=50) for listens in (True, False)
        )
        last = [next(p for p in each if (p["rival"], p["strength"]) == ("steering", 50.0)) for each in (steered, deaf)]
        assert last[0]["measures"]["listed"]["mean"] == wanted
        assert last[1]["measures"]["listed"]["mean"] == 1 - wanted
        exposures = [p["measures"]["exposure"]["mean"] for p in (last[0], last[1])]
        assert (exposures[0] < exposures[1]) == (wanted == 0)
        assert np.sign(last[0]["measures"]["shift"]["mean"]) == (1 if wanted == 0 else -1)
        assert last[1]["measures"]["shift"]["mean"] == 0
        assert last[1]["measures"]["overlap"]["mean"] == 1


def test_exposure_of_what_is_disliked_falls_with_strength() -> None:
    points = run(Planted(scores()), dataset(), Dislikes()).points(resamples=50)
    ranks = [p["median_item_rank"] for p in points if p["rival"] == "steering"]
    exposure = [p["measures"]["exposure"]["mean"] for p in points if p["rival"] == "steering"]
    assert ranks == sorted(ranks)
    assert ranks[0] < ranks[-1]
    assert exposure == sorted(exposure, reverse=True)
    assert exposure[-1] == 0


def test_the_rank_of_the_target_is_that_of_the_evaluation() -> None:
    for seen in ("keep", "mask"):
        data, model = dataset(seen=seen), Planted(scores(whole=True))
        rows = run(model, data, Dislikes(what=Item())).rows.filter(pl.col("rival") == UNSTEERED)
        expected = evaluate_accuracy(model, data.test, max_length=3, seen=seen).rows
        assert rows["target_rank"].to_list() == expected["rank"].to_list()


def test_one_row_alone_is_that_row_among_others() -> None:
    data, model = dataset(), Planted(scores())
    for procedure in (Dislikes(what=Category()), Likes(what=Neighbourhood(), places=(5, 25))):
        whole = run(model, data, procedure).rows
        for block in (7 * (ITEMS + 1),):
            assert (
                run(model, data, procedure, block_scores=block)
                .rows.sort("rival", "strength", "row")
                .equals(whole.sort("rival", "strength", "row"))
            )
        alone = Dataset(**{**vars(data), "test": data.test.take(np.array([7]))})
        line = run(model, alone, procedure).rows.drop("row")
        assert line.equals(whole.filter(pl.col("row") == 7).drop("row"))


def test_the_seed_draws_likes_categories_and_members_and_nothing_else() -> None:
    data, model = dataset(), Planted(scores())
    for make, depends in (
        (lambda seed: Likes(what=Item(), places=(5, 25), seed=seed), True),
        (lambda seed: Dislikes(what=Category(members=2), seed=seed), True),
        (lambda seed: Dislikes(what=Item(), seed=seed), False),
    ):
        first, again, other = (run(model, data, make(seed)).rows for seed in (0, 0, 1))
        assert first.equals(again)
        assert first.equals(other) != depends


def test_means_and_intervals_are_over_users() -> None:
    """Means against the table; with two rows of each user the interval is wider than for as many users."""
    found = run(Planted(scores(whole=True)), dataset(rows_per_user=2), Dislikes(what=Item(neighbours=3)))
    (point,) = (p for p in found.points() if (p["rival"], p["strength"]) == ("steering", 2.0))
    rows = found.rows.filter((pl.col("rival") == "steering") & (pl.col("strength") == 2.0))
    assert rows["user"].n_unique() < len(rows) == 40
    measures = point["measures"]
    assert measures["exposure"]["mean"] == pytest.approx(rows["exposure"].mean())
    assert measures["shift"]["mean"] == pytest.approx(rows["shift"].mean())
    assert measures["overlap"]["n"] == rows["overlap"].count()
    assert measures["recall@10"]["mean"] == pytest.approx((rows["target_rank"] <= 10).mean())
    apart = rows.filter(~pl.col("target_in_group"))
    assert 0 < len(apart) < len(rows)
    assert measures["recall@10 apart"]["mean"] == pytest.approx((apart["target_rank"] <= 10).mean())
    for value in measures.values():
        assert value["low"] <= value["mean"] <= value["high"]
    by_user = rows.group_by("user", maintain_order=True).agg(pl.col("exposure").mean())["exposure"].to_numpy()
    random = np.random.default_rng(0)
    draws = [by_user[random.integers(0, len(by_user), len(by_user))].mean() for _ in range(40_000)]
    low, high = np.quantile(draws, [0.025, 0.975])
    assert (measures["exposure"]["low"], measures["exposure"]["high"]) == pytest.approx((low, high), abs=0.03)


def test_rows_without_a_wish_are_left_out_also_where_a_whole_batch_is() -> None:
    """A liked item is looked for at the first place alone, which may be known or the target."""
    data, model = dataset(), Planted(scores())
    procedure = Likes(what=Item(), places=(1, 1))
    found = run(model, data, procedure, block_scores=2 * (ITEMS + 1))
    firsts = scores()[:, 1:].argmax(dim=1) + 1
    known = [set(data.test.sequences[row].tolist()) for row in range(20)]
    expected = [row for row in range(20) if int(firsts[row]) not in known[row]]
    assert found.rows["row"].unique().sort().to_list() == expected
    summary = found.summary(resamples=10)
    assert (summary["n_rows"], summary["n_wishes"]) == (20, len(expected))
    index = np.array([row for row in range(20) if row not in expected][:1] + expected[:1])
    assert len(index) == 2
    mixed = Dataset(**{**vars(data), "test": data.test.take(index)})
    assert run(model, mixed, procedure, block_scores=1).rows["row"].unique().to_list() == [1]


def test_candidates_alone_compete() -> None:
    data, table = dataset(), scores()
    candidates = np.array([[*range(1, 16), int(target)] for target in data.test.targets()])
    among = Dataset(**{**vars(data), "candidates": {"test": candidates}})
    rows = run(Planted(table), among, Dislikes(what=Item())).rows
    assert (rows["item"] <= 15).all()
    before = rows.filter(pl.col("rival") == UNSTEERED)
    expected = evaluate_accuracy(Planted(table), data.test, max_length=3, candidates=candidates).rows["rank"]
    assert before["target_rank"].to_list() == expected.to_list()


def test_of_the_standard_procedures_those_are_measured_that_can_be_and_the_others_say_why() -> None:
    """One procedure without a wish, as a like beyond the tenth place of few items, once ended all of them."""
    data, model = dataset(), Planted(scores())
    few = np.array([[1, 2, 3, int(target)] for target in data.test.targets()])
    among = Dataset(**{**vars(data), "candidates": {"test": few}})
    found, reasons = evaluate_standard(model, among, max_length=3, strengths=(1.0,))
    assert [each.name for each in found] == ["dislikes item", "dislikes neighbourhood", "dislikes category"]
    assert list(reasons) == ["likes item"]
    assert "Hint: a like is drawn from places 11 to 100 of a list" in reasons["likes item"]
    alone = run(model, among, Dislikes(what=Item()), strengths=(1.0,))
    assert found[0].rows.equals(alone.rows)
    with pytest.raises(DataError, match=r"No row of part 'test' has an item to wish for .* 'likes item'"):
        run(model, among, Likes(what=Item()))

    everything, none = evaluate_standard(model, data, max_length=3, strengths=(1.0,))
    assert (len(everything), none) == (4, {})
    with pytest.raises(ConfigError, match="different numbers from 0 on"):
        evaluate_standard(model, data, max_length=3, strengths=())
    empty = Dataset(**{**vars(data), "test": Rows(data.test.sequences, data.test.sequence[:0], data.test.position[:0])})
    with pytest.raises(DataError, match=r"^Nothing can be steered here: Part 'test' has no rows to steer\.[^.]*$"):
        evaluate_standard(model, empty, max_length=3)


def test_what_cannot_be_measured_says_why() -> None:
    data, model = dataset(), Planted(scores())
    for strengths in ((), (0.1, 0.1), (-1.0,), (math.inf,)):
        with pytest.raises(ConfigError, match="different numbers from 0 on"):
            run(model, data, Dislikes(), strengths=strengths)
    empty = Dataset(**{**vars(data), "test": Rows(data.test.sequences, data.test.sequence[:0], data.test.position[:0])})
    with pytest.raises(DataError, match="Part 'test' has no rows to steer"):
        run(model, empty, Dislikes())
    with pytest.raises(DataError, match=r"No row of part 'test' has an item to wish for .* 'likes item'"):
        run(model, data, Likes(what=Item(), places=(200, 300)))
    broken = scores()
    broken[3, 4] = math.nan
    with pytest.raises(ScoreError, match="scores item 4 with nan"):
        run(Planted(broken), data, Dislikes())
