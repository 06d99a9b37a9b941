"""Lists and ranks: the one place that decides which items compete, and the one place that masks.

What competes in row b: the items 1..I, or only `query.candidates[b]` where given, without `exclude[b]` (items already
seen, items a user refuses). Padding never competes. The target of an evaluation row always does, also when it is in
`exclude` or missing from the candidates: a repeated purchase has a rank even where seen items are masked.

Ties       in a rank they count against the model: a constant model ranks every target last. In a list the smaller
           item id comes first.
-inf       an item that the model did not generate (beam search). It never enters a list and ranks last.
nan, +inf  an error that names the row and the item.

Models that rank by inner product are scored in blocks of items, (B, n) at a time, so memory grows neither with the
catalogue nor with B x I. All comparisons are between numbers of one matrix product over one partition into blocks: the
score of a target is read from the block that holds it and never computed again by another kernel, whose rounding could
put the target before or behind items with equal vectors.

For very large catalogues a model may have an `index`: lists are then the best of the items that it finds, by their
exact scores and under the same rules (`evaluation/index.py`). Ranks of targets are always taken over all items.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from guiderec.data.batch import PADDING, Query
from guiderec.errors import ConfigError, DataError, ScoreError
from guiderec.models.base import CandidateIndex, EmbeddingRecommender, Recommender, ranks_by_vectors
from guiderec.rng import Noise

Seen = Literal["keep", "mask"]
"""Whether the items of a history compete (`keep`) or are masked."""

BLOCK_SCORES = 2**23
"""Numbers in one block of scores (32 MiB in float32), where the caller does not set `block_items`."""

LEAST_CANDIDATES = 200
"""Candidates that an index is asked for at least, however short the list."""


class Listed(NamedTuple):
    """Lists with the interest that brought each item."""

    scores: Tensor
    """(B, k) as in `top_k`."""
    items: Tensor
    """(B, k) as in `top_k`."""
    interests: Tensor
    """(B, k) int64 in 0..K - 1, the first of the interests that give the item its score; -1 where a row has no item."""


def top_k(
    model: Recommender,
    query: Query,
    k: int,
    noise: Noise,
    *,
    exclude: Tensor | None = None,
    block_items: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Scores (B, k) and items (B, k) of the best k items of each row, best first, equal scores by ascending item id.

    Where fewer than k items compete, the rest of the row is item 0 with score -inf.

    Parameters
    ----------
    exclude
        (B, E) int64 items that must not be listed, padded with 0.
    block_items
        Items scored at a time; None keeps a block within `BLOCK_SCORES` numbers. It changes memory, not the result
        (up to the rounding of the matrix product, which may depend on the shape of its operands).

    Raises
    ------
    ScoreError
        For a score that is nan or +inf, or scores of the wrong shape.
    """
    with inference(model):
        if (index := _index_for(model, query)) is not None:
            listed = _through_index(model, index, query, k, noise, exclude)
            return listed.scores, listed.items
        listing = RunningTopK(k, query.candidates, exclude)
        for first, block in ScoreBlocks(model, query, noise, block_items=block_items):
            listing.add(first, block)
        return listing.scores, listing.items


def top_k_by_interest(
    model: Recommender,
    query: Query,
    k: int,
    noise: Noise,
    *,
    exclude: Tensor | None = None,
    block_items: int | None = None,
) -> Listed:
    """`top_k`, and which of the K interests of a row brought each item; always 0 for models without interests."""
    with inference(model):
        if (index := _index_for(model, query)) is not None:
            return _through_index(model, index, query, k, noise, exclude)
        return _exactly(model, query, k, noise, exclude, block_items)


def target_ranks(
    model: Recommender,
    query: Query,
    target: Tensor,
    noise: Noise,
    *,
    exclude: Tensor | None = None,
    block_items: int | None = None,
) -> Tensor:
    """(B,) int64 ranks of the targets (B,): 1 + the number of other competing items that score at least as high.

    Raises
    ------
    DataError
        For a target that is not an item of the catalogue.
    ScoreError
        As `top_k`.
    """
    with inference(model):
        blocks = ScoreBlocks(model, query, noise, block_items=block_items)
        return _ranks(blocks, target, query.candidates, exclude)[0]


def ranks_both_ways(
    model: Recommender,
    query: Query,
    target: Tensor,
    k: int,
    noise: Noise,
    *,
    seen: Tensor,
    listed: Seen,
    block_items: int | None = None,
) -> tuple[dict[Seen, Tensor], Tensor]:
    """Ranks (B,) where the items `seen` (B, E) compete (`keep`) and where they do not (`mask`), and items (B, k).

    The two are those of `target_ranks` without and with `exclude=seen`, for one question to the model and one pass
    over its scores: a rank falls by the number of seen items before the target. `listed` says under which of them the
    items are those of `top_k`.
    """
    with inference(model):
        blocks = ScoreBlocks(model, query, noise, block_items=block_items)
        listing = RunningTopK(k, query.candidates, seen if listed == "mask" else None)
        kept, before = _ranks(blocks, target, query.candidates, None, listing, _once(seen))
        return {"keep": kept, "mask": kept - before}, listing.items


def from_candidates(
    index: CandidateIndex, users: Tensor, k: int, *, exclude: Tensor | None = None, effort: int = 1
) -> Listed:
    """The best k of the items that an index finds for users (B, K, D), by their exact scores; as in `top_k`.

    `effort` times as many candidates are looked for. A row may have fewer than k items though more compete.
    """
    items = _once(index.candidates(users, effort * candidates_for(index, k), effort=effort))
    if exclude is not None and exclude.shape[1]:
        barred = exclude.sort(dim=1).values
        places = torch.searchsorted(barred, items).clamp(max=barred.shape[1] - 1)
        items = items.masked_fill(barred.gather(1, places) == items, PADDING)
    items = F.pad(items, (0, k), value=PADDING)  # those of a row ascend, with padding in between
    scores, interests = index.scores(users, items).max(dim=1)
    scores = scores.masked_fill(items == PADDING, -torch.inf)
    if not bool((scores < torch.inf).all()):
        raise ScoreError("An item that the index found has a score that is not finite.")
    # The sort is stable, so that equal scores stay ordered by id, as in blocks.
    scores, order = scores.sort(dim=1, descending=True, stable=True)
    best = order[:, :k]
    items = items.gather(1, best)
    return Listed(scores[:, :k], items, interests.gather(1, best).masked_fill(items == PADDING, -1))


def candidates_for(index: CandidateIndex, k: int) -> int:
    """How many candidates an index is asked for, for a list of k items."""
    return max(index.refine * k, LEAST_CANDIDATES)


@contextmanager
def inference(model: Recommender) -> Iterator[None]:
    """The model in eval mode without gradients; afterwards every module has the mode it had."""
    training = [module for module in model.modules() if module.training]
    if training:
        model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        for module in training:
            module.training = True


class ScoreBlocks:
    """The scores of a query as blocks `(first, scores (B, n))` of the items first..first + n - 1, in ascending order.

    May be iterated several times; every pass gives the same numbers. The model is asked once, at construction.
    """

    def __init__(self, model: Recommender, query: Query, noise: Noise, *, block_items: int | None = None) -> None:
        if block_items is not None and block_items < 1:
            raise ConfigError(f"block_items = {block_items}: a block has at least 1 item.")
        self._key = query.key
        self.n_items = model.n_items
        self.users: Tensor | None = None
        if ranks_by_vectors(model):
            users = model.user_vectors(query, noise)
            _require_shape("user_vectors", users, (len(query), None, None))
            self.users = users.to(torch.promote_types(users.dtype, torch.float32))
            self.items = model.item_vectors()
            _require_shape("item_vectors", self.items, (model.n_items + 1, users.shape[2]))
            row_scores = users.shape[0] * users.shape[1]
        else:
            self.items = model.scores(query, noise)
            _require_shape("scores", self.items, (len(query), model.n_items + 1))
            row_scores = len(query)
        self.block_items = block_items or max(1, BLOCK_SCORES // max(1, row_scores))
        self._only: Tensor | None = None

    def __iter__(self) -> Iterator[tuple[int, Tensor]]:
        for first in range(1, self.n_items + 1, self.block_items):
            stop = min(first + self.block_items, self.n_items + 1)
            yield first, self._block(first, stop)

    def with_interests(self) -> Iterator[tuple[int, Tensor, Tensor]]:
        """`(first, scores (B, n), interests (B, n))`: also which interest gave each score, the first of equal ones."""
        for first in range(1, self.n_items + 1, self.block_items):
            stop = min(first + self.block_items, self.n_items + 1)
            if self.users is None or self.users.shape[1] == 1:
                block = self._block(first, stop)
                yield first, block, torch.zeros_like(block, dtype=torch.int64)
            else:
                block, interests = self._products(self.users, first, stop).max(dim=1)
                yield first, self._checked(block, first), interests

    def _block(self, first: int, stop: int) -> Tensor:
        if self._only is not None:
            return self._only
        block = self._checked(self._compute(first, stop), first)
        if stop - first == self.n_items:  # the catalogue fits one block: a second pass reads it again
            self._only = block
        return block

    def _compute(self, first: int, stop: int) -> Tensor:
        if self.users is None:
            return self.items[:, first:stop]
        products = self._products(self.users, first, stop)
        return products[:, 0] if products.shape[1] == 1 else products.amax(dim=1)

    def _products(self, users: Tensor, first: int, stop: int) -> Tensor:
        """(B, K, n) inner products of all interests (B, K, D) with the items of a block."""
        products = users.reshape(-1, users.shape[2]) @ self.items[first:stop].to(users.dtype).T  # (B K, n)
        return products.view(users.shape[0], users.shape[1], -1)

    def _checked(self, block: Tensor, first: int) -> Tensor:
        if not block.numel() or float(block.amax()) < torch.inf:  # the maximum with a nan is nan, which is not below
            return block
        bad = ~(block < torch.inf)
        row, column = (int(i) for i in bad.nonzero()[0])
        error = ScoreError(
            f"Row {row} of the query (key {int(self._key[row])}) scores item {first + column} with "
            f"{float(block[row, column])}; {int(bad.sum()):,} of {bad.numel():,} scores of this block are not finite.",
            hint="look for a loss that diverged; -inf is allowed and means 'not generated'",
        )
        error.row = row
        raise error


class RunningTopK:
    """The best k items (B, k) of the blocks seen so far."""

    def __init__(self, k: int, candidates: Tensor | None, exclude: Tensor | None) -> None:
        if k < 1:
            raise ConfigError(f"k = {k}: a list has at least 1 item.")
        self.k = k
        self.candidates = candidates
        self.exclude = exclude
        self.scores = torch.empty(0)
        self.items = torch.empty(0)
        self.interests = torch.empty(0)

    def add(self, first: int, block: Tensor, interests: Tensor | None = None) -> None:
        """Take the scores (B, n) of the items first..first + n - 1, all larger than those seen before.

        With `interests` (B, n), those of the listed items are kept; all blocks have them, or none.
        """
        if first == 1:
            self.scores = block.new_full((block.shape[0], self.k), -torch.inf)
            self.items = torch.full_like(self.scores, PADDING, dtype=torch.int64)
            self.interests = torch.full_like(self.items, -1)
        block = _forbid(block, -torch.inf, first, self.candidates, self.exclude)
        new_scores, new_items = _contenders(block, self.scores[:, -1:], self.k, first)
        if new_items.shape[1] == 0:
            return
        # Ids ascend along each row, within a block and from block to block, and the sort is stable: equal scores stay
        # ordered by id whatever the size of the blocks. Padding has -inf, which nothing else in the row equals.
        scores, order = torch.cat([self.scores, new_scores], dim=1).sort(dim=1, descending=True, stable=True)
        self.scores, best = scores[:, : self.k], order[:, : self.k]
        self.items = torch.cat([self.items, new_items], dim=1).gather(1, best)
        if interests is not None:
            brought = interests.gather(1, (new_items - first).clamp(min=0)).masked_fill(new_items == PADDING, -1)
            self.interests = torch.cat([self.interests, brought], dim=1).gather(1, best)


def _index_for(model: Recommender, query: Query) -> CandidateIndex | None:
    """The index that lists are made of; None where every item is scored, and for few candidates, which are quicker so.

    ConfigError for an index that cannot serve the model.
    """
    if not isinstance(model, EmbeddingRecommender) or model.index is None or query.candidates is not None:
        return None
    if not ranks_by_vectors(model):
        raise ConfigError(f"{type(model).__name__} does not rank by inner product, so an index cannot serve it.")
    if model.index.n_items != model.n_items:
        raise ConfigError(f"The index has {model.index.n_items:,} items, the model {model.n_items:,}.")
    return model.index


def _through_index(
    model: Recommender, index: CandidateIndex, query: Query, k: int, noise: Noise, exclude: Tensor | None
) -> Listed:
    """Lists from an index. A row for which excluded items leave less than k of its candidates is asked for again.

    Every time with four times the effort, and scored in full once candidates are a quarter of the catalogue. How hard a
    row is looked for depends on that row alone, so that its answer does not depend on the batch.
    """
    assert isinstance(model, EmbeddingRecommender)
    if k < 1:
        raise ConfigError(f"k = {k}: a list has at least 1 item.")
    device = query.history.device
    users = model.user_vectors(query, noise).to("cpu", torch.float32)
    _require_shape("user_vectors", users, (len(query), None, None))
    _require_finite(users, query)
    barred = torch.zeros(len(query), 0, dtype=torch.int64) if exclude is None else _once(exclude.cpu())
    n_barred = (barred != PADDING).sum(dim=1)
    wanted = (index.n_items - n_barred).clamp(max=k)
    asked = candidates_for(index, k)
    effort = 2 ** torch.ceil(torch.log2(1 + n_barred / asked)).to(torch.int64)  # as many spare ones as are excluded
    scores = users.new_full((len(query), k), -torch.inf)
    items = torch.full_like(scores, PADDING, dtype=torch.int64)
    interests = torch.full_like(items, -1)
    pending = torch.arange(len(query))
    while len(pending):
        for level in sorted(set(effort[pending].tolist())):
            rows = pending[effort[pending] == level]
            if level * asked > index.n_items // 4:
                found = _exactly(model, query.rows(rows.to(device)), k, noise, barred[rows].to(device))
            else:
                found = from_candidates(index, users[rows], k, exclude=barred[rows], effort=level)
            for into, part in zip((scores, items, interests), found, strict=True):
                into[rows] = part.to("cpu", into.dtype)
        short = (items[pending] != PADDING).sum(dim=1) < wanted[pending]
        pending = pending[short & (effort[pending] * asked <= index.n_items // 4)]
        effort[pending] *= 4
    return Listed(scores.to(device), items.to(device), interests.to(device))


def _exactly(
    model: Recommender, query: Query, k: int, noise: Noise, exclude: Tensor | None, block_items: int | None = None
) -> Listed:
    """Lists from the scores of all items, and the interests that brought them."""
    listing = RunningTopK(k, query.candidates, exclude)
    for first, block, interests in ScoreBlocks(model, query, noise, block_items=block_items).with_interests():
        listing.add(first, block, interests)
    return Listed(listing.scores, listing.items, listing.interests)


def _ranks(
    blocks: ScoreBlocks,
    target: Tensor,
    candidates: Tensor | None,
    exclude: Tensor | None,
    listing: RunningTopK | None = None,
    among: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Ranks (B,) and how many of the items `among` (B, E), each named once, are counted in them (B,).

    Two passes: the scores of the targets, then who scores at least as high. The first one also feeds `listing`.
    """
    _require_items(target, blocks.n_items)
    score = torch.empty(0)
    for first, block in blocks:
        if first == 1:
            score = block.new_empty(len(target))
        rows, columns = _places(target[:, None], first, block.shape[1])
        score[rows] = block[rows, columns]
        if listing is not None:
            listing.add(first, block)
    rank, counted = torch.ones_like(target), torch.zeros_like(target)
    for first, block in blocks:
        wins = _forbid(block >= score[:, None], False, first, candidates, exclude)
        wins[_places(target[:, None], first, block.shape[1])] = False
        rank += wins.sum(dim=1)
        if among is not None:
            rows, columns = _places(among, first, block.shape[1])
            counted.index_add_(0, rows, wins[rows, columns].to(counted.dtype))
    return rank, counted


def _once(items: Tensor) -> Tensor:
    """`items` (B, E) with each item of a row once, the rest padding."""
    ordered = items.sort(dim=1).values
    repeated = torch.zeros_like(ordered, dtype=torch.bool)
    repeated[:, 1:] = ordered[:, 1:] == ordered[:, :-1]
    return ordered.masked_fill(repeated, PADDING)


def _contenders(block: Tensor, floor: Tensor, k: int, first: int) -> tuple[Tensor, Tensor]:
    """Scores and items (B, m) of a block (B, n) that can enter lists whose last score is `floor` (B, 1).

    An item equal to the floor cannot: it has a larger id than all listed. m is the most that any row has; other rows
    are padded with -inf and item 0. After the first blocks few items remain, so that no sort runs over whole blocks.
    """
    enters = block > floor
    if int(enters.count_nonzero()) > 2 * k * len(block) and block.shape[1] > k:
        enters &= block >= block.topk(k, dim=1, sorted=False).values.amin(dim=1, keepdim=True)
    rows, columns = enters.nonzero(as_tuple=True)  # row by row, ascending
    counts = rows.bincount(minlength=len(block))
    places = torch.arange(len(rows), device=block.device) - (counts.cumsum(0) - counts)[rows]
    scores = block.new_full((len(block), int(counts.max())), -torch.inf)
    items = torch.full_like(scores, PADDING, dtype=torch.int64)
    scores[rows, places] = block[rows, columns]
    items[rows, places] = columns + first
    return scores, items


def _forbid(
    block: Tensor, value: float | bool, first: int, candidates: Tensor | None, exclude: Tensor | None
) -> Tensor:
    """`block` (B, n) with `value` at the items that do not compete; the block itself stays as it was."""
    n = block.shape[1]
    if candidates is not None:
        places = _places(candidates, first, n)
        kept = torch.full_like(block, value)
        kept[places] = block[places]
        block = kept
    if exclude is not None:
        block = block.index_put(_places(exclude, first, n), torch.tensor(value, dtype=block.dtype, device=block.device))
    return block


def _places(items: Tensor, first: int, n: int) -> tuple[Tensor, Tensor]:
    """Rows and columns, in a block of the items first..first + n - 1 (first >= 1), of ids (B, E) padded with 0."""
    rows, columns = ((items >= first) & (items < first + n)).nonzero(as_tuple=True)
    return rows, items[rows, columns] - first


def _require_finite(users: Tensor, query: Query) -> None:
    finite = users.isfinite().flatten(1).all(dim=1)
    if not bool(finite.all()):
        row = int((~finite).nonzero()[0])
        error = ScoreError(
            f"Row {row} of the query (key {int(query.key[row])}) has a user vector that is not finite.",
            hint="look for a loss that diverged",
        )
        error.row = row
        raise error


def _require_shape(what: str, found: Tensor, expected: tuple[int | None, ...]) -> None:
    fits = len(found.shape) == len(expected) and all(e in (None, f) for e, f in zip(expected, found.shape, strict=True))
    if not fits:
        wanted = ", ".join("any" if size is None else str(size) for size in expected)
        raise ScoreError(f"`{what}` must have shape ({wanted}); the model gave {tuple(found.shape)}.")


def _require_items(target: Tensor, n_items: int) -> None:
    outside = (target < 1) | (target > n_items)
    if bool(outside.any()):
        row = int(outside.nonzero()[0])
        raise DataError(
            f"The target of row {row} is item {int(target[row])}; items are 1..{n_items} "
            f"({int(outside.sum())} of {len(target)} targets are outside)."
        )
