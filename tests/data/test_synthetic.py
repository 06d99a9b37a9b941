"""The embedded catalogue against its own law: a slow reading of the equations, counts, and models that must find it."""

from __future__ import annotations

import math
import tracemalloc
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from guiderec.data import names
from guiderec.data.filters import MinimumRating
from guiderec.data.interactions import Interactions
from guiderec.data.loader import Loader
from guiderec.data.protocols import UserSplit
from guiderec.data.synthetic import Catalogue, Plan, SyntheticData, make
from guiderec.errors import ConfigError, DataError
from guiderec.evaluation.evaluate import validation_metrics
from guiderec.models.markov import Markov, MarkovConfig
from guiderec.models.popularity import Popularity, PopularityConfig
from guiderec.models.sasrec import SASRec, SASRecConfig
from guiderec.rng import seed_everything
from guiderec.training.loop import Training, fit


@pytest.fixture(scope="module")
def data() -> SyntheticData:
    return make()


@pytest.fixture(scope="module")
def shuffled() -> SyntheticData:
    return make(structured=False)


def recall(model, data: SyntheticData, k: int = 10) -> float:
    return validation_metrics(model, data.dataset.test, max_length=10, metrics=(f"recall@{k}",))[f"recall@{k}"]


def prepared(model, data: SyntheticData):
    model.prepare(data.dataset.train.sequences)
    return model


def standard_error(p: float, n: int) -> float:
    return math.sqrt(p * (1 - p) / n)


# ---------------------------------------------------------------------------------------------------------- names


def test_word_lists_have_no_word_twice():
    """Distinct names rest on this: the digits (adjective, noun, place) and the word of the shelf tell items apart."""
    for words in (names.ADJECTIVES, *names.NOUNS.values()):
        assert len(words) == len(set(words)) == 48
    assert len(set(names.PLACES)) == len(names.PLACES)
    assert len({shelf.word for shelf in names.SHELVES}) == len(names.SHELVES) == 64
    assert math.gcd(1163, 48 * 48) == 1
    assert 64 * names.SERIES_PER_SHELF * names.VOLUMES > 10_000_000


def test_names_are_distinct_and_fit_their_shelf():
    places = np.concatenate([np.arange(200), np.arange(11_515, 11_525), [names.SERIES_PER_SHELF * names.VOLUMES - 1]])
    shelf, place = (grid.ravel() for grid in np.meshgrid(np.arange(64), places, indexing="ij"))
    made = names.item_names(shelf, place)
    assert made.n_unique() == len(made)
    assert all(names.SHELVES[s].word in name for s, name in zip(shelf, made, strict=True))
    one_shelf = names.item_names(np.full(25_000, 7), np.arange(25_000))
    assert one_shelf.n_unique() == 25_000


def test_volumes_of_a_series_share_a_name():
    made = names.item_names(np.zeros(6, dtype=np.int64), np.arange(6)).to_list()
    stems = [name.rsplit(" ", 1)[0] for name in made]
    assert [name.rsplit(" ", 1)[1] for name in made] == ["1", "2", "3", "4", "5", "1"]
    assert len(set(stems[:5])) == 1
    assert not set(stems[5].split()) & set(stems[0].split()) - {"Oolong,", "No."}


@pytest.mark.slow
def test_a_million_items_have_a_million_names():
    catalogue = Catalogue.build(Plan(n_items=1_000_000))
    table = catalogue.table(np.arange(1, 1_000_001))
    assert table["name"].n_unique() == 1_000_000
    assert table.group_by("category", "subcategory").len()["len"].to_list() == [15_625] * 64


# ------------------------------------------------------------------------------------------------------ catalogue


@pytest.mark.parametrize("n_items", [100, 101, 997, 1_000, 6_401])
def test_the_catalogue_is_a_set_of_rings(n_items):
    catalogue = Catalogue.build(Plan(n_items=n_items, seed=n_items, mean_length=4.0))
    items = np.arange(1, n_items + 1)
    assert (catalogue.items_at(catalogue.shelf(items), catalogue.place(items)) == items).all()
    assert (catalogue.items_of_rank(catalogue.shelf(items), catalogue.rank(items)) == items).all()
    for shelf, size in enumerate(catalogue.size):
        here = items[catalogue.shelf(items) == shelf]
        assert len(here) == size
        assert sorted(catalogue.rank(here)) == list(range(size))
        assert catalogue.share(here).sum() == pytest.approx(1.0)
        ring, item = [], int(here[0])
        for _ in range(size):  # following the rule passes every item of the shelf once and returns
            ring.append(item)
            item = int(catalogue.next(np.array([item]))[0])
        assert item == here[0]
        assert sorted(ring) == here.tolist()


def test_ten_million_ids_do_not_overflow():
    catalogue = Catalogue.build(Plan(n_items=10_000_000))
    items = np.concatenate([np.arange(1, 1_000), np.arange(9_999_000, 10_000_001)])
    assert (catalogue.items_at(catalogue.shelf(items), catalogue.place(items)) == items).all()
    assert (catalogue.items_of_rank(catalogue.shelf(items), catalogue.rank(items)) == items).all()
    assert catalogue.table(items)["name"].n_unique() == len(items)


def test_popularity_on_a_shelf_is_the_zipf_law():
    catalogue = Catalogue.build(Plan(n_items=1_000, skew=1.0))
    drawn = catalogue.draw(np.full(200_000, 3), np.random.default_rng(0).random(200_000))
    assert set(catalogue.shelf(drawn)) == {3}
    observed = np.bincount(catalogue.rank(drawn), minlength=25) / 200_000
    harmonic = sum(1 / r for r in range(1, 26))
    expected = np.array([1 / r / harmonic for r in range(1, 26)])
    assert np.abs(observed - expected).max() < 5 * standard_error(expected[0], 200_000)


# --------------------------------------------------------------------------------------------------------- people


def test_people_take_nothing_twice_and_nothing_they_avoid(data):
    lengths = data.sequences.lengths
    assert lengths.min() >= 3
    assert abs(lengths.mean() - 9.0) < 5 * lengths.std() / math.sqrt(len(lengths))
    for u in range(len(data.sequences)):
        assert len(set(data.sequences[u])) == lengths[u]
    users = np.repeat(data.sequences.users, lengths)
    assert not data.dislikes_of(users, data.sequences.items).any()
    times = data.sequences.times
    inside = np.repeat(np.arange(len(lengths)), lengths)
    assert (np.diff(times)[inside[1:] == inside[:-1]] >= 60).all()
    assert times.min() >= 1_672_531_200


def test_dislikes_are_neighbours_of_interests(data):
    tastes, catalogue = data.tastes, data.catalogue
    has = tastes.avoided[:, 0] >= 0
    assert has.mean() > 0.95
    for user in np.flatnonzero(has)[:300]:
        interests = {int(s) for s in tastes.interests[user] if s >= 0}
        avoided = [int(s) for s in tastes.avoided[user] if s >= 0]
        assert len(set(avoided)) == len(avoided)
        assert not interests & set(avoided)
        assert {s // 4 for s in avoided} <= {s // 4 for s in interests}
        items = data.dislikes.items[user].reshape(2, 5)
        for shelf, five in zip(tastes.avoided[user], items, strict=True):
            assert (five == 0).all() if shelf < 0 else (catalogue.shelf(five) == shelf).all()
        assert data.dislikes_of(np.full(5, user), items[0]).all()
        category, subcategory = data.dislikes.names(user)[0].split(" / ")
        row = data.dataset.vocabulary.table.row(int(items[0, 0]) - 1, named=True)
        assert (row["category"], row["subcategory"]) == (category, subcategory)


def test_interests_drift(data):
    drift = np.abs(data.tastes.first - data.tastes.last).sum(axis=1)
    several = (data.tastes.interests >= 0).sum(axis=1) > 1
    assert several.mean() > 0.5
    assert (drift[several] > 0).all()
    np.testing.assert_allclose(data.tastes.first.sum(axis=1), 1.0)
    np.testing.assert_allclose(data.tastes.last.sum(axis=1), 1.0)


def test_same_seed_same_data():
    one, two, other = make(n_users=200), make(n_users=200), make(n_users=200, seed=1)
    assert one.dataset.fingerprint == two.dataset.fingerprint
    assert one.log.equals(two.log)
    assert one.dataset.fingerprint != other.dataset.fingerprint


# -------------------------------------------------------------------------------------------------------- the law


def slow_law(data: SyntheticData, user: int) -> np.ndarray:
    """p(x) of the last item of a person, read off the module's docstring with loops over items. (I + 1,)"""
    plan, catalogue, n = data.plan, data.catalogue, data.plan.n_items
    shelf = [-1, *catalogue.shelf(np.arange(1, n + 1)).tolist()]
    history = data.sequences[user][:-1].tolist()
    interests = {int(g): w for g, w in zip(data.tastes.interests[user], data.tastes.last[user], strict=True) if g >= 0}
    omega = catalogue.shelf_share
    c = []
    for g in range(catalogue.n_shelves):
        value = (1 - plan.browse - plan.stray) * interests.get(g, 0.0) + plan.stray * omega[g]
        for interest, w in interests.items():
            if interest // 4 == g // 4:
                value += plan.browse * w * omega[g] / sum(omega[h] for h in range(g // 4 * 4, g // 4 * 4 + 4))
        c.append(0.0 if g in data.tastes.avoided[user] else value)
    total = sum(c)
    following = int(catalogue.next(np.array(history[-1:]))[0])
    p = np.zeros(n + 1)
    for x in range(1, n + 1):
        if x not in history:
            g = shelf[x]
            rank = int(catalogue.rank(np.array([x]))[0])
            zipf = (1 + rank) ** -plan.skew / sum((1 + r) ** -plan.skew for r in range(shelf.count(g)))
            p[x] = plan.follow * (x == following) + (1 - plan.follow) * c[g] / total * zipf
    return p / p.sum()


def test_oracle_is_the_law_of_the_docstring():
    data = make(n_items=130, n_users=60, skew=0.7, follow=0.3, browse=0.25, stray=0.1, mean_length=7.0)
    scores = data.oracle_scores("test")
    for row, user in enumerate(data.dataset.test.users()):
        np.testing.assert_allclose(scores[row], slow_law(data, user), atol=1e-12)


def test_people_follow_the_law():
    """Each target is a draw from p: the mean of log p, and of the hits at every cutoff, must agree within 4 sigma."""
    data = make(n_items=400, n_users=10_000, seed=3)
    targets = data.dataset.test.targets()
    p = data.oracle_scores("test")
    logs = np.log(p, out=np.zeros_like(p), where=p > 0)
    mean, second = (p * logs).sum(axis=1), (p * logs**2).sum(axis=1)
    drawn = logs[np.arange(len(targets)), targets]
    assert (p[np.arange(len(targets)), targets] > 0).all()
    assert abs((drawn - mean).sum()) < 4 * math.sqrt((second - mean**2).sum())
    order = np.argsort(-p, axis=1)
    for k in (1, 2, 10, 50, 200):
        top = np.take_along_axis(p, order[:, :k], axis=1).sum(axis=1)
        hits = (order[:, :k] == targets[:, None]).any(axis=1)
        assert abs(hits.sum() - top.sum()) < 4 * math.sqrt((top * (1 - top)).sum())


def test_the_law_holds_before_the_last_event_too():
    """The share of steps that follow the rule is `follow` and a little chance, in every part of the sequences."""
    data = make(n_items=10_000, n_users=4_000, follow=0.4)
    items = data.sequences.items
    inside = np.ones(len(items), dtype=bool)
    inside[data.sequences.offsets[:-1]] = False
    follows = items[1:] == data.catalogue.next(items[:-1])
    share = follows[inside[1:]].mean()
    assert 0.4 - 4 * standard_error(0.4, inside.sum()) < share < 0.44
    never = make(n_items=10_000, n_users=4_000, follow=0.0)
    by_chance = (never.sequences.items[1:] == never.catalogue.next(never.sequences.items[:-1])).mean()
    assert by_chance < 0.02


@pytest.mark.parametrize("structured", [True, False])
@pytest.mark.parametrize("k", [1, 10, 60])
def test_oracle_recall_is_the_mass_of_the_k_best_of_all_items(structured, k):
    data = make(n_items=300, n_users=150, structured=structured)
    scores = data.oracle_scores("test")
    assert data.oracle_recall(k) == pytest.approx(np.sort(scores, axis=1)[:, -k:].sum(axis=1).mean(), abs=1e-12)


def test_oracle_scores_are_distributions_and_can_be_had_for_some_rows(data):
    scores = data.oracle_scores("valid", np.array([5, 2]))
    np.testing.assert_allclose(scores.sum(axis=1), 1.0)
    assert (scores[:, 0] == 0).all()
    np.testing.assert_array_equal(scores, data.oracle_scores("valid")[[5, 2]])
    with pytest.raises(DataError, match="train, valid and test"):
        data.oracle_scores("tests")


# -------------------------------------------------------------------------------------------- with and without rule


def test_without_structure_only_places_change(data, shuffled):
    np.testing.assert_array_equal(data.sequences.lengths, shuffled.sequences.lengths)
    np.testing.assert_array_equal(np.sort(data.sequences.items), np.sort(shuffled.sequences.items))
    assert (data.sequences.items != shuffled.sequences.items).mean() > 0.99


def test_a_markov_chain_finds_the_rule(data):
    """It learns `follow` exactly and interests by the newest item; the oracle bounds it from above."""
    markov = recall(prepared(Markov(MarkovConfig(), 1_000), data), data)
    popularity = recall(prepared(Popularity(PopularityConfig(), 1_000), data), data)
    best = data.oracle_recall(10)
    error = standard_error(best, len(data.dataset.test))
    assert popularity < 0.1
    assert markov > 0.45
    assert markov < best + 4 * error
    assert best < 0.85


def test_without_the_rule_every_model_stays_at_popularity(shuffled):
    best = shuffled.oracle_recall(10)  # the share of the ten most popular items: chance for one who knows the counts
    margin = 4 * standard_error(best, len(shuffled.dataset.test))
    assert best < 0.1
    assert abs(recall(prepared(Popularity(PopularityConfig(), 1_000), shuffled), shuffled) - best) < margin
    assert recall(prepared(Markov(MarkovConfig(), 1_000), shuffled), shuffled) < best + margin


@pytest.mark.slow
def test_sasrec_finds_the_rule_and_nothing_without_it(data, shuffled, tmp_path: Path):
    """A small SASRec, at most 20 epochs of 19 steps, is ten times as good as popularity, and only with the rule."""
    found = {}
    for name, each in (("with", data), ("without", shuffled)):
        seed_everything(0)
        model = SASRec(SASRecConfig(dim=64, layers=1, heads=2, dropout=0.1, max_length=10), 1_000)
        training = Training(epochs=20, batch_size=128, learning_rate=3e-3, patience=5, metric="recall@10")
        loader = Loader(each.dataset.train, batch_size=128, max_length=10, seed=0)

        def validate(model, each=each):
            return validation_metrics(model, each.dataset.valid, max_length=10, metrics=("recall@10",))

        fit(model, loader, validate, training, tmp_path / name, seed=0, progress=False)
        found[name] = recall(model, each)
    assert found["with"] > 0.5
    assert found["without"] < shuffled.oracle_recall(10) + 4 * standard_error(0.06, 300)


# ------------------------------------------------------------------------------------------------- log and dataset


def test_ratings_below_three_are_exactly_the_dislikes(data):
    log = data.log
    assert log["timestamp"].is_sorted()
    assert log["rating"].unique().sort().to_list() == [1, 2, 3, 4, 5]
    disliked = data.dislikes_of(log["user_id"].to_numpy(), log["item_id"].to_numpy())
    np.testing.assert_array_equal(disliked, (log["rating"] < 3).to_numpy())
    assert 0.7 < disliked.sum() / len(data.sequences) < 1.1
    assert not log.select("user_id", "item_id").is_duplicated().any()


def test_the_log_prepared_from_a_file_is_the_dataset(data, tmp_path: Path):
    """CSV -> ratings from 3 -> user split: the same users in the same parts, the same items in the same order."""
    file = tmp_path / "shop.csv"
    data.log.write_csv(file)
    liked = MinimumRating(at_least=3)(Interactions.read(file))
    dataset = UserSplit(seed=data.plan.seed, max_items=data.plan.max_items)(liked)
    assert dataset.protocol == data.dataset.protocol
    assert dataset.fingerprint.sha256 == data.dataset.fingerprint.sha256
    for part in ("train", "valid", "test"):
        ours, theirs = data.dataset.part(part), dataset.part(part)
        assert ours.users().tolist() == theirs.users().tolist()
        assert ours.targets().tolist() == dataset.vocabulary.decode(theirs.targets().tolist())


def test_the_dataset_is_an_80_10_10_split_with_names(data):
    dataset = data.dataset
    assert [len(dataset.part(part)) for part in ("train", "valid", "test")] == [2_400, 300, 300]
    assert dataset.train.history_lengths().max() == 10
    assert dataset.vocabulary.table.columns == ["item", "name", "category", "subcategory"]
    assert dataset.vocabulary.table["item"].to_list() == list(dataset.vocabulary.raw) == list(range(1, 1_001))
    assert dataset.vocabulary.table["name"].n_unique() == 1_000
    assert dataset.vocabulary.table.select(pl.struct("category", "subcategory").n_unique()).item() == 40


# ----------------------------------------------------------------------------------------------- size and mistakes


def test_ten_million_items_cost_no_memory_per_item():
    tracemalloc.start()
    try:
        data = make(n_items=10_000_000, n_users=2_000)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 40_000_000  # one int64 per item would be 80 MB
    assert data.sequences.items.max() > 9_000_000


def test_people_are_drawn_in_blocks_of_bounded_memory(monkeypatch):
    """Every block has its own generator, so more people do not change the people of full blocks before them."""
    monkeypatch.setattr("guiderec.data.synthetic._BLOCK", 100)
    few, many = make(n_users=200), make(n_users=350)
    assert len(many.sequences) == 350
    np.testing.assert_array_equal(few.sequences.items, many.sequences.items[: len(few.sequences.items)])
    assert few.sequences[0].tolist() != few.sequences[100].tolist()


def test_mistakes_are_named_together():
    with pytest.raises(ConfigError, match=r"3 problems.*'n_items'.*'n_users'.*'follow'"):
        make(n_items=7, n_users=1, follow=1.5)
    with pytest.raises(ConfigError, match=r"'skwe' is not an option. Did you mean 'skew'"):
        make(skwe=1.0)
    with pytest.raises(ConfigError, match=r"browse \+ stray is 1.5 and must not exceed 1"):
        make(browse=0.8, stray=0.7)
    with pytest.raises(ConfigError, match="mean_length 150 is too long for 1000 items"):
        make(mean_length=150)


def test_names_are_found_by_numpy_ids_too(data):
    """Polars refuses NumPy integers as an index, and every sequence holds them."""
    vocabulary = data.dataset.vocabulary
    assert vocabulary.names(data.sequences[0]) == vocabulary.names(data.sequences[0].tolist())
