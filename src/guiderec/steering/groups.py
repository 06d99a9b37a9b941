"""Groups of items, from the table of the catalogue: the categories, brands or genres that a column names."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl
from scipy.sparse import csr_array

from guiderec.data.dataset import Vocabulary
from guiderec.data.sequences import Ids
from guiderec.errors import ConfigError, nearest

SEPARATOR = "|"
"""Stands between the names of an item that has several in one cell of text: `Comedy|Drama`."""


@dataclass(frozen=True)
class Groups:
    """Which item is in which group."""

    names: tuple[str, ...]
    """G names, sorted as text."""
    members: csr_array
    """(I + 1, G) of 0 and 1; row 0, padding, is in none."""

    def items(self, group: int) -> Ids:
        """The items of one group, ascending."""
        inside: Ids = np.flatnonzero(self.members[:, [group]].toarray()[:, 0]).astype(np.int64)
        return inside

    def of(self, item: int) -> Ids:
        """The groups of one item, ascending; empty where the table says nothing."""
        groups: Ids = self.members.indices[self.members.indptr[item] : self.members.indptr[item + 1]].astype(np.int64)
        return groups


def groups_of(vocabulary: Vocabulary, column: str) -> Groups:
    """The groups that `column` of the item table names: a list per item, or text with `|` between the names.

    Raises ConfigError where there is no table or no such column, with the columns that there are.
    """
    columns = [] if vocabulary.table is None else [name for name in vocabulary.table.columns if name != "item"]
    if vocabulary.table is None or column not in columns:
        known = f"it has {', '.join(columns)}" if columns else "there is none for this data"
        raise ConfigError(
            f"The item table has no column '{column}': {known}.{nearest(column, columns)}",
            hint="name a column of groups, or give the split an items.parquet that has one",
        )
    cells = vocabulary.table[column]
    if not isinstance(cells.dtype, pl.List):
        cells = cells.cast(pl.String).str.split(SEPARATOR)
    pairs = pl.DataFrame({"item": np.arange(1, len(vocabulary) + 1), "group": cells.cast(pl.List(pl.String))})
    pairs = pairs.explode("group").filter(pl.col("group").str.len_chars() > 0).unique(maintain_order=True)
    names, which = np.unique(pairs["group"].to_numpy().astype(str), return_inverse=True)
    shape = (len(vocabulary) + 1, len(names))
    members = csr_array((np.ones(len(pairs)), (pairs["item"].to_numpy(), which)), shape=shape)
    members.sort_indices()
    return Groups(tuple(names.tolist()), members)
