from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
import torch

from guiderec.data.batch import Batch
from guiderec.data.loader import Loader
from guiderec.data.sequences import Rows, Sequences
from guiderec.errors import ConfigError
from guiderec.models.duorec import DuoRec, DuoRecConfig
from guiderec.models.sasrec import SASRec, SASRecConfig
from guiderec.rng import Noise, seed_everything
from guiderec.testing.oracles import batch_of, causal_states_by_loop

TRAIN = [[3, 1, 4, 1], [5, 9, 4], [2, 6, 5, 3, 5, 8, 4], [7, 9], [4], [8, 8, 1]]
"""4 follows 3 1, 5 9, and 2 6 5 3 5 8, and begins a sequence; 9 follows 5 and 7; 6 follows 2 alone."""
USERS = [10, 11, 12, 13, 14, 10]
"""One user has two sequences."""


def model(n_items: int = 9, *, prepared: bool = True, **options: object) -> DuoRec:
    seed_everything(0)
    config = DuoRecConfig(**{"dim": 8, "layers": 2, "heads": 2, "dropout": 0.0, "max_length": 5, **options})
    built = DuoRec(config, n_items).double()
    with torch.no_grad():  # away from the small start, where everything is nearly linear and biases are zero
        for name, p in built.named_parameters():
            if "norm" not in name:
                p.add_(torch.randn_like(p) * 0.3)
        built.items.weight[0].zero_()
    if prepared:
        built.prepare(training())
    return built


def training() -> Sequences:
    return Sequences.from_lists(TRAIN, users=np.array(USERS))


def rows(shortest_history: int = 1, length: int = 5) -> Batch:
    """All training rows, as the loader gives them: names of rows are those that training has."""
    every = Rows.every_prefix(training(), shortest_history)
    return Loader(every, batch_size=99, max_length=length, shuffle=False).batch(np.arange(len(every)))


def candidates(length: int = 5) -> list[set[tuple[int, ...]]]:
    """For each training row, by a slow loop, the histories of others with its target; its own where there is none."""
    prefixes = [(s, p) for s, sequence in enumerate(TRAIN) for p in range(1, len(sequence))]
    found = []
    for s, p in prefixes:
        others = {
            tuple(TRAIN[t][max(0, q - length) : q])
            for t, q in prefixes
            if TRAIN[t][q] == TRAIN[s][p] and (t, q) != (s, p)
        }
        found.append(others or {tuple(TRAIN[s][max(0, p - length) : p])})
    return found


def unpadded(history: torch.Tensor) -> list[tuple[int, ...]]:
    """Rows without padding, which is on the left."""
    lists = [[item for item in row if item] for row in history.tolist()]
    assert all(row[len(row) - len(items) :] == items for row, items in zip(history.tolist(), lists, strict=True))
    return [tuple(items) for items in lists]


# ---------------------------------------------------------------------------------------------------------- positives


@pytest.mark.parametrize("length", [2, 5])
def test_positives_are_the_other_training_rows_with_the_target(length: int):
    """Over many steps each row meets all of them and nothing else: never itself, where there is another."""
    built, batch = model(max_length=length), rows(length=length)
    met: list[set[tuple[int, ...]]] = [set() for _ in range(len(batch))]
    for step in range(60):
        for row, history in enumerate(unpadded(built.same_target(batch, Noise(0, step)))):
            met[row].add(history)
    assert met == candidates(length)


def test_positives_are_drawn_alike():
    """Of the three rows before 4, each row draws both others, half of the time each."""
    built, batch = model(), rows()
    before_4 = (batch.target == 4).nonzero()[:, 0]
    assert len(before_4) == 3
    for row in before_4.tolist():
        one = batch.rows(slice(row, row + 1))
        drawn = Counter(unpadded(built.same_target(one, Noise(0, step)))[0] for step in range(800))
        assert len(drawn) == 2
        assert all(abs(count - 400) < 5 * math.sqrt(200) for count in drawn.values())


def test_rows_that_training_does_not_have_draw_from_all():
    """Another user's row before 9 may meet either history; one before an item without a row has its own."""
    built = model()
    strange = batch_of([([1, 2], 9), ([1, 2], 7), ([1, 2, 3, 4, 5, 6, 7], 2)], first_key=500)
    met = [set(), set(), set()]
    for step in range(60):
        for row, history in enumerate(unpadded(built.same_target(strange, Noise(0, step)))):
            met[row].add(history)
    assert met == [{(5,), (7,)}, {(1, 2)}, {(3, 4, 5, 6, 7)}]


def test_positives_depend_neither_on_company_nor_on_padding():
    built, batch = model(), rows()
    together = built.same_target(batch, Noise(0))
    alone = torch.cat([built.same_target(batch.rows(slice(r, r + 1)), Noise(0)) for r in range(len(batch))])
    assert torch.equal(together, alone)
    assert torch.equal(together, built.same_target(rows(length=9), Noise(0)))


@pytest.mark.parametrize("train", [[], [[3], [4]]])
def test_without_training_rows_every_row_is_its_own_positive(train: list[list[int]]):
    built = model(prepared=False)
    if train:
        built.prepare(Sequences.from_lists(train))
    batch = batch_of([([1, 2], 3), ([4, 5, 6, 7, 8, 9], 1)])
    assert unpadded(built.same_target(batch, Noise(0))) == [(1, 2), (5, 6, 7, 8, 9)]


def test_training_sequences_do_not_travel_with_the_weights():
    assert set(model().state_dict()) == {name for name, _ in model().named_parameters()}


# --------------------------------------------------------------------------------------------------------------- loss


def state_by_hand(built: DuoRec, history: tuple[int, ...]) -> list[float]:
    weights = {name: p.detach().numpy() for name, p in built.named_parameters()}
    c = built.config
    states = causal_states_by_loop(weights, history, layers=c.layers, heads=c.heads, norm=c.norm, counting=c.counting)
    return list(map(float, states[-1]))


def info_nce_by_hand(first: list[list[float]], second: list[list[float]], temperature: float) -> float:
    states, n, terms = [*first, *second], len(first), []
    for i, state in enumerate(states):
        logits = {j: sum(a * b for a, b in zip(state, y, strict=True)) / temperature for j, y in enumerate(states)}
        terms.append(math.log(sum(math.exp(logits[j]) for j in logits if j != i)) - logits[(i + n) % (2 * n)])
    return sum(terms) / len(terms)


@pytest.mark.parametrize("predict", ["last_position", "every_position"])
@pytest.mark.parametrize("pairs", ["un", "su", "us", "us_x"])
def test_loss_is_the_formula(pairs: str, predict: str):
    """Without dropout both passes of a history are one; plain arithmetic on the states of the slow loop."""
    built = model(pairs=pairs, predict=predict, dropout_weight=0.3, target_weight=0.7, temperature=2.0).eval()
    batch = rows(shortest_history=0)
    there = batch.length > 0
    assert not there.all()  # histories without an item take no part
    own = [state_by_hand(built, history) for history in unpadded(batch.history) if history]
    akin = [state_by_hand(built, history) for history in unpadded(built.same_target(batch.rows(there), Noise(0)))]
    dropout = info_nce_by_hand(own, own, 2.0) if pairs in ("un", "us") else 0.0
    target = info_nce_by_hand(own, akin, 2.0) if pairs != "un" else 0.0
    parts = built.loss(batch, Noise(0))
    assert parts["dropout_contrast"].item() == pytest.approx(dropout, rel=1e-9)
    assert parts["target_contrast"].item() == pytest.approx(target, rel=1e-9)
    expected = parts["recommendation"].item() + 0.3 * dropout + 0.7 * target
    assert parts["loss"].item() == pytest.approx(expected, rel=1e-9)


def test_recommendation_is_the_cross_entropy_of_the_target():
    """By default of the row's target alone, over items 1..I, on states of the slow loop."""
    built, batch = model().eval(), rows()
    table, terms = built.items.weight.tolist(), []
    for history, target in zip(unpadded(batch.history), batch.target.tolist(), strict=True):
        state = state_by_hand(built, history)
        logits = [sum(a * b for a, b in zip(state, vector, strict=True)) for vector in table]
        terms.append(math.log(sum(math.exp(logit) for logit in logits[1:])) - logits[target])
    assert built.loss(batch, Noise(0))["recommendation"].item() == pytest.approx(sum(terms) / len(terms), rel=1e-9)


def test_without_weights_it_is_sasrec():
    built, batch = model(dropout_weight=0.0, target_weight=0.0).eval(), rows()
    config = SASRecConfig(dim=8, layers=2, heads=2, norm="post", max_length=5, predict="last_position")
    sasrec = SASRec(config, 9).double().eval()
    sasrec.load_state_dict(built.state_dict())
    assert torch.equal(built.loss(batch, Noise(0))["loss"], sasrec.loss(batch, Noise(0))["loss"])
    assert torch.equal(built.scores(batch, Noise(0)), sasrec.scores(batch, Noise(0)))


def test_every_pass_has_dropout_of_its_own():
    """With it, two passes of a history differ: their contrast is no longer that of equal states, in training alone."""
    built, batch = model(pairs="un", dropout=0.5), rows()
    _, newest = built.eval().recommendation(batch, Noise(0))
    equal, _ = built.contrast(batch, newest, Noise(0))
    built.train()
    _, newest = built.recommendation(batch, Noise(0))
    again = built.newest_state(batch.history)
    assert (newest != again).any(dim=1).all()
    assert built.contrast(batch, newest, Noise(0))[0] != built.contrast(batch, newest, Noise(0))[0]
    assert built.eval().contrast(batch, built.newest_state(batch.history), Noise(0))[0] == equal


def test_crossed_pairs_do_not_contrast_the_pass_of_the_recommendation():
    """us_x contrasts a second pass: whatever the first one gave, the contrast is the same. su contrasts the first."""
    batch = rows()
    for pairs, moved in (("us_x", False), ("su", True)):
        built = model(pairs=pairs).eval()
        newest = built.newest_state(batch.history)
        before, after = (built.contrast(batch, states, Noise(0))[1] for states in (newest, 2 * newest))
        assert (before != after) == moved


def test_rows_with_the_same_target_can_be_left_out():
    """All rows before one item: nothing is left to be told from, whichever histories were drawn."""
    before_4 = rows().rows(rows().target == 4)
    assert model().eval().loss(before_4, Noise(0))["target_contrast"] > 0
    assert model(same_target_negatives="left_out").eval().loss(before_4, Noise(0))["target_contrast"] == 0


@pytest.mark.parametrize("pairs", ["un", "su", "us", "us_x"])
def test_a_batch_of_empty_histories_has_nothing_to_contrast(pairs: str):
    parts = model(pairs=pairs).loss(batch_of([([], 4), ([], 3)]), Noise(0))
    assert parts["dropout_contrast"] == parts["target_contrast"] == 0
    assert parts["loss"].isfinite()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pairs": "usx"}, "'pairs' = 'usx'"),
        ({"temperature": 0}, "temperature"),
        ({"same_target_negatives": "leftout"}, "same_target_negatives"),
        ({"dim": 10, "heads": 4}, "heads = 4 does not divide dim = 10"),
    ],
)
def test_impossible_options(options: dict[str, object], message: str):
    with pytest.raises(ConfigError, match=message):
        DuoRecConfig.from_plain({"name": "duorec", **options})
