"""The embedded catalogue: a made-up shop and its customers, whose every choice follows a law that is known.

Catalogue   I items on G shelves ("Tea / Oolong"), four shelves to a category, 8 <= G <= 64. A shelf is a closed
            ring of series with five volumes each; `next(x)` is the following volume or, after the last one, the first
            volume of the next series. pi(x | g), the popularity of an item on its shelf, is a Zipf law
            (1 + rank)^-skew with shuffled ranks; omega(g), the popularity of a shelf, is proportional to
            (1 + rank)^-1/2. Names, shelves, ranks and `next` are functions of the item id: nothing of size I is stored.
People      Person u has one to four interests g_1..g_m (shelves; half of the further ones from a category already
            chosen) and avoids up to two shelves A_u in the categories of the interests. The weights of the interests
            drift along a sequence of n events from a_u to b_u, both uniform on the simplex:
            w(k) = (1 - tau) a_u + tau b_u with tau = k / (n - 1), k = 0..n - 1.
Shelves     With categories C(g), and omega(g | C) = omega(g) / sum of omega over C,
            c(g) = (1 - browse - stray) sum_i w_i [g = g_i] + browse sum_i w_i [C(g) = C(g_i)] omega(g | C(g))
                   + stray omega(g),   then c(g) = 0 for g in A_u, and c is normalised.
Rule        The next item, given everything before it (H: the items so far, x': the newest of them), is
            p(x) = (follow [x = next(x')] + (1 - follow) c(shelf of x) pi(x | shelf of x)) / Z for x not in H, else 0;
            the first item has follow = 0. Nobody takes an item twice, and nobody likes an item of an avoided shelf.
Dislikes    Now and then (on average once) a person takes an item of an avoided shelf and rates it 1 or 2. These events
            are in the log but, their rating being below 3, not in the sequences.

`structured=False` moves the items of all sequences to random places: how often each item occurs, and all lengths, stay
the same, and nothing else does. No model can then do better than to list the most popular items.

`oracle_scores` and `oracle_recall` evaluate p with the person's interests known, which is at least as much as any
history tells: the recall of the oracle is an upper bound, and whatever a model lacks of it can be given a number.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import Field, model_validator

from guiderec.config import Part
from guiderec.data.batch import PADDING
from guiderec.data.dataset import Dataset, Vocabulary
from guiderec.data.names import SHELVES, SUBCATEGORIES, item_names, shelf_names
from guiderec.data.protocols import UserSplit
from guiderec.data.sequences import Ids, Rows, Sequences
from guiderec.rng import numpy_generator

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

MAX_INTERESTS = 4
SHORTEST = 3
"""Events of a person, at least: a target, the item that it may follow, and one before."""
_BLOCK = 1 << 16
"""People drawn at a time. Part of the definition of the data: another value gives other people."""
_DAY = 86_400
_EPOCH = 1_672_531_200
"""2023-01-01, UTC, in seconds: the first day of the log."""
_NOBODY = -1
"""Stands for no shelf."""


class Plan(Part):
    """What is to be made."""

    n_items: int = Field(default=1_000, ge=100, le=10_000_000)
    """I, the size of the catalogue."""
    n_users: int = Field(default=3_000, ge=20)
    """People, all parts together."""
    seed: int = 0
    """Same seed, same data; it also draws the split."""
    structured: bool = True
    """False: the same items in random places, so that there is nothing to learn but popularity."""
    mean_length: float = Field(default=9.0, ge=4.0, le=200.0)
    """Average number of liked items per person; lengths run from 3 to about four times this."""
    max_items: int = Field(default=11, ge=2)
    """Newest items of a person that the split keeps, target included."""
    follow: float = Field(default=0.5, ge=0.0, lt=1.0)
    """Probability of taking the next volume: the planted rule."""
    browse: float = Field(default=0.15, ge=0.0, le=1.0)
    """Share of the other events that fall anywhere in the category of an interest."""
    stray: float = Field(default=0.05, gt=0.0, le=1.0)
    """Share of the other events that fall anywhere in the shop."""
    skew: float = Field(default=1.0, ge=0.0, le=3.0)
    """Exponent of the popularity of items on a shelf; 0 is uniform."""

    @model_validator(mode="after")
    def _possible(self) -> Plan:
        if self.browse + self.stray > 1:
            raise ValueError(f"browse + stray is {self.browse + self.stray:g} and must not exceed 1")
        if self.longest > self.n_items // 4:
            raise ValueError(f"mean_length {self.mean_length:g} is too long for {self.n_items} items")
        return self

    @property
    def longest(self) -> int:
        """Events of a person, at most."""
        return math.ceil(4 * self.mean_length) - 1 if self.mean_length > SHORTEST else SHORTEST


@dataclass(frozen=True)
class Catalogue:
    """Items as functions of their ids 1..I; all methods are vectorised and broadcast.

    Ids are shuffled slots, id - 1 = factor * slot mod I; the slot holds shelf = slot mod G and place = slot div G.
    """

    n_items: int
    skew: float
    factor: int
    """Of the shuffle of ids: id - 1 = factor * slot modulo I."""
    shelf_share: Floats
    """(G,) omega, adds up to 1."""
    shift: Ids
    """(G,) rank = spread * place + shift, modulo the size of the shelf."""

    @classmethod
    def build(cls, plan: Plan) -> Catalogue:
        """The catalogue of a plan."""
        rng = numpy_generator(plan.seed, "synthetic/catalogue")
        categories = min(max(plan.n_items // 100, 2), len(SHELVES) // SUBCATEGORIES)
        n_shelves = SUBCATEGORIES * categories
        share = (1.0 + rng.permutation(n_shelves)) ** -0.5
        shift = rng.integers(0, plan.n_items // n_shelves, n_shelves)
        return cls(plan.n_items, plan.skew, _coprime(plan.n_items), share / share.sum(), shift)

    @property
    def n_shelves(self) -> int:
        """G."""
        return len(self.shelf_share)

    @cached_property
    def size(self) -> Ids:
        """(G,) items of each shelf."""
        return self.n_items // self.n_shelves + (np.arange(self.n_shelves) < self.n_items % self.n_shelves)

    @cached_property
    def _spread(self) -> tuple[Ids, Ids]:
        """(G,) the factor that shuffles the ranks of each shelf, and its inverse modulo the size."""
        factors = {int(n): _coprime(int(n)) for n in np.unique(self.size)}
        spread = np.array([factors[int(n)] for n in self.size], dtype=np.int64)
        inverse = {n: pow(factor, -1, n) for n, factor in factors.items()}
        return spread, np.array([inverse[int(n)] for n in self.size], dtype=np.int64)

    @cached_property
    def _zipf(self) -> Floats:
        """(largest shelf,) weights by rank, not normalised."""
        weights: Floats = np.arange(1, self.size.max() + 1, dtype=np.float64) ** -self.skew
        return weights

    @cached_property
    def _cumulative(self) -> Floats:
        return np.cumsum(self._zipf)

    def shelf(self, items: Ids) -> Ids:
        """Index of the subcategory in `names.SHELVES`; its category is that index divided by 4."""
        return self._slot(items) % self.n_shelves

    def place(self, items: Ids) -> Ids:
        """Place on the shelf, 0-based: neighbours are volumes of one series."""
        return self._slot(items) // self.n_shelves

    def items_at(self, shelf: Ids, place: Ids) -> Ids:
        """Ids of the items at these places."""
        return (place * self.n_shelves + shelf) * self.factor % self.n_items + 1

    def next(self, items: Ids) -> Ids:
        """The planted rule: what follows each item."""
        shelf, place = self.shelf(items), self.place(items)
        return self.items_at(shelf, (place + 1) % self.size[shelf])

    def rank(self, items: Ids) -> Ids:
        """Popularity rank on the shelf; 0 is the most popular item."""
        shelf = self.shelf(items)
        return (self.place(items) * self._spread[0][shelf] + self.shift[shelf]) % self.size[shelf]

    def items_of_rank(self, shelf: Ids, rank: Ids) -> Ids:
        """Ids of the items of these popularity ranks on their shelves."""
        return self.items_at(shelf, (rank - self.shift[shelf]) * self._spread[1][shelf] % self.size[shelf])

    def share(self, items: Ids) -> Floats:
        """pi(x | shelf of x): probability of an item among those of its shelf."""
        shares: Floats = self._zipf[self.rank(items)] / self._cumulative[self.size[self.shelf(items)] - 1]
        return shares

    def draw(self, shelf: Ids, uniform: Floats) -> Ids:
        """Items of these shelves drawn from pi(. | shelf), by inversion of uniform numbers in [0, 1)."""
        size = self.size[shelf]
        rank = np.searchsorted(self._cumulative, uniform * self._cumulative[size - 1], side="right")
        return self.items_of_rank(shelf, np.minimum(rank, size - 1))  # the product may round up to the last sum

    def table(self, items: Ids) -> pl.DataFrame:
        """Columns `item`, `name`, `category`, `subcategory` of the given items."""
        shelf = self.shelf(items)
        names = item_names(shelf, self.place(items))
        category, subcategory = shelf_names(shelf)
        return pl.DataFrame({"item": items, "name": names, "category": category, "subcategory": subcategory})

    def _slot(self, items: Ids) -> Ids:
        return (items - 1) * self._unfactor % self.n_items

    @cached_property
    def _unfactor(self) -> int:
        return pow(self.factor, -1, self.n_items)


@dataclass(frozen=True)
class Tastes:
    """What people want. Shelves are indices of `names.SHELVES`, padded with -1."""

    interests: Ids
    """(U, 4)"""
    first: Floats
    """(U, 4) weights of the interests at the first event, a_u; rows add up to 1."""
    last: Floats
    """(U, 4) weights at the last event, b_u."""
    avoided: Ids
    """(U, 2) A_u."""


@dataclass(frozen=True)
class Dislikes:
    """What people truly do not want, whether or not they have ever said so."""

    subcategories: Ids
    """(U, 2) avoided shelves as indices of `names.SHELVES`, padded with -1."""
    items: Ids
    """(U, 10) the five most popular items of each avoided shelf, padded with 0: ready for `Query.dislikes`."""

    def names(self, user: int) -> list[str]:
        """`["Tea / Oolong"]`."""
        shelves = [SHELVES[s] for s in self.subcategories[user] if s != _NOBODY]
        return [f"{shelf.category} / {shelf.subcategory}" for shelf in shelves]


@dataclass(frozen=True)
class SyntheticData:
    """People and what they took, with the truth behind it. User u is row u of everything."""

    plan: Plan
    catalogue: Catalogue
    tastes: Tastes
    sequences: Sequences
    """All liked items of each person, oldest first, uncut."""
    dislikes: Dislikes

    @cached_property
    def dataset(self) -> Dataset:
        """The user split of the sequences. The table of names is made here: some 200 bytes per item at the peak."""
        items = np.arange(1, self.plan.n_items + 1)
        vocabulary = Vocabulary(tuple(items.tolist()), self.catalogue.table(items))
        protocol = UserSplit(seed=self.plan.seed, max_items=self.plan.max_items)
        return protocol.dataset(self.sequences, vocabulary, name=f"synthetic-{self.plan.n_items}/user-split")

    @cached_property
    def log(self) -> pl.DataFrame:
        """Raw interactions by time: `user_id`, `item_id`, `timestamp` (seconds since 1970), `rating` (1 to 5).

        Liked items have ratings 3 to 5; 1 and 2 are items of avoided shelves.
        """
        rng = numpy_generator(self.plan.seed, "synthetic/ratings")
        times = self.sequences.times
        assert times is not None  # `make` always gives times
        liked = pl.DataFrame(
            {
                "user_id": np.repeat(self.sequences.users, self.sequences.lengths),
                "item_id": self.sequences.items,
                "timestamp": times,
                "rating": rng.choice([3, 4, 5], len(times), p=[0.15, 0.35, 0.5]),
            }
        )
        return pl.concat([liked, self._regretted(times, rng)]).sort("timestamp", maintain_order=True)

    def dislikes_of(self, users: Ids, items: Ids) -> Mask:
        """Whether each user truly dislikes the item: `users` and `items` broadcast."""
        shelf = self.catalogue.shelf(items)
        return (self.dislikes.subcategories[users] == shelf[..., None]).any(axis=-1)

    def oracle_scores(self, part: str = "test", index: Ids | slice = slice(None)) -> Floats:
        """(R, I + 1) p(x) of every item as the target of rows `index` of a part; column 0 is 0.

        Scores like those of a model, made from the law. Takes 8 (I + 1) bytes per row.
        """
        users = self._rows(part).users()[index]
        everything = np.arange(1, self.plan.n_items + 1)
        blocks = [self._law(block, np.broadcast_to(everything, (len(block), len(everything)))) for block in _by(users)]
        scores: Floats = np.pad(np.concatenate(blocks), [(0, 0), (1, 0)])
        return scores

    def oracle_recall(self, k: int, part: str = "test") -> float:
        """Expected recall@k of the oracle over the rows of a part: the mean of the k largest p(x).

        On a shelf, and but for `next(x')`, p falls with the popularity rank. So the k best are among the most popular
        k + |H| of each shelf and `next(x')`, and the catalogue need not be gone through.
        """
        users = self._rows(part).users()
        total = 0.0
        for block in _by(users):
            law = self._law(block, self._candidates(block, k))
            total += float(np.sort(law, axis=1)[:, -k:].sum())
        return total / len(users)

    def _rows(self, part: str) -> Rows:
        return self.dataset.part(part)

    def _regretted(self, times: Ids, rng: np.random.Generator) -> pl.DataFrame:
        """Events on avoided shelves, rated 1 or 2, at random times between a person's first and last."""
        avoided = self.tastes.avoided
        often = np.where(avoided[:, 0] == _NOBODY, 0, np.minimum(rng.poisson(1.0, len(avoided)), 4))
        user = np.repeat(np.arange(len(avoided)), often)
        choice = avoided[user, rng.integers(0, 2, len(user))]
        items = self.catalogue.draw(np.where(choice == _NOBODY, avoided[user, 0], choice), rng.random(len(user)))
        begin, end = times[self.sequences.offsets[user]], times[self.sequences.offsets[user + 1] - 1]
        moment = begin + ((end - begin) * rng.random(len(user))).astype(np.int64)
        events = {"user_id": user, "item_id": items, "timestamp": moment, "rating": rng.integers(1, 3, len(user))}
        return pl.DataFrame(events).unique(["user_id", "item_id"], keep="first", maintain_order=True)

    def _law(self, users: Ids, items: Ids) -> Floats:
        """(B, C) probability of each of `items` (B, C) as the last item of each user, given all before it."""
        if not self.plan.structured:
            shares: Floats = self._counts[items] / len(self.sequences.items)
            return shares
        history = self._before_last(users)
        shelves = shelf_law(self.plan, self.catalogue, self.tastes, users, np.ones(len(users)))
        row = np.arange(len(users))[:, None]

        def unnormalised(x: Ids) -> Floats:
            chosen = shelves[row, self.catalogue.shelf(x)] * self.catalogue.share(x)
            follows = x == self.catalogue.next(history[:, -1:])
            result: Floats = self.plan.follow * follows + (1 - self.plan.follow) * chosen
            return result

        taken = np.where(history == PADDING, 0.0, unnormalised(np.maximum(history, 1))).sum(axis=1, keepdims=True)
        stride = self.plan.n_items + 1
        known = np.isin(row * stride + items, row * stride + history)
        return np.where(known, 0.0, unnormalised(items)) / (1 - taken)

    def _candidates(self, users: Ids, k: int) -> Ids:
        """(B, C) distinct items, the k most probable ones among them; an item to leave out is one of the history."""
        if not self.plan.structured:
            best = np.argsort(-self._counts[1:], kind="stable")[:k] + 1
            return np.broadcast_to(best, (len(users), len(best)))
        history = self._before_last(users)
        depth = np.arange(min(k + history.shape[1], int(self.catalogue.size.max())))
        shelf, rank = np.meshgrid(np.arange(self.catalogue.n_shelves), depth, indexing="ij")
        there = rank < self.catalogue.size[shelf]
        common = self.catalogue.items_of_rank(shelf[there], rank[there])
        following = self.catalogue.next(history[:, -1:])
        following = np.where(np.isin(following, common), history[:, -1:], following)  # never twice
        return np.concatenate([np.broadcast_to(common, (len(users), len(common))), following], axis=1)

    def _before_last(self, users: Ids) -> Ids:
        """(B, L) all items of the users but the last, padded on the left with 0."""
        last = self.sequences.lengths[users] - 1
        rows = Rows(self.sequences, users, last)
        return rows.windows(np.arange(len(users)), int(last.max()))[0]

    @cached_property
    def _counts(self) -> Ids:
        return np.bincount(self.sequences.items, minlength=self.plan.n_items + 1)


def make(
    *,
    n_items: int = 1_000,
    n_users: int = 3_000,
    seed: int = 0,
    structured: bool = True,
    mean_length: float = 9.0,
    max_items: int = 11,
    **options: float,
) -> SyntheticData:
    """The catalogue and its people; `options` are the other fields of `Plan`.

    Time and memory grow with the number of events, not of items, until `dataset` lists the catalogue by name. For ten
    million items and one million people (9.0 million liked events), one core takes 28 s and the process peaks at
    1.1 GiB; `log` adds 2 s (1.5 GiB) and `dataset` 12 s (3.4 GiB).

    Raises
    ------
    ConfigError
        For values out of range, all named together.
    """
    sizes = {"n_items": n_items, "n_users": n_users, "mean_length": mean_length, "max_items": max_items}
    plan = Plan.from_plain({**sizes, "seed": seed, "structured": structured, **options})
    catalogue = Catalogue.build(plan)
    blocks = [_people(plan, catalogue, begin) for begin in range(0, n_users, _BLOCK)]
    tastes = Tastes(*(np.concatenate(column) for column in zip(*(block[0] for block in blocks), strict=True)))
    lengths, items = (np.concatenate(column) for column in zip(*(block[1:] for block in blocks), strict=True))
    if not structured:
        items = numpy_generator(seed, "synthetic/shuffle").permutation(items)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    times = _times(offsets, numpy_generator(seed, "synthetic/times"))
    sequences = Sequences(items, offsets, np.arange(n_users), times)
    return SyntheticData(plan, catalogue, tastes, sequences, _dislikes(catalogue, tastes))


def shelf_law(plan: Plan, catalogue: Catalogue, tastes: Tastes, users: Ids, tau: Floats) -> Floats:
    """(B, G) c(g): probabilities of the shelves for `users` (B,) at the fraction `tau` (B,) of their sequences."""
    weights = (1 - tau)[:, None] * tastes.first[users] + tau[:, None] * tastes.last[users]
    row = np.arange(len(users))
    own = np.zeros((len(users), catalogue.n_shelves))
    for i in range(MAX_INTERESTS):
        own[row, tastes.interests[users, i]] += weights[:, i]  # no interest: adds 0 to the last shelf
    omega = catalogue.shelf_share.reshape(-1, SUBCATEGORIES)
    in_category = (omega / omega.sum(axis=1, keepdims=True)).ravel()  # omega(g | C(g))
    category = np.repeat(own.reshape(len(users), -1, SUBCATEGORIES).sum(axis=2), SUBCATEGORIES, axis=1)
    law = (1 - plan.browse - plan.stray) * own + plan.browse * category * in_category + plan.stray * omega.ravel()
    for avoided in tastes.avoided[users].T:
        avoids = avoided != _NOBODY
        law[row[avoids], avoided[avoids]] = 0.0
    result: Floats = law / law.sum(axis=1, keepdims=True)
    return result


def _people(plan: Plan, catalogue: Catalogue, begin: int) -> tuple[tuple[Ids, Floats, Floats, Ids], Ids, Ids]:
    """Tastes, lengths (B,) and items (sum of lengths,) of one block of people."""
    rng = numpy_generator(plan.seed, "synthetic/people", begin)
    count = min(_BLOCK, plan.n_users - begin)
    tastes = _tastes(catalogue, count, rng)
    lengths = _lengths(plan, count, rng)
    items = _events(plan, catalogue, tastes, lengths, rng)
    return (tastes.interests, tastes.first, tastes.last, tastes.avoided), lengths, items[items != PADDING]


def _lengths(plan: Plan, count: int, rng: np.random.Generator) -> Ids:
    """(B,) 3 + a Poisson number whose mean is itself drawn: many short sequences and a few long ones."""
    rate = rng.gamma(2.0, (plan.mean_length - SHORTEST) / 2.0, count)
    return np.minimum(SHORTEST + rng.poisson(rate), plan.longest).astype(np.int64)


def _tastes(catalogue: Catalogue, count: int, rng: np.random.Generator) -> Tastes:
    interests = rng.choice(catalogue.n_shelves, (count, MAX_INTERESTS), p=catalogue.shelf_share)
    related = rng.random((count, MAX_INTERESTS)) < 0.5
    related[:, 0] = False
    sibling = interests[:, :1] // SUBCATEGORIES * SUBCATEGORIES + rng.integers(0, SUBCATEGORIES, interests.shape)
    interests = np.where(related, sibling, interests)
    interests[np.arange(MAX_INTERESTS) > rng.integers(0, MAX_INTERESTS, count)[:, None]] = _NOBODY
    for i in range(1, MAX_INTERESTS):
        interests[(interests[:, :i] == interests[:, i : i + 1]).any(axis=1), i] = _NOBODY
    first, last = (rng.exponential(size=interests.shape) * (interests != _NOBODY) for _ in range(2))
    avoided = np.stack([_free_sibling(interests[:, 0], interests, rng), np.full(count, _NOBODY)], axis=1)
    other = interests[np.arange(count), rng.integers(0, MAX_INTERESTS, count)]
    second = _free_sibling(np.where(other == _NOBODY, interests[:, 0], other), interests, rng)
    new = (other != _NOBODY) & (second != avoided[:, 0])
    avoided[new, 1] = second[new]
    return Tastes(interests, first / first.sum(1, keepdims=True), last / last.sum(1, keepdims=True), avoided)


def _free_sibling(shelf: Ids, interests: Ids, rng: np.random.Generator) -> Ids:
    """(B,) a random shelf of the same category that is no interest, or -1 if all four are."""
    siblings = shelf[:, None] // SUBCATEGORIES * SUBCATEGORIES + np.arange(SUBCATEGORIES)
    free = ~(siblings[:, :, None] == interests[:, None, :]).any(axis=2)
    best = np.argmax(np.where(free, rng.random(free.shape), -1.0), axis=1)
    row = np.arange(len(shelf))
    return np.where(free[row, best], siblings[row, best], _NOBODY)


def _events(plan: Plan, catalogue: Catalogue, tastes: Tastes, lengths: Ids, rng: np.random.Generator) -> Ids:
    """(B, longest) the items of each person, oldest first, padded on the right with 0."""
    items = np.zeros((len(lengths), int(lengths.max())), dtype=np.int64)
    for k in range(items.shape[1]):
        todo = np.flatnonzero(lengths > k)
        law = shelf_law(plan, catalogue, tastes, todo, k / (lengths[todo] - 1)).cumsum(axis=1)
        while len(todo):  # what a person has already taken is drawn again: p is conditioned on being new
            item = _propose(plan, catalogue, items[todo, k - 1] if k else None, law, rng)
            again = (items[todo, :k] == item[:, None]).any(axis=1)
            items[todo[~again], k] = item[~again]
            todo, law = todo[again], law[again]
    return items


def _propose(plan: Plan, catalogue: Catalogue, newest: Ids | None, law: Floats, rng: np.random.Generator) -> Ids:
    """(B,) one draw of the next item each, from the cumulated probabilities `law` (B, G) of the shelves."""
    shelf = (law <= rng.random((len(law), 1)) * law[:, -1:]).sum(axis=1)
    item = catalogue.draw(np.minimum(shelf, catalogue.n_shelves - 1), rng.random(len(law)))
    follows = rng.random(len(law)) < plan.follow
    return item if newest is None else np.where(follows, catalogue.next(np.maximum(newest, 1)), item)


def _times(offsets: Ids, rng: np.random.Generator) -> Ids:
    """Seconds since 1970 of every event: people begin within two years and come back every three days or so."""
    gaps = 60 + rng.exponential(3 * _DAY, int(offsets[-1])).astype(np.int64)
    begin = _EPOCH + rng.integers(0, 730 * _DAY, len(offsets) - 1)
    total = np.cumsum(gaps)
    first = offsets[:-1]
    return total + np.repeat(begin - total[first], np.diff(offsets))


def _dislikes(catalogue: Catalogue, tastes: Tastes) -> Dislikes:
    shelf = np.repeat(tastes.avoided, 5, axis=1)
    rank = np.tile(np.arange(5), 2)
    return Dislikes(
        tastes.avoided, np.where(shelf == _NOBODY, PADDING, catalogue.items_of_rank(np.maximum(shelf, 0), rank))
    )


def _coprime(n: int) -> int:
    """A number coprime to n, near the golden section of n: its multiples modulo n look shuffled."""
    factor = max(1, round(n * 0.6180339887498949))
    while math.gcd(factor, n) != 1:
        factor += 1
    return factor


def _by(users: Ids, size: int = 128) -> list[Ids]:
    """`users` in blocks of bounded memory."""
    return [users[begin : begin + size] for begin in range(0, len(users), size)]
