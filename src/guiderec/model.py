"""`Model`: a trained recommender with its vocabulary. Raw ids in, a frame of recommendations out; saves and loads."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self

import polars as pl
import torch
from pydantic import Field

from guiderec.config import Part
from guiderec.data import parquet
from guiderec.data.batch import PADDING, Query
from guiderec.data.dataset import RawId, Vocabulary
from guiderec.errors import CheckpointError, ConfigError, DataError
from guiderec.evaluation.diversity import category_codes, diversify, require_weight
from guiderec.evaluation.index import FILE as INDEX_FILE
from guiderec.evaluation.index import ItemIndex, attach
from guiderec.evaluation.ranking import Listed, top_k_by_interest
from guiderec.files import read_json, replacing_directory, write_json
from guiderec.limits import MAX_GUIDANCE_SCALE, beyond
from guiderec.models.base import EmbeddingRecommender, ModelConfig, Recommender
from guiderec.recipes.registry import build, model_config
from guiderec.rng import Noise, key_of
from guiderec.training.checkpoint import largest_side, load_into, load_tensors, save_tensors
from guiderec.wishes import Category, Heard, Hearing, Honours, Wish, encode, refuse_contradictions, rows_of

FORMAT = 1
"""Version of the model directory."""
LENGTH = 10
"""Items in a list where nobody says how many."""


class Description(Part):
    """What `model.json` holds."""

    format: Literal[1] = 1
    """`FORMAT`."""
    model: dict[str, Any]
    """Options of the model; `name` says which one."""
    n_items: int = Field(ge=1)
    """I, the number of rows of `items.parquet`."""
    max_length: int = Field(ge=1)
    """L, how many of the newest items of a history the model is shown; bounded by what it reads, and by `limits`."""


class Model:
    """A trained recommender that talks in raw item ids.

    >>> model = Model.from_pretrained("runs/mine/model")                               # doctest: +SKIP
    >>> model.recommend([["B001", "B002"]], k=10, dislikes=[["B003"]])                 # doctest: +SKIP
    """

    def __init__(self, recommender: Recommender, vocabulary: Vocabulary, max_length: int) -> None:
        if len(vocabulary) != recommender.n_items:
            raise ConfigError(
                f"The vocabulary has {len(vocabulary):,} items, but the model was made for {recommender.n_items:,}."
            )
        if max_length < 1:
            raise ConfigError(f"max_length must be at least 1, got {max_length}.")
        _refuse_beyond(recommender.config, max_length)
        self.recommender = recommender.eval()
        self.vocabulary = vocabulary
        self.max_length = max_length
        self._hearing = Hearing(vocabulary)

    @property
    def name(self) -> str:
        """Name of the model, for example `steerrec`."""
        return self.recommender.config.name

    @property
    def steers(self) -> bool:
        """Whether dislikes change what is generated. Where not, they are filtered from the list."""
        return self.recommender.steers

    @property
    def honours(self) -> Honours:
        """What becomes of likes and of dislikes."""
        return Honours(
            likes="steered" if self.recommender.steers_by_likes else "history",
            dislikes="steered" if self.recommender.steers else "filtered",
        )

    @property
    def explains(self) -> bool:
        """Whether `recommend(explain=True)` can say what the history and each wish contributed to a score."""
        return self.recommender.explains

    @property
    def n_interests(self) -> int:
        """K, the vectors that rank the items for one history; 1 for a model without interests."""
        return self.recommender.n_interests if isinstance(self.recommender, EmbeddingRecommender) else 1

    @property
    def index(self) -> ItemIndex | None:
        """The index that lists are made through; None where all items are scored."""
        found = getattr(self.recommender, "index", None)
        return found if isinstance(found, ItemIndex) else None

    def detach_index(self) -> None:
        """Score all items from now on."""
        if self.index is not None:
            assert isinstance(self.recommender, EmbeddingRecommender)
            self.recommender.index = None

    def recommend(
        self,
        histories: Sequence[Sequence[RawId]],
        *,
        k: int | None = None,
        likes: Sequence[Sequence[Wish]] | None = None,
        dislikes: Sequence[Sequence[Wish]] | None = None,
        guidance_scale: float | None = None,
        exclude_seen: bool = False,
        explain: bool = False,
        diversity: float | None = None,
        diversity_pool: int = 100,
        noise_seed: int = 0,
        batch_size: int = 256,
    ) -> pl.DataFrame:
        """The k best items for each history of raw ids (oldest first), as a frame. k None is what `list_length` says.

        Dislikes are never in the list. If the model steers, they also change what is generated, with strength
        `guidance_scale` (0 is off; None takes the model's own). Likes pull, with the same strength, in a model that can
        be pulled; in any other they are appended to the history, unless the strength is 0. `honours` says which. The
        answer to a history depends on nothing but the history, its wishes, the strength and the seed; the rounding of
        the last digits may depend on what is asked beside it.

        Parameters
        ----------
        likes, dislikes
            One list per history, of raw item ids and of categories (`guiderec.Category`). A category means all its
            items; what is generated is steered by some of them (`guiderec.wishes`).
        explain
            Whether to add `contributions`: what the history and each wish added to the score. They sum to it, to
            rounding.
        diversity
            lambda >= 0, in units of the score: the list is chosen one by one from the best `diversity_pool` items by
            score + lambda times the number of chosen items of another category (ComiRec, KDD 2020). Scores stay those
            of the model, so that they need not fall along the list. Categories are the column `category` of the items
            table; an item without one differs from none. None and 0 are the plain list.

        Returns
        -------
        Frame with one row per recommendation: `query` (index into histories), `item_id`, `name`, `score` and `rank`
        (from 1). A query has fewer than k rows where dislikes and seen items leave fewer items. For a model of several
        interests also `interest`, in 0..K - 1: the one that brought the item. It has a meaning within one query only.
        With `explain` also `contributions`, a list of structs: `source` ("history", "like", "dislike", or "base" for
        what the model gives to everybody), `item_id` or `category` of the wish, and `amount`, in units of the score.

        Raises
        ------
        DataError
            For an item or category that is not in the catalogue, with the nearest one that is, or something that is no
            list; for a wish that is both liked and disliked; for diversity without categories.
        ConfigError
            For k below 1 or above the number of items; a number of dislike lists that is not that of the histories;
            a strength that is negative, above 1,000, or for a model without guidance; a diversity that is negative, or
            a pool smaller than k; and to explain what is not a sum.
        """
        rows = len(rows_of("histories", histories))
        k = self.list_length(k)
        self._check_whole("batch_size", batch_size)
        self._check_scale(guidance_scale)
        self._check_diversity(diversity, diversity_pool, k)
        self._check_explain(explain)
        liked = self._hearing.lists("likes", likes, rows)
        disliked = self._hearing.lists("dislikes", dislikes, rows)
        refuse_contradictions(liked, disliked)
        history = [encode(self.vocabulary, items, f"history {row}") for row, items in enumerate(histories)]
        excluded = [[*_items(d), *(h if exclude_seen else [])] for d, h in zip(disliked, history, strict=True)]
        if not self.recommender.steers_by_likes:
            if guidance_scale != 0:
                history = [[*h, *_told(likes_of)] for h, likes_of in zip(history, liked, strict=True)]
            liked = [[] for _ in liked]
        groups = [_groups(row) for row in liked]
        query = Query(
            history=_padded([items[-self.max_length :] for items in history], width=self.max_length, left=True),
            key=torch.tensor([key_of(*items) for items in history], dtype=torch.int64).reshape(rows),
            likes=_padded(map(_told, liked)) if any(liked) else None,
            like_groups=_padded(groups) if any(map(any, groups)) else None,
            dislikes=_padded(map(_told, disliked)) if any(disliked) else None,
            guidance_scale=guidance_scale,
        ).to(self.recommender.device)
        exclude = _padded(excluded).to(self.recommender.device) if any(excluded) else None
        weight = diversity or 0.0
        pool = min(diversity_pool, len(self.vocabulary)) if weight else k
        frames = []
        for start in range(0, rows, batch_size):
            part = slice(start, start + batch_size)
            listed = self._chosen(self._answer(query, exclude, part, pool, noise_seed), k, weight)
            frame = self._frame(start, listed)
            if explain:
                told = self._contributions(query.rows(part), listed.items, liked[part], disliked[part], noise_seed)
                frame = frame.with_columns(told)
            if bool((listed.items == PADDING).any()):  # a query for polars costs more than the answer of a small model
                frame = frame.filter(pl.Series(listed.items.flatten().tolist(), dtype=pl.Int64) != PADDING)
            frames.append(frame)
        none = torch.empty(0, k, dtype=torch.int64)
        if len(frames) == 1:
            return frames[0]
        return pl.concat(frames) if frames else self._frame(0, Listed(none.double(), none, none))

    def list_length(self, k: int | None = None) -> int:
        """k, or of None 10, and all items where there are fewer. ConfigError for a k that no list can have."""
        if k is None:
            return min(LENGTH, len(self.vocabulary))
        self._check_whole("k", k, at_most=len(self.vocabulary))
        return k

    def meant(self, wishes: Sequence[Wish]) -> list[RawId]:
        """The raw ids of all items that wishes mean, each once. DataError for what is not in the catalogue."""
        found = dict.fromkeys(_items(self._hearing.hear(wishes, "wishes")))
        return self.vocabulary.decode(list(found))

    def _answer(self, query: Query, exclude: torch.Tensor | None, rows: slice, k: int, seed: int) -> Listed:
        out = exclude[rows] if exclude is not None else None
        with torch.inference_mode():
            found = top_k_by_interest(self.recommender, query.rows(rows), k, Noise(seed), exclude=out)
            return Listed(*(part.cpu() for part in found))

    def _contributions(
        self,
        query: Query,
        items: torch.Tensor,
        likes: Sequence[Sequence[Heard]],
        dislikes: Sequence[Sequence[Heard]],
        seed: int,
    ) -> pl.Series:
        """What the history and each wish gave to the scores of items (B, k), one list per recommendation."""
        recommender = self.recommender
        assert isinstance(recommender, EmbeddingRecommender)
        with torch.inference_mode():
            parts = recommender.parts(query, Noise(seed))
            vectors = recommender.item_vectors()[items.to(recommender.device)].double()  # (B, k, D)
            given = [(vectors @ part.double().transpose(1, 2)).tolist() for part in parts]  # (B, k, P) each
        texts = isinstance(self.vocabulary.raw[0], str)
        rows = []
        for row, (liked, disliked) in enumerate(zip(likes, dislikes, strict=True)):
            labels = [_label("history"), _label("base")]
            labels += [_label("like", heard.wish) for heard in liked]
            labels += [_label("dislike", heard.wish) for heard in disliked]
            for place in range(items.shape[1]):
                history, base, pulled, pushed = (part[row][place] for part in given)
                amounts = [sum(history), sum(base), *_per_wish(liked, pulled), *_per_wish(disliked, pushed)]
                rows.append([{**label, "amount": amount} for label, amount in zip(labels, amounts, strict=True)])
        kind = pl.Struct(
            {
                "source": pl.String,
                "item_id": pl.String if texts else pl.Int64,
                "category": pl.String,
                "amount": pl.Float64,
            }
        )
        return pl.Series("contributions", rows, dtype=pl.List(kind))

    def _frame(self, start: int, listed: Listed) -> pl.DataFrame:
        """One row per place of the lists (B, k), also where no item was left."""
        scores, items, interests = listed
        rows, k = items.shape
        flat = items.clamp(min=1).flatten().tolist()
        ids = pl.String if isinstance(self.vocabulary.raw[0], str) else pl.Int64
        columns = [
            pl.Series("query", [start + row for row in range(rows) for _ in range(k)], dtype=pl.Int64),
            pl.Series("item_id", self.vocabulary.decode(flat), dtype=ids),
            pl.Series("name", self.vocabulary.names(flat), dtype=pl.String),
            pl.Series("score", scores.flatten().tolist(), dtype=pl.Float64),
            pl.Series("rank", list(range(1, k + 1)) * rows, dtype=pl.Int64),
        ]
        if self.n_interests > 1:
            columns.append(pl.Series("interest", interests.flatten().tolist(), dtype=pl.Int64))
        return pl.DataFrame(columns)

    def _chosen(self, listed: Listed, k: int, weight: float) -> Listed:
        """The first k of each list, or k of it by `diversify`."""
        if weight == 0:
            return Listed(*(part[:, :k] for part in listed))
        places = diversify(listed.scores, self._categories[listed.items], k, weight)
        left = places < 0
        scores, items, interests = (part.gather(1, places.clamp(min=0)) for part in listed)
        return Listed(
            scores.masked_fill(left, -torch.inf), items.masked_fill(left, PADDING), interests.masked_fill(left, -1)
        )

    @cached_property
    def _categories(self) -> torch.Tensor:
        """(I + 1,) codes of the items' categories. DataError where there are none."""
        table = self.vocabulary.table
        if table is None or "category" not in table.columns:
            found = "there is no items table" if table is None else f"the items table has {', '.join(table.columns)}"
            raise DataError(
                f"diversity needs the category of each item, and {found}.",
                hint="prepare the data with an items table that has a column 'category', and train again",
            )
        return category_codes(table["category"].to_list())

    def save_pretrained(self, folder: str | Path) -> None:
        """Write `model.json`, `weights.safetensors` and `items.parquet`: all that `from_pretrained` needs.

        The folder appears whole or not at all, and replaces one that was there.
        """
        with replacing_directory(Path(folder)) as draft:
            save_tensors(draft / "weights.safetensors", self.recommender.state_dict())
            table = self.vocabulary.table
            table = pl.DataFrame({"item": list(self.vocabulary.raw)}) if table is None else table
            parquet.write(table, draft / "items.parquet")
            description = Description(
                model=self.recommender.config.to_plain(), n_items=len(self.vocabulary), max_length=self.max_length
            )
            write_json(draft / "model.json", description.to_plain())

    @classmethod
    def from_pretrained(cls, folder: str | Path, *, index: bool = False) -> Self:
        """The model of a directory written by `save_pretrained`, or of a run directory that holds one.

        Nothing in the directory is executed. With `index`, lists are made through the index of items that
        `guiderec index` built there (`evaluation/index.py`).

        Raises
        ------
        CheckpointError
            If a file is missing, damaged or does not fit; for a run whose training has not ended; for an index that is
            missing, or of other weights.
        ConfigError
            With `index`, for a model that does not rank by inner product, and without FAISS.
        """
        folder = model_folder(folder)
        refuse_unfinished(folder)
        if not folder.is_dir():
            raise CheckpointError(f"{folder}: there is no such directory.")
        require_plain_files(folder, (*FILES, INDEX_FILE) if index else FILES)
        where, weights = folder / "model.json", folder / "weights.safetensors"
        plain = read_json(where)
        if plain.get("format") != FORMAT:
            raise CheckpointError(
                f"{where}: format {plain.get('format')!r}, this version reads format {FORMAT}.",
                hint="load it with the version of guiderec that wrote it",
            )
        with _damage_named(where):
            description = Description.from_plain(plain)
            config = model_config(description.model)
            _refuse_beyond(config, description.max_length)
            vocabulary = _read_items(folder / "items.parquet", description.n_items)
            _require_width(config, weights)
            recommender = build(config, description.n_items)
        with _damage_named(weights):
            load_into(recommender, load_tensors(weights), weights)
        if index:
            attach(recommender, folder)
        return cls(recommender, vocabulary, description.max_length)

    def reconfigured(self, config: ModelConfig) -> Self:
        """The same weights under other options, for example another guidance or number of sampling steps.

        Raises CheckpointError where the options change the shape of the weights.
        """
        if config == self.recommender.config:
            return self
        recommender = build(config, len(self.vocabulary))
        load_into(recommender, self.recommender.state_dict(), "the trained model")
        return type(self)(recommender.to(self.recommender.device), self.vocabulary, self.max_length)

    def _check_whole(self, name: str, value: int, *, at_most: int | None = None) -> None:
        if isinstance(value, bool) or not isinstance(value, int):
            raise ConfigError(f"{name} must be a whole number, got {value!r}.")
        if value < 1:
            raise ConfigError(f"{name} must be at least 1, got {value}.")
        if at_most is not None and value > at_most:
            raise ConfigError(f"{name} must be at most {at_most:,}, the number of items, got {value:,}.")

    def _check_scale(self, scale: float | None) -> None:
        if scale is None:
            return
        if not isinstance(scale, int | float) or not math.isfinite(scale) or scale < 0:
            raise ConfigError(f"guidance_scale must be a number from 0 on, got {scale!r}.")
        if scale > MAX_GUIDANCE_SCALE:
            raise ConfigError(f"guidance_scale must be at most {MAX_GUIDANCE_SCALE:,.0f}, got {scale:,}.")
        if scale > 0 and "guidance" not in type(self.recommender.config).model_fields:
            raise ConfigError(
                f"'{self.name}' has no guidance, so guidance_scale = {scale} cannot be honoured.",
                hint="leave it out: dislikes are filtered from the list of every model",
            )

    def _check_diversity(self, diversity: float | None, pool: int, k: int) -> None:
        if diversity is None:
            return
        require_weight(diversity)
        self._check_whole("diversity_pool", pool)
        if pool < k:
            raise ConfigError(f"diversity_pool must be at least k = {k}, got {pool}.")
        if diversity > 0:
            _ = self._categories

    def _check_explain(self, explain: bool) -> None:
        if explain and not self.explains:
            raise ConfigError(
                f"A score of '{self.name}' is no sum of what the history and the wishes gave: nothing to explain.",
                hint="leave explain out, or choose a model whose guidance is linear",
            )


FILES = ("model.json", "weights.safetensors", "items.parquet")
"""What a model directory holds, beside an index."""


def require_plain_files(folder: Path, names: Iterable[str]) -> None:
    """CheckpointError where one of the files that are there is a link to elsewhere, a directory or a device."""
    for name in names:
        file = folder / name
        if file.is_symlink() or (file.exists() and not file.is_file()):
            found = f"a link to {file.readlink()}" if file.is_symlink() else "a directory or a device"
            raise CheckpointError(
                f"{file}: not a plain file inside the directory, but {found}.", hint="copy the file itself to there"
            )


def model_folder(path: str | Path) -> Path:
    """The folder of a model's files: that of a run, or else `path` itself."""
    folder = Path(path)
    return folder / "model" if (folder / "model" / "model.json").exists() else folder


def refuse_unfinished(folder: Path) -> None:
    """CheckpointError where `folder` is a run without a model, or the place of its model: training has not ended."""
    run = folder.parent if folder.name == "model" and not folder.exists() else folder
    if not (run / "experiment.json").is_file() or (run / "model").exists():
        return
    recipe = read_json(run / "experiment.json").get("recipe") or "RECIPE"
    raise CheckpointError(
        f"{run}: holds no model, since its training has not ended.",
        hint=f"`guiderec train {recipe} --data SPLIT --out {run} --resume`, with the options that it was begun with, "
        "goes on where it stopped",
    )


def _refuse_beyond(config: ModelConfig, max_length: int) -> None:
    if found := beyond(config, max_length):
        raise ConfigError(" ".join(found))


def _require_width(config: ModelConfig, weights: Path) -> None:
    """CheckpointError for a width that none of the weights has, before a model of that width takes all memory."""
    width, largest = getattr(config, "dim", 0), largest_side(weights)
    if width > largest:
        raise CheckpointError(
            f"{weights}: the weights do not fit: model.dim = {width:,}, and the longest side of them is {largest:,}.",
            hint="the file, or the model.json beside it, is that of another model",
        )


@contextmanager
def _damage_named(where: Path) -> Iterator[None]:
    """CheckpointError for what damaged files and absurd sizes raise in the libraries below, which know no file."""
    try:
        yield
    except ConfigError as error:
        raise CheckpointError(f"{where}: {error}") from None
    except (ArithmeticError, MemoryError, OSError, RuntimeError, TypeError, ValueError) as error:
        said = (str(error).strip() or "no more is known").splitlines()[0][:200]
        raise CheckpointError(
            f"{where}: no model can be made of it ({type(error).__name__}: {said}).",
            hint="it is damaged, or for a machine with more memory",
        ) from error


def _told(wishes: Iterable[Heard]) -> list[int]:
    """What a model is told of the wishes of a row, one after another."""
    return [item for heard in wishes for item in heard.told]


def _items(wishes: Iterable[Heard]) -> list[int]:
    """All items that the wishes of a row mean."""
    return [item for heard in wishes for item in heard.items]


def _label(source: str, wish: Wish | None = None) -> dict[str, Any]:
    """What a contribution says beside its amount."""
    category = wish.name if isinstance(wish, Category) else None
    return {"source": source, "item_id": None if isinstance(wish, Category) else wish, "category": category}


def _per_wish(wishes: Sequence[Heard], amounts: Sequence[float]) -> list[float]:
    """One amount per wish of a row, of those of all that the model was told of, one after another."""
    found, place = [], 0
    for heard in wishes:
        stop = place + len(heard.told)
        found.append(sum(amounts[place:stop]))
        place = stop
    return found


def _read_items(path: Path, n_items: int) -> Vocabulary:
    """The vocabulary of a model directory. CheckpointError when the file is damaged or holds something else."""
    if not path.exists():
        raise CheckpointError(f"{path}: there is no such file.")
    try:
        table = pl.read_parquet(path)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise CheckpointError(f"{path}: not a readable Parquet file ({error}).", hint="it is damaged") from None
    if "item" not in table.columns or len(table) != n_items:
        raise CheckpointError(
            f"{path}: expected a column 'item' with {n_items} rows, found {table.columns} with {len(table)} rows."
        )
    items = table["item"]
    if not (items.dtype == pl.String or items.dtype.is_integer()) or items.null_count() or items.n_unique() < n_items:
        raise CheckpointError(
            f"{path}: item ids must be distinct text or whole numbers, found {items.dtype} with {items.null_count()} "
            f"missing and {n_items - items.n_unique()} repeated."
        )
    return Vocabulary(tuple(items.to_list()), table)


def _groups(wishes: Sequence[Heard]) -> list[int]:
    """For each item that the model is told of: number of its category among the wishes, 0 if named itself."""
    numbers = enumerate(wishes, start=1)
    return [number if isinstance(heard.wish, Category) else 0 for number, heard in numbers for _ in heard.told]


def _padded(lists: Iterable[Sequence[int]], *, width: int | None = None, left: bool = False) -> torch.Tensor:
    """Lists of ids as (B, K) int64, padded with 0 on the right, or on the left."""
    lists = list(lists)
    width = width or max((len(items) for items in lists), default=0)
    full = [[PADDING] * (width - len(i)) + list(i) if left else list(i) + [PADDING] * (width - len(i)) for i in lists]
    return torch.tensor(full, dtype=torch.int64).reshape(len(lists), width)
