"""`Model`: a trained recommender with its vocabulary. Raw ids in, a frame of recommendations out; saves and loads."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Self

import polars as pl
import torch

from guiderec.data.batch import PADDING, Query
from guiderec.data.dataset import RawId, Vocabulary
from guiderec.errors import CheckpointError, ConfigError, DataError
from guiderec.evaluation.ranking import top_k
from guiderec.models.base import ModelConfig, Recommender
from guiderec.recipes.registry import build, model_config
from guiderec.rng import Noise, key_of
from guiderec.training.checkpoint import load_into, load_tensors, save_tensors
from guiderec.training.record import read_json, replacing_directory, write_json

if TYPE_CHECKING:
    from collections.abc import Iterable

FORMAT = 1
"""Version of the model directory."""


class Model:
    """A trained recommender that talks in raw item ids.

    >>> model = Model.from_pretrained("runs/mine/model")                               # doctest: +SKIP
    >>> model.recommend([["B001", "B002"]], k=10, dislikes=[["B003"]])                 # doctest: +SKIP
    """

    def __init__(self, recommender: Recommender, vocabulary: Vocabulary, max_length: int) -> None:
        self.recommender = recommender.eval()
        self.vocabulary = vocabulary
        self.max_length = max_length

    @property
    def name(self) -> str:
        """Name of the model, for example `steerrec`."""
        return self.recommender.config.name

    @property
    def steers(self) -> bool:
        """Whether dislikes change what is generated. Where not, they are filtered from the list."""
        return self.recommender.steers

    def recommend(
        self,
        histories: Sequence[Sequence[RawId]],
        *,
        k: int = 10,
        likes: Sequence[Sequence[RawId]] | None = None,
        dislikes: Sequence[Sequence[RawId]] | None = None,
        guidance_scale: float | None = None,
        exclude_seen: bool = False,
        noise_seed: int = 0,
        batch_size: int = 256,
    ) -> pl.DataFrame:
        """The k best items for each history of raw ids (oldest first), as a frame.

        Dislikes are never in the list. If the model steers, they also change what is generated, with strength
        `guidance_scale` (0 is off; None takes the model's own). Likes are taken by models that know them and refused
        by others. The answer to a history depends on nothing but the history, its likes and dislikes and the seed.

        Returns
        -------
        Frame with one row per recommendation: `query` (index into histories), `item_id`, `name`, `score` and `rank`
        (from 1).

        Raises
        ------
        DataError
            For an item that is not in the catalogue, with the nearest one that is.
        ConfigError
            For k below 1 or above the number of items left, or lists whose number is not that of the histories.
        """
        rows = len(histories)
        if k < 1:
            raise ConfigError(f"k must be at least 1, got {k}.")
        if likes is not None:
            raise ConfigError(f"'{self.name}' cannot be pulled by likes.", hint="append liked items to the history")
        disliked = self._lists("dislikes", dislikes, rows)
        history = [self._encode(items, f"history {row}") for row, items in enumerate(histories)]
        excluded = [[*d, *(h if exclude_seen else [])] for d, h in zip(disliked, history, strict=True)]
        query = Query(
            history=_padded([items[-self.max_length :] for items in history], width=self.max_length, left=True),
            key=torch.tensor([key_of(*items) for items in history], dtype=torch.int64).reshape(rows),
            dislikes=_padded(disliked) if any(disliked) else None,
            guidance_scale=guidance_scale,
        ).to(self.recommender.device)
        exclude = _padded(excluded).to(self.recommender.device) if any(excluded) else None
        frames = [
            self._answer(query.rows(slice(start, start + batch_size)), exclude, start, k, noise_seed)
            for start in range(0, rows, batch_size)
        ]
        return pl.concat(frames) if frames else self._frame(0, torch.empty(0, k), torch.empty(0, k, dtype=torch.int64))

    def _answer(self, query: Query, exclude: torch.Tensor | None, start: int, k: int, seed: int) -> pl.DataFrame:
        out = exclude[start : start + len(query)] if exclude is not None else None
        with torch.inference_mode():
            scores, items = top_k(self.recommender, query, k, Noise(seed), exclude=out)
        return self._frame(start, scores.cpu(), items.cpu())

    def _frame(self, start: int, scores: torch.Tensor, items: torch.Tensor) -> pl.DataFrame:
        rows, k = scores.shape
        flat = items.flatten().tolist()
        frame = pl.DataFrame(
            {
                "query": [start + row for row in range(rows) for _ in range(k)],
                "item_id": self.vocabulary.decode([max(j, 1) for j in flat]),
                "name": self.vocabulary.names([max(j, 1) for j in flat]),
                "score": scores.flatten().tolist(),
                "rank": list(range(1, k + 1)) * rows,
            },
            schema_overrides={"query": pl.Int64, "score": pl.Float64, "rank": pl.Int64, "name": pl.String},
        )
        return frame.filter(pl.Series(flat, dtype=pl.Int64) != PADDING)  # fewer than k items were left

    def save_pretrained(self, folder: str | Path) -> None:
        """Write `model.json`, `weights.safetensors` and `items.parquet`: all that `from_pretrained` needs.

        The folder appears whole or not at all, and replaces one that was there.
        """
        with replacing_directory(Path(folder)) as draft:
            save_tensors(draft / "weights.safetensors", self.recommender.state_dict())
            table = self.vocabulary.table
            table = pl.DataFrame({"item": list(self.vocabulary.raw)}) if table is None else table
            table.write_parquet(draft / "items.parquet")
            plain = {
                "format": FORMAT,
                "model": self.recommender.config.to_plain(),
                "n_items": len(self.vocabulary),
                "max_length": self.max_length,
            }
            write_json(draft / "model.json", plain)

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> Self:
        """The model of a directory written by `save_pretrained`, or of a run directory that holds one.

        Nothing in the directory is executed. Raises CheckpointError if a file is missing, damaged or does not fit.
        """
        folder = Path(folder)
        folder = folder / "model" if (folder / "model" / "model.json").exists() else folder
        plain = read_json(folder / "model.json")
        if plain.get("format") != FORMAT:
            raise CheckpointError(f"{folder}: format {plain.get('format')!r}, this version reads format {FORMAT}.")
        try:
            table = pl.read_parquet(folder / "items.parquet")
        except (OSError, pl.exceptions.PolarsError) as error:
            raise CheckpointError(f"{folder / 'items.parquet'}: cannot be read: {error}") from None
        if len(table) != plain["n_items"] or "item" not in table.columns:
            raise CheckpointError(
                f"{folder / 'items.parquet'}: expected a column 'item' with {plain['n_items']} rows, "
                f"found {table.columns} with {len(table)} rows."
            )
        recommender = build(model_config(plain["model"]), plain["n_items"])
        weights = folder / "weights.safetensors"
        load_into(recommender, load_tensors(weights), weights)
        return cls(recommender, Vocabulary(tuple(table["item"].to_list()), table), plain["max_length"])

    def reconfigured(self, config: ModelConfig) -> Self:
        """The same weights under other options, for example another guidance or number of sampling steps.

        Raises CheckpointError where the options change the shape of the weights.
        """
        if config == self.recommender.config:
            return self
        recommender = build(config, len(self.vocabulary))
        load_into(recommender, self.recommender.state_dict(), "the trained model")
        return type(self)(recommender.to(self.recommender.device), self.vocabulary, self.max_length)

    def _lists(self, what: str, lists: Sequence[Sequence[RawId]] | None, rows: int) -> list[list[int]]:
        if lists is None:
            return [[] for _ in range(rows)]
        if len(lists) != rows:
            raise ConfigError(f"{what}: expected one list per history ({rows}), got {len(lists)}.")
        return [self._encode(items, f"{what} {row}") for row, items in enumerate(lists)]

    def _encode(self, items: Sequence[RawId], where: str) -> list[int]:
        if isinstance(items, str):
            raise DataError(f"{where}: expected a list of item ids, got the text {items!r}.")
        try:
            return self.vocabulary.encode(items)
        except DataError as error:
            raise DataError(f"{where}: {error}") from None


def _padded(lists: Iterable[Sequence[int]], *, width: int | None = None, left: bool = False) -> torch.Tensor:
    """Lists of ids as (B, K) int64, padded with 0 on the right, or on the left."""
    lists = list(lists)
    width = width or max((len(items) for items in lists), default=0)
    full = [[PADDING] * (width - len(i)) + list(i) if left else list(i) + [PADDING] * (width - len(i)) for i in lists]
    return torch.tensor(full, dtype=torch.int64).reshape(len(lists), width)
