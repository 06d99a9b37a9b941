from __future__ import annotations

import itertools
import math
from collections import Counter

import numpy as np
import pytest
import torch

from guiderec.errors import ConfigError
from guiderec.models.cl4srec import CL4SRec, CL4SRecConfig, Crop, Mask, Reorder
from guiderec.models.sasrec import SASRec, SASRecConfig
from guiderec.rng import Noise, seed_everything, subkeys
from guiderec.testing.oracles import Row, batch_of, causal_states_by_loop, ruleless_rows

ROWS: list[Row] = [([3, 1, 4], 1), ([5], 9), ([], 2), ([6, 5, 3, 5, 8], 9), ([2, 7, 1, 8, 4, 9, 6], 3)]
HIDDEN = 10


def model(n_items: int = 9, **options: object) -> CL4SRec:
    seed_everything(0)
    config = CL4SRecConfig(**{"dim": 8, "layers": 2, "heads": 2, "dropout": 0.0, "max_length": 7, **options})
    built = CL4SRec(config, n_items).double()
    with torch.no_grad():  # away from the small start, where everything is nearly linear and biases are zero
        for name, p in built.named_parameters():
            if "norm" not in name:
                p.add_(torch.randn_like(p) * 0.3)
        built.items.weight[0].zero_()
    return built


def many(history: list[int], augmentation: Crop | Mask | Reorder, count: int = 3000) -> list[list[int]]:
    """What an augmentation makes of one history under so many keys, without padding."""
    made = augmentation(torch.tensor([[0, 0, *history]]).repeat(count, 1), torch.arange(count), Noise(0), HIDDEN)
    assert made.shape == (count, len(history) + 2)
    rows = [[item for item in row if item] for row in made.tolist()]
    assert all(row[len(row) - len(items) :] == items for row, items in zip(made.tolist(), rows, strict=True))
    return rows  # and all padding was on the left


def evenly(counts: Counter[object], outcomes: int) -> bool:
    """All outcomes there, each within five deviations of an equal share."""
    total, p = sum(counts.values()), 1 / outcomes
    margin = 5 * math.sqrt(total * p * (1 - p))
    return len(counts) == outcomes and all(abs(n - total * p) < margin for n in counts.values())


# ------------------------------------------------------------------------------------------------------ augmentations


def by_hand(name: str, ratio: float, history: list[int], key: torch.Tensor, noise: Noise) -> list[int]:
    """The paper's operators on one list, item by item, from the draws that the row's key names."""
    n = len(history)
    count = math.floor(round(ratio * n, 6))

    def number(high: int, purpose: str) -> int:
        return int(noise.bits(key, 1, purpose)) % high

    def newest_first(purpose: str) -> list[float]:
        return noise.uniform(key, n, purpose)[0].tolist()

    if name == "crop":
        count = max(count, 1)
        end = n - number(n - count + 1, "crop")
        return history[end - count : end]
    if name == "mask":
        drawn = newest_first("mask")[::-1]
        gone = sorted(range(n), key=lambda place: drawn[place])[:count]
        return [HIDDEN if place in gone else item for place, item in enumerate(history)]
    end = n - number(n - count + 1, "reorder/where")
    drawn = newest_first("reorder/order")[::-1]
    window = sorted(range(end - count, end), key=lambda place: -drawn[place])
    return [*history[: end - count], *(history[place] for place in window), *history[end:]]


@pytest.mark.parametrize("ratio", [0.3, 0.6, 1.0])
@pytest.mark.parametrize("name", ["crop", "mask", "reorder"])
def test_augmentations_are_the_operators_on_lists(name: str, ratio: float):
    """On rows of all lengths at once, padded to two widths."""
    augmentation = {"crop": Crop(kept=ratio), "mask": Mask(ratio=ratio), "reorder": Reorder(ratio=ratio)}[name]
    rows = [row for row in ruleless_rows(9, 12, 60) if row[0]]
    for width in (12, 17):
        batch = batch_of(rows, width=width)
        made = augmentation(batch.history, batch.key, Noise(3), HIDDEN).tolist()
        for (history, _), key, found in zip(rows, batch.key, made, strict=True):
            expected = by_hand(name, ratio, history, key[None], Noise(3))
            assert found == [0] * (width - len(expected)) + expected


def test_crop_keeps_runs_and_each_of_them_alike():
    """Of five items, three: they begin at the first, second or third."""
    runs = Counter(tuple(row) for row in many([1, 2, 3, 4, 5], Crop(kept=0.6)))
    assert evenly(runs, 3)
    assert set(runs) == {(1, 2, 3), (2, 3, 4), (3, 4, 5)}


def test_mask_hides_its_share_and_all_choices_alike():
    """Of seven items, floor(0.3 * 7) = two, any of the 21 pairs; the others stay where they are."""
    history = [1, 2, 3, 4, 5, 6, 7]
    choices: Counter[object] = Counter()
    for row in many(history, Mask(ratio=0.3)):
        gone = tuple(place for place, item in enumerate(row) if item == HIDDEN)
        assert [item for place, item in enumerate(row) if place not in gone] == [
            item for place, item in enumerate(history) if place not in gone
        ]
        choices[gone] += 1
    assert evenly(choices, 21)


def test_reorder_shuffles_a_run_and_all_orders_come_alike():
    """Of four items, floor(0.6 * 4) = two: three places, each in both orders, so that half of the views are copies."""
    orders = Counter(tuple(row) for row in many([1, 2, 3, 4], Reorder(ratio=0.6)))
    assert set(orders) == {(1, 2, 3, 4), (2, 1, 3, 4), (1, 3, 2, 4), (1, 2, 4, 3)}
    copies = orders.pop((1, 2, 3, 4))
    assert evenly(orders, 3)
    assert copies == pytest.approx(1500, abs=5 * math.sqrt(750))
    all_orders = Counter(tuple(row) for row in many([1, 2, 3, 4], Reorder(ratio=1.0)))
    assert evenly(all_orders, 24)


def test_whole_shares_are_not_rounded_down_by_floating_point():
    """0.29 * 100 is 28.999..., and 29 items."""
    history = [1 + place % 9 for place in range(100)]
    assert {row.count(HIDDEN) for row in many(history, Mask(ratio=0.29), count=3)} == {29}


def test_what_is_too_short_to_be_changed_stays():
    """Rounded down: nothing of one item, and of two only cropping takes one."""
    for augmentation in (Crop(), Mask(), Reorder()):
        assert many([4], augmentation, count=20) == [[4]] * 20
    assert many([4, 2], Mask(), count=20) == many([4, 2], Reorder(), count=20) == [[4, 2]] * 20
    assert {tuple(row) for row in many([4, 2], Crop(), count=50)} == {(4,), (2,)}


def test_two_views_are_made_differently():
    """All six ordered pairs of different operators alike; independent ones: all nine; a single one: itself twice."""
    keys = torch.arange(6000)

    def pairs(**options: object) -> Counter[object]:
        first, second = model(**options).chosen(keys, Noise(0)).chunk(2)
        return Counter(zip(first.tolist(), second.tolist(), strict=True))

    assert evenly(pairs(), 6)
    assert set(pairs()) == set(itertools.permutations(range(3), 2))
    assert evenly(pairs(pair="independent"), 9)
    assert set(pairs(augmentations=[{"name": "reorder"}])) == {(0, 0)}


def test_views_are_those_of_the_chosen_augmentations_under_keys_of_their_own():
    built, rows = model(), [row for row in ruleless_rows(9, 7, 50) if row[0]]
    batch = batch_of(rows)
    names = [("crop", 0.6), ("mask", 0.3), ("reorder", 0.6)]
    views = built.views(batch.history, batch.key, Noise(1))
    chosen = built.chosen(batch.key, Noise(1))
    assert len(views) == 2 * len(rows)
    for number, (view, which) in enumerate(zip(views.tolist(), chosen.tolist(), strict=True)):
        turn, row = divmod(number, len(rows))
        key = subkeys(batch.key[row : row + 1], torch.tensor(turn))
        expected = by_hand(*names[which], rows[row][0], key, Noise(1))
        assert [item for item in view if item] == expected
    same = model(augmentations=[{"name": "crop", "kept": 0.5}]).views(batch.history, batch.key, Noise(1))
    assert (same[: len(rows)] != same[len(rows) :]).any()  # one operator, other draws


def test_histories_are_not_written_to():
    """The public re-implementation's views write into the training data."""
    built, batch = model(), batch_of(ROWS)
    before = batch.history.clone()
    built.loss(batch, Noise(0))
    assert torch.equal(batch.history, before)


def test_views_change_with_the_step_and_not_with_the_company():
    built, batch = model(), batch_of(ROWS)
    views = built.views(batch.history, batch.key, Noise(0))
    assert (views != built.views(batch.history, batch.key, Noise(0, step=1))).any()
    alone = built.views(batch.history[3:4], batch.key[3:4], Noise(0))
    assert torch.equal(alone, views[[3, 3 + len(ROWS)]])


# ------------------------------------------------------------------------------------------------------------ network


def states_by_hand(built: CL4SRec, history: list[int]) -> np.ndarray:
    """The newest state of one history, in which `HIDDEN` is the row after those of the items."""
    weights = {name: p.detach().numpy() for name, p in built.named_parameters()}
    weights["items.weight"] = np.vstack([weights["items.weight"], weights["hidden"]])
    c = built.config
    states = causal_states_by_loop(weights, history, layers=c.layers, heads=c.heads, norm=c.norm, counting=c.counting)
    return states[-1]


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_states_are_those_of_a_slow_loop_hidden_items_among_them(norm: str):
    built = model(norm=norm).eval()
    histories = [[3, HIDDEN, 4], [HIDDEN], [5, 5, HIDDEN, HIDDEN, 2]]
    newest = built.newest_state(torch.tensor([[0] * (5 - len(items)) + items for items in histories]))
    for state, history in zip(newest, histories, strict=True):
        torch.testing.assert_close(state, torch.tensor(states_by_hand(built, history)))


def test_the_hidden_item_is_not_ranked():
    built, batch = model().eval(), batch_of(ROWS)
    assert built.item_vectors().shape == (10, 8)
    before = built.scores(batch, Noise(0))
    with torch.no_grad():
        built.hidden.add_(1.0)
    assert torch.equal(built.scores(batch, Noise(0)), before)


# --------------------------------------------------------------------------------------------------------------- loss


@pytest.mark.parametrize("similarity", ["dot", "cos"])
def test_loss_is_the_formula(similarity: str):
    """-log exp(s(z, z') / tau) / sum over the 2B - 1 others, in plain arithmetic on states of the slow loop."""
    built = model(similarity=similarity, temperature=0.5, contrast_weight=0.3).eval()
    batch = batch_of(ROWS)
    views = built.views(batch.history, batch.key, Noise(0)).tolist()
    histories = [[item for item in view if item] for view in views]
    states = [states_by_hand(built, history).tolist() for history in histories if history]
    n = len(states) // 2
    assert n == 4  # the row without an item takes no part

    def alike(x: list[float], y: list[float]) -> float:
        product = sum(a * b for a, b in zip(x, y, strict=True))
        return (product if similarity == "dot" else product / (math.hypot(*x) * math.hypot(*y))) / 0.5

    terms = []
    for i, state in enumerate(states):
        others = [math.exp(alike(state, other)) for j, other in enumerate(states) if j != i]
        terms.append(math.log(sum(others)) - alike(state, states[(i + n) % (2 * n)]))
    parts = built.loss(batch, Noise(0))
    assert parts["contrast"].item() == pytest.approx(sum(terms) / len(terms), rel=1e-9)
    assert parts["loss"].item() == pytest.approx(parts["recommendation"].item() + 0.3 * sum(terms) / len(terms))


@pytest.mark.parametrize("predict", ["every_position", "last_position"])
@pytest.mark.parametrize("objective", ["cross_entropy", "binary_cross_entropy"])
def test_without_contrast_it_is_sasrec(predict: str, objective: str):
    """Same weights, same loss and scores."""
    options = {"predict": predict, "objective": {"name": objective}}
    built, batch = model(contrast_weight=0.0, **options).eval(), batch_of(ROWS)
    shared = {"dim": 8, "layers": 2, "heads": 2, "norm": "post", "max_length": 7, **options}
    sasrec = SASRec(SASRecConfig.from_plain({"name": "sasrec", **shared}), 9).double().eval()
    sasrec.load_state_dict({name: value for name, value in built.state_dict().items() if name != "hidden"})
    parts = built.loss(batch, Noise(0))
    assert parts["contrast"] == 0
    assert torch.equal(parts["loss"], sasrec.loss(batch, Noise(0))["loss"])
    assert torch.equal(built.scores(batch, Noise(0)), sasrec.scores(batch, Noise(0)))


def test_only_the_newest_items_of_a_long_history_are_augmented():
    built = model(max_length=4).eval()
    long, cut = batch_of([([7, 8, 1, 2, 3, 4], 5), ([2, 1], 3)]), batch_of([([1, 2, 3, 4], 5), ([2, 1], 3)])
    torch.testing.assert_close(built.loss(long, Noise(0)), built.loss(cut, Noise(0)), rtol=0, atol=0)


def test_a_batch_of_empty_histories_has_nothing_to_contrast():
    parts = model().loss(batch_of([([], 2), ([], 3)]), Noise(0))
    assert parts["contrast"] == 0
    assert parts["loss"].isfinite()


def test_hidden_item_starts_as_an_item_does():
    seed_everything(0)
    built = CL4SRec(CL4SRecConfig(dim=2048), 20)
    assert built.hidden.std().item() == pytest.approx(0.02, rel=0.1)
    assert built.items.weight[1:].std().item() == pytest.approx(0.02, rel=0.05)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"augmentations": []}, "augmentations"),
        ({"augmentations": [{"name": "cropp"}]}, "augmentations"),
        ({"augmentations": [{"name": "crop", "kept": 0}]}, "kept"),
        ({"temperature": 0}, "temperature"),
        ({"pair": "diferent"}, "'pair' = 'diferent'"),
    ],
)
def test_impossible_options(options: dict[str, object], message: str):
    with pytest.raises(ConfigError, match=message):
        CL4SRecConfig.from_plain({"name": "cl4srec", **options})
