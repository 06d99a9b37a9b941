"""How well wishes are honoured on a part of a split, by the model and by its rivals, as curves over strength.

    rows -> unsteered scores -> wishes -> rivals at every strength -> measures per row -> curves with intervals

The table of rows is the result; means and intervals are computed from it. Scores are made for as many rows at a time as
fit `BLOCK_SCORES` numbers, so memory does not grow with the rows.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import Tensor

from guiderec.data.batch import PADDING, Batch
from guiderec.data.dataset import Dataset
from guiderec.data.sequences import Ids, Rows
from guiderec.errors import ConfigError, DataError
from guiderec.evaluation.evaluate import LEVEL, RESAMPLES
from guiderec.evaluation.intervals import bootstrap_means
from guiderec.evaluation.metrics import Metric
from guiderec.evaluation.ranking import Seen, inference
from guiderec.models.base import Recommender
from guiderec.rng import Noise
from guiderec.steering.measures import listed_items, measured
from guiderec.steering.procedure import Category, Dislikes, Likes, Rule, name_of, standard
from guiderec.steering.rivals import Rival, Situation, rivals, unsteered

STRENGTHS = (0.0, 0.1, 0.2, 0.5, 1.0, 2.0, 4.0, 8.0)
"""w, where the caller does not choose; 0 is the unsteered list."""
BLOCK_SCORES = 2**22
"""Numbers in one matrix of scores (16 MiB in float32); some ten of them are alive at once."""
UNSTEERED = "unsteered"
"""Stands for no rival in the table: the measures before."""

_NOISE = Noise(0)
_PER_ROW = ("item_rank", "listed", "group_rank", "shift", "exposure", "target_rank", "overlap")


@dataclass(frozen=True)
class Steering:
    """How wishes of one kind are honoured on one part of a split."""

    rows: pl.DataFrame
    """One line per rival, strength and row with a wish, in this order: `rival`, `strength` (null where it has none),
    `row`, `user`, `target`, `item` (the anchor), `item_rank`, `listed` (whether it is in the list), `group_rank`
    (geometric mean of the followed items), `shift` (binary logarithm of `group_rank` after over before), `exposure`
    (items of the group in the list), `target_rank`, `overlap`, `target_in_group`. Null: no neighbours, or no rest."""
    procedure: Dislikes | Likes
    n_rows: int
    """Rows of the part; those without a wish are not in the table."""
    seen: Seen
    noise_seed: int
    seconds: float

    @property
    def name(self) -> str:
        """`dislikes neighbourhood`."""
        return name_of(self.procedure)

    def points(self, *, resamples: int = RESAMPLES, seed: int = 0) -> list[dict[str, Any]]:
        """One entry per rival and strength: `rival`, `strength`, `median_item_rank` and `measures`.

        `measures` maps each name to `mean`, `low`, `high` and the number `n` of rows that have it. The intervals are
        percentile bootstrap intervals over users, from the same resamples at all points.
        """
        parts = self.rows.partition_by("rival", "strength", maintain_order=True)
        tables = [self._measures(part) for part in parts]
        means, low, high, counts = _intervals(tables, parts[0]["user"].to_numpy(), resamples, seed)
        names = list(tables[0])
        found = []
        for i, part in enumerate(parts):
            values = zip(names, means[i], low[i], high[i], counts[i], strict=True)
            found.append(
                {
                    "rival": part["rival"][0],
                    "strength": part["strength"][0],
                    "median_item_rank": float(np.median(part["item_rank"].to_numpy())),
                    "measures": {
                        name: {"mean": float(m), "low": float(lo), "high": float(hi), "n": int(n)}
                        for name, m, lo, hi, n in values
                        if n
                    },
                }
            )
        return found

    def _measures(self, part: pl.DataFrame) -> dict[str, NDArray[np.float64]]:
        """Name -> (R,) values, nan where a row has none."""
        k, ranks = self.procedure.k, part["target_rank"].to_numpy()
        recall = Metric("recall", k)(ranks)
        return {
            "listed": part["listed"].to_numpy().astype(np.float64),
            "exposure": part["exposure"].to_numpy().astype(np.float64),
            "shift": part["shift"].to_numpy(),
            "overlap": part["overlap"].to_numpy(),
            f"recall@{k}": recall,
            f"ndcg@{k}": Metric("ndcg", k)(ranks),
            f"recall@{k} apart": np.where(part["target_in_group"].to_numpy(), np.nan, recall),
        }

    def summary(self, *, resamples: int = RESAMPLES, seed: int = 0) -> dict[str, Any]:
        """Plain data for a record."""
        first = self.rows.filter(pl.col("rival") == UNSTEERED)
        return {
            "name": self.name,
            "procedure": self.procedure.to_plain(),
            "n_rows": self.n_rows,
            "n_wishes": len(first),
            "n_target_in_group": int(first["target_in_group"].sum()),
            "seen": self.seen,
            "cutoff": self.procedure.k,
            "interval": {"level": LEVEL, "method": "percentile bootstrap", "resamples": resamples, "unit": "user"},
            "points": self.points(resamples=resamples, seed=seed),
            "noise_seed": self.noise_seed,
            "seconds": round(self.seconds, 3),
        }


def evaluate(
    model: Recommender,
    dataset: Dataset,
    procedure: Dislikes | Likes,
    *,
    part: str = "test",
    max_length: int,
    strengths: Sequence[float] = STRENGTHS,
    seen: Seen | None = None,
    noise: Noise = _NOISE,
    classifier_free: Recommender | None = None,
    block_scores: int = BLOCK_SCORES,
) -> Steering:
    """Measure all rivals under one procedure on every row of a part.

    Parameters
    ----------
    max_length
        Items of the history that the model sees, the newest ones.
    strengths
        At least one, each at least 0; all rivals but the filters are measured at each.
    seen
        Whether items of the history compete; None: as the protocol says.
    classifier_free
        A model with classifier-free guidance, usually the same weights; None leaves that rival out.

    Raises
    ------
    ConfigError
        For strengths that are none, negative or repeated, and a category of a column that the item table lacks.
    DataError
        For a part without rows, or rows that all lack a wish.
    ScoreError
        For scores that are nan or +inf.
    """
    started = time.perf_counter()
    strengths = _checked(strengths)
    rows = dataset.part(part)
    if not len(rows):
        raise DataError(f"Part '{part}' has no rows to steer.", hint="choose a protocol or filter that leaves some")
    seen = seen or dataset.seen
    rule = Rule.of(procedure, dataset.train, dataset.vocabulary)
    contenders = rivals(model, rule.neighbours, procedure.name, classifier_free=classifier_free)
    candidates = None if dataset.candidates is None else dataset.candidates.get(part)
    told = None if dataset.dislikes is None else dataset.dislikes.get(part)
    frames: list[list[pl.DataFrame]] = []
    size = max(1, block_scores // (model.n_items + 1))
    with inference(model):
        for first in range(0, len(rows), size):
            index = np.arange(first, min(first + size, len(rows)))
            frames.append(
                _batch(model, contenders, rule, rows, index, candidates, told, max_length, strengths, seen, noise)
            )
    frames = [batch for batch in frames if batch]
    if not frames:
        raise DataError(
            f"No row of part '{part}' has an item to wish for by the procedure '{name_of(procedure)}'.",
            hint=_where_wishes_come_from(procedure),
        )
    table = pl.concat([frame for same in zip(*frames, strict=True) for frame in same])
    return Steering(table, procedure, len(rows), seen, noise.seed, time.perf_counter() - started)


def evaluate_standard(
    model: Recommender, dataset: Dataset, *, part: str = "test", strengths: Sequence[float] = STRENGTHS, **options: Any
) -> tuple[list[Steering], dict[str, str]]:
    """What the `standard` procedures measure, and the reason of each that cannot be measured here, by its name.

    `options` are those of `evaluate`. Raises what it raises, where no procedure can be measured.
    """
    strengths = _checked(strengths)
    found: list[Steering] = []
    reasons: dict[str, str] = {}
    for procedure in standard(dataset.vocabulary):
        try:
            found.append(evaluate(model, dataset, procedure, part=part, strengths=strengths, **options))
        except (ConfigError, DataError) as error:
            reasons[name_of(procedure)] = str(error)
    if not found:
        raise DataError(f"Nothing can be steered here: {' '.join(dict.fromkeys(reasons.values()))}")
    return found, reasons


def _where_wishes_come_from(procedure: Dislikes | Likes) -> str:
    """What must be there for a row to have a wish."""
    if isinstance(procedure.what, Category):
        return "check that the item table names a category for the items that are recommended"
    if isinstance(procedure, Likes):
        first, last = procedure.places
        return f"a like is drawn from places {first} to {last} of a list, and is neither the target nor in the history"
    if procedure.given_by == "data":
        return "what users really disliked is the target, or no item that competes"
    return "a dislike is the first item of a list that is not the target"


def _batch(
    model: Recommender,
    contenders: Sequence[Rival],
    rule: Rule,
    rows: Rows,
    index: Ids,
    candidates: Ids | None,
    told: Ids | None,
    max_length: int,
    strengths: Sequence[float],
    seen: Seen,
    noise: Noise,
) -> list[pl.DataFrame]:
    """The table of the rows `index` for each rival and strength, unsteered first; none where none has a wish."""
    procedure, device = rule.procedure, model.device
    history, target = rows.windows(index, max_length)
    batch = Batch(
        history=torch.from_numpy(history), key=torch.from_numpy(rows.keys()[index]), target=torch.from_numpy(target)
    ).to(device)
    known = torch.from_numpy(rows.histories(index)).to(device)
    scores = unsteered(model, batch, noise)
    hidden = _hidden(known if seen == "mask" else None, candidates, index, model.n_items, device)
    listed = listed_items(scores, min(procedure.depth, model.n_items), hidden)
    real = None if told is None else torch.from_numpy(told[index]).to(device)
    wishes = rule.wishes(batch, listed, known, real)
    having = (wishes.anchor != PADDING).nonzero()[:, 0]
    if not len(having):
        return []
    batch, wishes, scores = batch.rows(having), wishes.rows(having), scores[having]
    hidden = None if hidden is None else hidden[having]
    situation = Situation(batch, noise, scores, wishes, procedure.name)
    facts = {
        "row": index[having.cpu().numpy()],
        "user": rows.users()[index][having.cpu().numpy()],
        "target": batch.target.cpu().numpy(),
        "item": wishes.anchor.cpu().numpy(),
        "target_in_group": wishes.concerned.gather(1, batch.target[:, None])[:, 0].cpu().numpy(),
    }

    def measure(changed: Tensor, before: dict[str, Tensor] | None) -> dict[str, Tensor]:
        return measured(changed, wishes, batch.target, procedure.k, seen=hidden, before=before)

    before = measure(scores.clone(), None)
    frames = [_frame(UNSTEERED, None, facts, before)]
    for rival in contenders:
        steered = rival(situation)
        for strength in strengths if rival.has_strength else (None,):
            frames.append(_frame(rival.name, strength, facts, measure(steered(strength or 0.0), before)))
    return frames


def _frame(
    rival: str, strength: float | None, facts: Mapping[str, NDArray[Any]], found: Mapping[str, Tensor]
) -> pl.DataFrame:
    n = len(facts["row"])
    columns = {name: found[name].cpu().numpy() for name in _PER_ROW}
    frame = pl.DataFrame(
        {
            "rival": pl.Series([rival] * n, dtype=pl.String),
            "strength": pl.Series([strength] * n, dtype=pl.Float64),
            **{name: facts[name] for name in ("row", "user", "target", "item")},
            **columns,
            "target_in_group": facts["target_in_group"],
        }
    )
    return frame.with_columns(pl.col(pl.Float64).exclude("strength").fill_nan(None))


def _hidden(
    known: Tensor | None, candidates: Ids | None, index: Ids, n_items: int, device: torch.device
) -> Tensor | None:
    """(B, E) the items that do not compete, padded with 0; None: all compete."""
    if candidates is None:
        return known
    outside = np.ones((len(index), n_items + 1), dtype=bool)
    np.put_along_axis(outside, candidates[index], False, axis=1)
    hidden = torch.from_numpy(outside * np.arange(n_items + 1)).to(device)
    return hidden if known is None else torch.cat([hidden, known], dim=1)


def _intervals(
    tables: Sequence[Mapping[str, NDArray[np.float64]]], users: Ids, resamples: int, seed: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    """Means, lower and upper ends and numbers of rows, (points, measures) each, all from the same resamples of users.

    A mean is over the rows that have a value: a ratio of two means over all rows.
    """
    values = np.stack([np.stack(list(table.values()), axis=1) for table in tables], axis=1)  # (R, points, measures)
    shape = values.shape[1:]
    flat = values.reshape(len(values), -1)
    there = ~np.isnan(flat)
    both = np.concatenate([np.where(there, flat, 0.0), there.astype(np.float64)], axis=1)
    counts = there.sum(axis=0)
    resampled = bootstrap_means(both, clusters=users, resamples=resamples, seed=seed)
    with np.errstate(invalid="ignore", divide="ignore"):
        means = both[:, : flat.shape[1]].sum(axis=0) / counts
        ratios = resampled[:, : flat.shape[1]] / resampled[:, flat.shape[1] :]
    with_value = np.where(counts > 0, ratios, 0.0)  # a measure that no row has is left out by its count
    low, high = np.nanquantile(with_value, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    return means.reshape(shape), low.reshape(shape), high.reshape(shape), counts.reshape(shape)


def _checked(strengths: Sequence[float]) -> tuple[float, ...]:
    found = tuple(float(strength) for strength in strengths)
    if not found or not all(np.isfinite(found)) or min(found) < 0 or len(set(found)) < len(found):
        raise ConfigError(
            f"Strengths must be different numbers from 0 on, got {', '.join(map(str, found)) or 'none'}.",
            hint="for example 0, 0.1, 0.2, 0.5",
        )
    return found
