"""Deterministic batches that can be resumed at any step and shared by several processes.

    epoch e        a permutation of the R rows, drawn from (seed, e); its first `rows_per_epoch`, where that is set
    step s         rows s * batch_size .. (s + 1) * batch_size of it: the global batch; the last may be smaller
    rank r of W    rows r, r + W, r + 2W, ... of the global batch

Nothing is remembered between batches, so starting an epoch at step s costs nothing and gives the same batches.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import KW_ONLY, dataclass, replace
from functools import cached_property
from typing import Self

import numpy as np
import torch

from guiderec.data.batch import Batch
from guiderec.data.sequences import Ids, ItemLists, Rows
from guiderec.errors import ConfigError, DataError
from guiderec.rng import numpy_generator


@dataclass(frozen=True)
class Loader:
    """Batches of `rows`.

    >>> from guiderec.data.sequences import Sequences
    >>> rows = Rows.every_prefix(Sequences.from_lists([[3, 1, 4], [1, 5]]))
    >>> [batch.target.tolist() for batch in Loader(rows, batch_size=2, max_length=2, shuffle=False).batches(0)]
    [[1, 4], [5]]
    """

    rows: Rows
    _: KW_ONLY
    batch_size: int
    """Rows of a global batch, over all processes; at least 1."""
    max_length: int
    """L, the newest items of a history that a model sees; at least 1."""
    seed: int = 0
    """Names the permutations."""
    shuffle: bool = True
    """False: rows in their own order, in every epoch."""
    rows_per_epoch: int | None = None
    """Rows of an epoch, drawn anew for each, where there are more; None: all."""
    negatives: ItemLists | None = None
    """What was shown together with the last item of each sequence of the rows and passed over (`Batch.negatives`)."""
    rank: int = 0
    """This process, 0..world - 1."""
    world: int = 1
    """Number of processes that share each batch."""

    def __post_init__(self) -> None:
        for name in ("batch_size", "max_length", "world"):
            if getattr(self, name) < 1:
                raise ConfigError(f"Loader: '{name}' = {getattr(self, name)}: must be at least 1.")
        if self.rows_per_epoch is not None and not (self.rows_per_epoch >= 1 and self.shuffle):
            raise ConfigError(
                f"Loader: 'rows_per_epoch' = {self.rows_per_epoch}: must be at least 1, and needs shuffle = True.",
                hint="without shuffling every epoch would have the same rows",
            )
        if self.negatives is not None and len(self.negatives) != len(self.rows.sequences):
            raise DataError(
                f"Loader: negatives for {len(self.negatives):,} sequences, and there are {len(self.rows.sequences):,}."
            )
        if not 0 <= self.rank < self.world:
            raise ConfigError(f"Loader: 'rank' = {self.rank}: must be in 0..{self.world - 1}.")
        if self.batch_size < self.world:
            raise ConfigError(
                f"Loader: a batch of {self.batch_size} rows cannot be shared by {self.world} processes.",
                hint=f"batch_size is the number of rows over all processes; take at least {self.world}",
            )
        if not len(self.rows):
            raise DataError(
                "Loader: there are no rows to make batches of.",
                hint="sequences need at least two items to have a history and a target",
            )

    def shard(self, rank: int, world: int) -> Self:
        """The same batches as seen by process `rank` of `world`."""
        return replace(self, rank=rank, world=world)

    def __len__(self) -> int:
        """Steps per epoch."""
        return -(-self._rows_of_an_epoch // self.batch_size)

    def batches(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Batches of one epoch from step `start` on: `len(self) - start` of them, on the CPU.

        A process whose share of the last global batch is empty gets the first row of that batch instead, so that all
        processes take the same number of steps; `weight` is 0 there.
        """
        order = self._order(epoch)
        for step in range(start, len(self)):
            whole = order[step * self.batch_size : (step + 1) * self.batch_size]
            yield self.batch(own if len(own := whole[self.rank :: self.world]) else whole[:1])

    def batch(self, index: Ids) -> Batch:
        """The rows `index` (B,) as one batch."""
        history, target = self.rows.windows(index, self.max_length)
        return Batch(
            history=torch.from_numpy(history),
            key=torch.from_numpy(self._keys[index]),
            target=torch.from_numpy(target),
            negatives=None if self.negatives is None else torch.from_numpy(self._passed_over(self.negatives, index)),
        )

    def _passed_over(self, negatives: ItemLists, index: Ids) -> Ids:
        """(B, N) negatives of the rows `index`; none for rows whose target is not the last item of its sequence."""
        sequence, position = self.rows.sequence[index], self.rows.position[index]
        is_last = position == self.rows.sequences.lengths[sequence] - 1
        return negatives.padded(sequence) * is_last[:, None]

    def weight(self, step: int) -> float:
        """Share of the global batch `step` that is this process's, times the number of processes; 1 for equal shares.

        With n_r of n rows at rank r, the mean over ranks of (W n_r / n) L_r is the mean loss over the n rows.
        """
        n = min(self.batch_size, self._rows_of_an_epoch - step * self.batch_size)
        return len(range(self.rank, n, self.world)) * self.world / n

    def _order(self, epoch: int) -> Ids:
        if not self.shuffle:
            return np.arange(len(self.rows), dtype=np.int64)
        order = numpy_generator(self.seed, "order of rows", epoch).permutation(len(self.rows))
        return order[: self._rows_of_an_epoch]

    @property
    def _rows_of_an_epoch(self) -> int:
        return min(len(self.rows), self.rows_per_epoch or len(self.rows))

    @cached_property
    def _keys(self) -> Ids:
        return self.rows.keys()
