"""Data with a known answer, and slow computations to check fast ones against. Shares no code with what it checks."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from guiderec.data.batch import Batch
from guiderec.data.sequences import Sequences
from guiderec.rng import numpy_generator

Row = tuple[list[int], int]
"""A history, oldest first and without padding, and the item that followed it."""


def planted_rows(n_items: int, longest: int, *, seed: int = 0) -> tuple[list[Row], list[Row]]:
    """Rows to train on and rows held out, of a rule: every item is always followed by the same other item.

    The items form one hidden cycle. A row is a walk along it: every start and every history length 1..`longest` once,
    a quarter of them held out. Whoever finds the successor of each item answers every held-out row.
    """
    generator = numpy_generator(seed, "planted rule")
    cycle = generator.permutation(n_items) + 1
    rows = []
    for start in range(n_items):
        for length in range(1, longest + 1):
            walk = [int(cycle[(start + step) % n_items]) for step in range(length + 1)]
            rows.append((walk[:-1], walk[-1]))
    order = generator.permutation(len(rows))
    held_out = len(rows) // 4
    return [rows[i] for i in order[held_out:]], [rows[i] for i in order[:held_out]]


def ruleless_rows(n_items: int, longest: int, count: int, *, seed: int = 0) -> list[Row]:
    """`count` rows of independent uniform items: nothing can be learnt, and every honest recall is chance."""
    generator = numpy_generator(seed, "no rule")
    rows = []
    for _ in range(count):
        items = generator.integers(1, n_items + 1, size=int(generator.integers(1, longest + 1)) + 1)
        rows.append(([int(item) for item in items[:-1]], int(items[-1])))
    return rows


def batch_of(rows: Sequence[Row], *, first_key: int = 0, width: int | None = None) -> Batch:
    """The rows as one batch, padded on the left to the longest history or to `width`. Row r has key first_key + r."""
    width = max(1, *(len(history) for history, _ in rows)) if width is None else width
    history = torch.tensor([[0] * (width - len(items)) + items for items, _ in rows])
    target = torch.tensor([target for _, target in rows])
    return Batch(history=history, key=torch.arange(first_key, first_key + len(rows)), target=target)


def sequences_of(rows: Sequence[Row]) -> Sequences:
    """The rows as training sequences, target last, one user each."""
    return Sequences.from_lists([np.array([*history, target]) for history, target in rows])


def ranks_by_loop(scores: Tensor, target: Tensor) -> list[int]:
    """1-based ranks of targets (B,) in scores (B, I + 1), by counting; column 0 is skipped, ties are lost."""
    table = scores.tolist()
    ranks = []
    for row, wanted in zip(table, target.tolist(), strict=True):
        ranks.append(1 + sum(score >= row[wanted] for item, score in enumerate(row) if item not in (0, wanted)))
    return ranks


def recall_by_loop(scores: Tensor, target: Tensor, k: int) -> float:
    """Share of rows whose target is among the first k."""
    ranks = ranks_by_loop(scores, target)
    return sum(rank <= k for rank in ranks) / len(ranks)


def chance_recall(n_items: int, k: int, rows: int, *, deviations: float = 5.0) -> tuple[float, float]:
    """Bounds of recall@k on `rows` uniform targets, `deviations` binomial standard deviations around k / I.

    Holds for any answers that do not depend on the targets: given the answers, hits are independent draws.
    """
    p = k / n_items
    margin = deviations * math.sqrt(p * (1 - p) / rows)
    return p - margin, p + margin
