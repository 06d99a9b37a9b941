"""Which items are like an item. Never asked of a model: a model would be judged by its own idea of likeness.

    training sequences -> how often two items meet -> cosine or PMI, shrunk -> the strongest neighbours of every item
    item table         -> the groups two items share -> Jaccard             -> the strongest neighbours of every item

    cosine, pmi   see `guiderec.data.cooccurrence`
    jaccard       |groups of i and j| / |groups of i or j|

Events after the last training target of a sequence are not looked at: under leave-one-out they are the answers.
Equally similar neighbours stand in the order of how many training sequences hold them, then of their ids.
"""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from guiderec.config import Part
from guiderec.data.cooccurrence import (
    Neighbours,
    Similarity,
    blocks,
    incidence,
    joined,
    neighbours_by_meetings,
    strongest,
)
from guiderec.data.dataset import Vocabulary
from guiderec.data.sequences import Rows
from guiderec.steering.groups import groups_of


class CoOccurrence(Part):
    """Items are alike when the same people take them."""

    name: Literal["co-occurrence"] = "co-occurrence"
    similarity: Similarity = "cosine"
    """See `guiderec.data.cooccurrence`."""
    window: int | None = Field(None, ge=1)
    """Places between two items of a sequence, at most; None: anywhere in it."""
    shrinkage: float = Field(5.0, ge=0)
    """Sequences that speak against a pair: pairs that rarely meet are not trusted."""
    keep: int = Field(200, ge=1)
    """Neighbours that an item has, at most."""

    def __call__(self, train: Rows, vocabulary: Vocabulary) -> Neighbours:
        """The neighbours of every item, for the rows of a training part."""
        return neighbours_by_meetings(
            *train.events(),
            len(vocabulary),
            similarity=self.similarity,
            window=self.window,
            shrinkage=self.shrinkage,
            keep=self.keep,
        )


class SharedGroups(Part):
    """Items are alike when the item table says the same of them."""

    name: Literal["groups"] = "groups"
    column: str = "category"
    """Column of the item table: a list per item, or text with `|` between the names."""
    keep: int = Field(200, ge=1)
    """Neighbours that an item has, at most."""

    def __call__(self, train: Rows, vocabulary: Vocabulary) -> Neighbours:
        """The neighbours of every item; the training part only orders those that are equally similar."""
        members = groups_of(vocabulary, self.column).members
        counts = np.asarray(incidence(*train.events(), len(vocabulary)).sum(axis=0), dtype=np.float64).ravel()
        sizes = np.asarray(members.sum(axis=1)).ravel()
        per_group = np.asarray(members.sum(axis=0)).ravel()
        found = []
        for first, stop in blocks((members @ per_group).astype(np.int64)):
            shared = (members[first:stop] @ members.T).tocsr()
            rows = np.repeat(np.arange(shared.shape[0]), np.diff(shared.indptr)) + first
            shared.data = shared.data / (sizes[rows] + sizes[shared.indices] - shared.data)
            found.append(strongest(shared, first, counts, self.keep))
        return joined(found)


NeighboursOf = Annotated[CoOccurrence | SharedGroups, Field(discriminator="name")]
