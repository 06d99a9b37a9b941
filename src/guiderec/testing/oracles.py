"""Data with a known answer, and slow computations to check fast ones against. Shares no code with what it checks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from guiderec.data.batch import Batch
from guiderec.data.sequences import Sequences
from guiderec.rng import numpy_generator

Vector = NDArray[np.float64]
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


def causal_states_by_loop(
    weights: Mapping[str, Vector],
    history: Sequence[int],
    *,
    layers: int,
    heads: int,
    norm: Literal["pre", "post"],
    counting: Literal["from_start", "from_end"],
) -> list[Vector]:
    """States of a causal transformer after every item of one unpadded history, one position, head and key at a time.

    `weights` by their names in a `CausalRecommender`, whose `items.weight` has a row for every id of the history.
    """

    def linear(x: Vector, name: str) -> Vector:
        return weights[f"{name}.weight"] @ x + weights[f"{name}.bias"]

    def layer_norm(x: Vector, name: str) -> Vector:
        centred = x - x.mean()
        return weights[f"{name}.weight"] * centred / np.sqrt((centred**2).mean() + 1e-5) + weights[f"{name}.bias"]

    def gelu(x: Vector) -> Vector:
        return np.array([0.5 * v * (1 + math.erf(v / math.sqrt(2))) for v in x])

    def attend(xs: list[Vector], i: int, name: str) -> Vector:
        d = len(xs[0])
        projected = [linear(x, f"{name}.query_key_value") for x in xs]
        answers = []
        for head in range(heads):
            cut = slice(head * d // heads, (head + 1) * d // heads)
            query = projected[i][:d][cut]
            logits = [query @ projected[j][d : 2 * d][cut] / math.sqrt(d / heads) for j in range(i + 1)]
            share = np.exp(np.array(logits) - max(logits))
            share /= share.sum()
            answers.append(sum((share[j] * projected[j][2 * d :][cut] for j in range(i + 1)), np.zeros(d // heads)))
        return linear(np.concatenate(answers), f"{name}.output")

    def feed(x: Vector, block: str) -> Vector:
        return linear(gelu(linear(x, f"{block}.feedforward.expand")), f"{block}.feedforward.contract")

    length = len(history)
    places = [p if counting == "from_start" else length - 1 - p for p in range(length)]
    table, positions = weights["items.weight"], weights["positions.table.weight"]
    xs = [table[item] + positions[p] for item, p in zip(history, places, strict=True)]
    if norm == "post":
        xs = [layer_norm(x, "encoder.entry") for x in xs]
    for layer in range(layers):
        block = f"encoder.blocks.{layer}"
        if norm == "pre":
            normed = [layer_norm(x, f"{block}.attention_norm") for x in xs]
            xs = [x + attend(normed, i, f"{block}.attention") for i, x in enumerate(xs)]
            xs = [x + feed(layer_norm(x, f"{block}.feedforward_norm"), block) for x in xs]
        else:
            attended = [x + attend(xs, i, f"{block}.attention") for i, x in enumerate(xs)]
            xs = [layer_norm(x, f"{block}.attention_norm") for x in attended]
            xs = [layer_norm(x + feed(x, block), f"{block}.feedforward_norm") for x in xs]
    return [layer_norm(x, "encoder.exit") for x in xs] if norm == "pre" else xs
