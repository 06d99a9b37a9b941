"""A model directory, opened for serving: checked, warmed up, named by a digest, its catalogue ready to be searched."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import polars as pl

from guiderec.data.dataset import RawId, Vocabulary
from guiderec.errors import CheckpointError, DataError, GuideRecError, nearest
from guiderec.evaluation.index import FILE
from guiderec.model import FILES, Model, model_folder
from guiderec.models.base import HistoryConditioned
from guiderec.serving.feedback import Event
from guiderec.serving.schema import CategoryWish, Item, ItemWish
from guiderec.steering.groups import SEPARATOR, groups_of
from guiderec.wishes import COLUMN


class Catalogue:
    """Items to look up, name and search, and their categories."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary
        self._name, self._category = _column(vocabulary, "name"), _column(vocabulary, COLUMN)

    def __len__(self) -> int:
        return len(self.vocabulary)

    def known(self, item: RawId) -> RawId:
        """An item's id as the catalogue writes it. DataError for one that it lacks."""
        j = self.vocabulary.find(item)
        if j is None:  # without the nearest id: looking for it among many items takes seconds
            raise DataError(f"Item {item!r} is not in the catalogue of {len(self):,} items.")
        return self.vocabulary.raw[j - 1]

    def known_category(self, name: str) -> str:
        """The name itself. DataError for a category that the catalogue lacks."""
        if not self.categories:
            raise DataError("The items of this catalogue have no categories.", hint="wish for items instead")
        if name not in self.categories:
            near = nearest(name, list(self.categories)[:1000])
            raise DataError(f"Category {name!r} is not one of the {len(self.categories):,} of the catalogue.{near}")
        return name

    @cached_property
    def categories(self) -> dict[str, int]:
        """Names with their numbers of items, largest first."""
        if self._category is None:
            return {}
        groups = groups_of(self.vocabulary, COLUMN)
        sizes = groups.members.sum(axis=0).astype(int).tolist()
        return dict(sorted(zip(groups.names, sizes, strict=True), key=lambda pair: (-pair[1], pair[0])))

    def items(self, raw: Sequence[RawId]) -> list[Item]:
        """Items of the catalogue with what to call them."""
        ids = self.vocabulary.encode(raw)
        named = zip(raw, self.vocabulary.names(ids), ids, strict=True)
        return [Item(item_id=item, name=name, category=self._category_of(j)) for item, name, j in named]

    def stored_item(self, text: str) -> RawId | None:
        """The id of an item that was stored as text; None where this catalogue lacks it."""
        j = self.vocabulary.find(text)
        return None if j is None else self.vocabulary.raw[j - 1]

    def stored_wish(self, event: Event) -> ItemWish | CategoryWish | None:
        """A stored wish as one about this catalogue; None where it lacks the item or category."""
        if event.category is not None:
            return CategoryWish(category=event.category) if event.category in self.categories else None
        item = None if event.item is None else self.stored_item(event.item)
        return None if item is None else ItemWish(item=item)

    def wish(self, said: ItemWish | CategoryWish) -> ItemWish | CategoryWish:
        """A wish with its item as the catalogue writes it. DataError for what the catalogue lacks."""
        if isinstance(said, CategoryWish):
            return CategoryWish(category=self.known_category(said.category))
        return ItemWish(item=self.known(said.item))

    def search(self, words: str, limit: int) -> list[Item]:
        """Items whose name or id contains the text, in any case: the id itself, beginnings, words, the rest.

        Without text, the first items of the catalogue.
        """
        sought = words.strip().lower()
        if not sought:
            return self.items(self.vocabulary.raw[:limit])
        found = (
            self._searched.lazy()
            .with_columns(
                place=pl.when(pl.col("id") == sought)
                .then(0)
                .when(pl.col("name").str.starts_with(sought))
                .then(1)
                .when(pl.col("name").str.contains(" " + sought, literal=True))
                .then(2)
                .when(pl.col("name").str.contains(sought, literal=True) | pl.col("id").str.starts_with(sought))
                .then(3)
            )
            .filter(pl.col("place").is_not_null())
            .sort("place", "j")
            .head(limit)
            .collect()
        )
        return self.items(self.vocabulary.decode(found["j"].to_list()))

    @cached_property
    def _searched(self) -> pl.DataFrame:
        ids = pl.Series("id", [str(raw) for raw in self.vocabulary.raw])
        names = ids if self._name is None else self._name
        return pl.DataFrame(
            {"j": range(1, len(self) + 1), "id": ids.str.to_lowercase(), "name": names.str.to_lowercase()}
        )

    def _category_of(self, j: int) -> str | None:
        return None if self._category is None else self._category[j - 1]


def _column(vocabulary: Vocabulary, name: str) -> pl.Series | None:
    """A column of the items table as text; None where there is none."""
    if vocabulary.table is None or name not in vocabulary.table.columns:
        return None
    column = vocabulary.table[name]
    return column.list.join(SEPARATOR) if isinstance(column.dtype, pl.List) else column.cast(pl.String)


@dataclass(frozen=True, eq=False)
class Loaded:
    """A model that is ready to answer."""

    model: Model
    version: str
    """First twelve digits of the SHA-256 of the files."""
    catalogue: Catalogue

    @property
    def guidance_scale(self) -> float | None:
        """The model's own strength of guidance; None for a model without."""
        guidance = getattr(self.model.recommender.config, "guidance", None)
        return getattr(guidance, "scale", None)


def open_model(path: Path, *, below: Path | None = None, index: bool = False) -> Loaded:
    """The model of a run or model directory, checked and warmed up.

    Parameters
    ----------
    below
        The directory must lie in this one, whatever links and `..` its name contains.
    index
        Make lists through the index of items in the directory, and refuse a directory without.

    Raises
    ------
    CheckpointError
        As `Model.from_pretrained`; when the directory lies elsewhere; when the model has no finite scores.
    """
    files = (*FILES, FILE) if index else FILES
    folder = _model_folder(path, below)
    try:
        model = Model.from_pretrained(folder, index=index)
        _warm_up(model)
    except CheckpointError:
        raise
    except GuideRecError as error:
        raise CheckpointError(f"{path}: the model cannot answer: {error}") from None
    except Exception as error:  # whatever damage does: a server that serves another model must live on
        raise CheckpointError(f"{path}: the model cannot be loaded ({type(error).__name__}: {error}).") from error
    return Loaded(model, _digest(folder, files), Catalogue(model.vocabulary))


def _model_folder(path: Path, below: Path | None) -> Path:
    """The folder with the model's files, with no links in its name."""
    try:
        folder = model_folder(path)
        there = folder.is_dir()
    except OSError as error:  # a name that is too long, for one
        raise CheckpointError(f"{path}: cannot be looked at ({error.strerror}).") from None
    if not there:
        raise CheckpointError(f"{path}: there is no such directory.")
    inside = folder.resolve()
    if below is not None and not inside.is_relative_to(below.resolve()):
        raise CheckpointError(f"{path}: lies outside {below}.", hint="the server takes models from there only")
    return inside


def _warm_up(model: Model) -> None:
    """Do once what the first request would wait for, and see that scores are finite."""
    recommender = model.recommender
    if isinstance(recommender, HistoryConditioned) and recommender.generator.generation.start == "mean":
        recommender.generator.compose()
    model.recommend([[], [model.vocabulary.raw[0]]], k=1)


def _digest(folder: Path, files: Sequence[str]) -> str:
    total = hashlib.sha256()
    for name in files:
        with (folder / name).open("rb") as file:
            total.update(hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()[:12]
