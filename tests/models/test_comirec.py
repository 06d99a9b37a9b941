"""ComiRec against a slow reading: one row at a time, no padding, every interest and negative by itself."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from guiderec.errors import ConfigError
from guiderec.models.comirec import ComiRec, ComiRecConfig, Routing, SampledSoftmax, SelfAttentive
from guiderec.rng import Noise, numpy_generator, seed_everything
from guiderec.testing.conformance import ModelConformance
from guiderec.testing.oracles import Row, batch_of, recall_by_loop, sequences_of

ITEMS, DIM, K, L = 12, 6, 3, 5
ROWS: list[Row] = [([1, 2, 3], 4), ([5, 6], 7), ([9, 3, 4, 8, 10, 11, 12], 9), ([8], 2), ([], 4)]
NOISE = Noise(7)
DR = {"extraction": {"name": "dynamic_routing"}}
VARIANTS: list[dict[str, Any]] = [
    {},
    {"extraction": {"name": "self_attentive", "counting": "from_end", "expansion": 2}},
    {"extraction": {"name": "self_attentive", "positions": False}},
    DR,
    {"extraction": {"name": "dynamic_routing", "counting": "from_end", "iterations": 2}},
]


def make(**options: Any) -> ComiRec:
    seed_everything(0)
    config = ComiRecConfig.from_plain({"name": "comirec", "dim": DIM, "interests": K, "max_length": L, **options})
    model = ComiRec(config, ITEMS).double().eval()
    model.prepare(sequences_of(ROWS))
    with torch.no_grad():
        for parameter in model.parameters():  # a start of zeros would hide mistakes
            parameter.add_(0.3 * torch.randn_like(parameter))
        model.items.weight[0].zero_()
    return model


def slow_interests(model: ComiRec, history: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Interests (K, D) and weights (n, K) of one history."""
    weights = {name: p.detach().numpy() for name, p in model.named_parameters()}
    items = history[-L:]
    vectors = [weights["items.weight"][i] for i in items] or [weights["start"]]
    n, part = len(vectors), model.config.extraction
    places = list(range(n)) if part.counting == "from_start" else list(range(n - 1, -1, -1))
    if isinstance(part, SelfAttentive):
        hidden = []
        for e, place in zip(vectors, places, strict=True):
            x = e + weights["extract.positions.table.weight"][place] if part.positions else e
            z = weights["extract.attention.expand.weight"] @ x + weights["extract.attention.expand.bias"]
            hidden.append(weights["extract.attention.route.weight"] @ np.array([math.tanh(v) for v in z]))
        share = np.array([[math.exp(h[k]) / sum(math.exp(g[k]) for g in hidden) for k in range(K)] for h in hidden])
        return np.array([sum(share[i, k] * vectors[i] for i in range(n)) for k in range(K)]), share
    maps = weights["extract.maps"]
    votes = [[e @ maps[p][:, k * DIM : (k + 1) * DIM] for k in range(K)] for e, p in zip(vectors, places, strict=True)]
    logits = np.zeros((n, K))
    for _ in range(part.iterations):
        share = np.array([[math.exp(b) / sum(math.exp(c) for c in row) for b in row] for row in logits.tolist()])
        totals = [sum(share[i, k] * votes[i][k] for i in range(n)) for k in range(K)]
        capsules = np.array([(t @ t) / (1 + t @ t) * t / math.sqrt(t @ t + 1e-9) for t in totals])
        logits = logits + np.array([[votes[i][k] @ capsules[k] for k in range(K)] for i in range(n)])
    return capsules, share


@pytest.mark.parametrize("options", VARIANTS)
@torch.no_grad()
def test_interests_and_routing_are_those_of_the_slow_reading(options: dict[str, Any]):
    model, query = make(**options), batch_of(ROWS)
    users, routing = model.user_vectors(query, NOISE), model.routing(query)
    scores = model.scores(query, NOISE)
    assert users.shape == (len(ROWS), K, DIM)
    assert routing.shape == (*query.history.shape, K)
    for row, (history, _) in enumerate(ROWS):
        interests, weights = slow_interests(model, history)
        np.testing.assert_allclose(users[row].numpy(), interests, rtol=1e-6, atol=1e-12)
        best = [max(float(v @ e) for v in interests) for e in model.items.weight.numpy()]
        assert scores[row, 1:].tolist() == pytest.approx(best[1:])
        read = min(len(history), L)
        if read:
            np.testing.assert_allclose(routing[row, -read:].numpy(), weights, rtol=1e-6)
        assert not routing[row, : routing.shape[1] - read].any()


# ------------------------------------------------------------------------------------------------------------ losses


def nearest(model: ComiRec, history: list[int], target: int) -> np.ndarray:
    """The interest with the largest inner product with the target."""
    return max(slow_interests(model, history)[0], key=lambda v: float(v @ model.items.weight[target].detach().numpy()))


@pytest.mark.parametrize("options", [{}, DR])
@torch.no_grad()
def test_full_softmax_is_the_formula(options: dict[str, Any]):
    model = make(objective={"name": "cross_entropy"}, **options)
    total = 0.0
    for history, target in ROWS:
        logits = model.items.weight[1:].numpy() @ nearest(model, history, target)
        total += math.log(sum(math.exp(x) for x in logits)) - logits[target - 1]
    assert float(model.loss(batch_of(ROWS), NOISE)["loss"]) == pytest.approx(total / len(ROWS))


@pytest.mark.parametrize("proposal", ["log_uniform", "uniform"])
@torch.no_grad()
def test_sampled_softmax_is_the_formula(proposal: str):
    """Draws by rank of the count in training; a draw j counts 1 / (N q_j), the row's own target does not count."""
    model = make(objective={"name": "sampled_softmax", "negatives": 3, "proposal": proposal})
    counts = [0] * (ITEMS + 1)
    for history, target in ROWS:
        for item in [*history, target]:
            counts[item] += 1
    order = sorted(range(1, ITEMS + 1), key=lambda j: (-counts[j], j))
    q = {j: math.log((r + 2) / (r + 1)) / math.log(ITEMS + 1) for r, j in enumerate(order)}
    n = 3 * len(ROWS)
    if proposal == "uniform":
        q = dict.fromkeys(order, 1 / ITEMS)
        ranks = NOISE.integers(torch.zeros(1), n, ITEMS, "negatives")[0].tolist()
    else:
        ranks = [int((ITEMS + 1) ** u) - 1 for u in NOISE.uniform(torch.zeros(1), n, "negatives")[0].tolist()]
    drawn = [order[r] for r in ranks]
    total, hits = 0.0, 0
    for history, target in ROWS:
        logits = model.items.weight.numpy() @ nearest(model, history, target)
        others = sum(math.exp(logits[j]) / (n * q[j]) for j in drawn if j != target)
        hits += target in drawn
        total += math.log(math.exp(logits[target]) + others) - logits[target]
    assert hits
    assert float(model.loss(batch_of(ROWS), NOISE)["loss"]) == pytest.approx(total / len(ROWS), rel=1e-6)


@torch.no_grad()
def test_the_covariance_of_the_routing_is_added():
    plain, weighted = make(), make(covariance=2.0)
    parts, batch = weighted.loss(batch_of(ROWS), NOISE), batch_of(ROWS)
    assert float(parts["next_item"]) == float(plain.loss(batch, NOISE)["loss"])
    assert float(parts["loss"]) == pytest.approx(float(parts["next_item"] + 2 * parts["covariance"]))
    rows = []
    for history, _ in ROWS:
        if not history:
            rows.append(0.0)
            continue
        c = np.atleast_2d(np.cov(slow_interests(weighted, history)[1], rowvar=False, bias=True))
        rows.append(0.0 if len(history) == 1 else float(np.linalg.norm(c, axis=1).sum()))
    assert float(parts["covariance"]) == pytest.approx(sum(rows) / len(ROWS))


def test_only_the_nearest_interest_learns():
    """The gradient of the users reaches one interest of each row, the one that is nearest to the target."""
    model = make()
    users = model.user_vectors(batch_of(ROWS), NOISE).detach().requires_grad_()
    model.interests = lambda query: (users, torch.zeros(len(ROWS), L, K))  # type: ignore[method-assign]
    model.loss(batch_of(ROWS), NOISE)["loss"].backward()
    assert users.grad is not None
    for row, (_, target) in enumerate(ROWS):
        nearest_one = int((users[row] @ model.items.weight[target]).argmax())
        assert users.grad[row].any(dim=1).tolist() == [k == nearest_one for k in range(K)]


def test_an_empty_history_learns_its_start_and_all_its_interests_are_alike():
    model = make()
    model.loss(batch_of([([], 4)]), NOISE)["loss"].backward()
    assert model.start.grad is not None
    assert model.start.grad.any()
    users = model.user_vectors(batch_of([([], 4)]), NOISE)[0]
    torch.testing.assert_close(users, model.start.expand(K, -1))


@torch.no_grad()
def test_prepare_orders_items_by_count():
    model = make()
    assert model.by_count[:5].tolist() == [4, 2, 3, 8, 9]  # three times; twice, by id
    assert sorted(model.by_count.tolist()) == list(range(1, ITEMS + 1))
    assert float(model.log_q[4]) == float(model.log_q[1:].max())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"extraction": {"name": "dynamic_ruting"}}, "Did you mean 'dynamic_routing'"),
        ({"extraction": {"name": "dynamic_routing", "positions": True}}, "extraction.positions' is not an option"),
        ({"objective": {"name": "sampled_softmax", "negatives": 0}}, "objective.negatives' = 0"),
        ({"interests": 0}, "'interests' = 0"),
    ],
)
def test_impossible_options(options: dict[str, Any], message: str):
    with pytest.raises(ConfigError, match=message):
        ComiRecConfig.from_plain({"name": "comirec", **options})


def test_defaults_are_those_of_the_authors():
    config = ComiRecConfig()
    assert (config.dim, config.interests, config.max_length) == (64, 4, 20)
    assert config.extraction == SelfAttentive(expansion=4, positions=True)
    assert config.objective == SampledSoftmax(negatives=10, proposal="log_uniform")
    assert Routing().iterations == 3


# ---------------------------------------------------------------------------------------------------------- learning


def shelves(count: int, seed: int) -> list[Row]:
    """People of two shelves of eight, five items each; what comes next is on one of their two shelves."""
    generator = numpy_generator(seed, "shelves")
    rows: list[Row] = []
    for _ in range(count):
        own = generator.choice(8, 2, replace=False)

        def item(shelf: int) -> int:
            return int(1 + shelf + 8 * generator.integers(5))

        history = [item(own[i % 2]) for i in range(int(generator.integers(2, 9)))]
        rows.append((history, item(own[generator.integers(2)])))
    return rows


@pytest.mark.slow
@pytest.mark.parametrize(("options", "steps", "least"), [({}, 60, 0.9), (DR, 200, 0.55)])
def test_two_interests_are_found(options: dict[str, Any], steps: int, least: float):
    """Recall@10 on new people, where the ten items of both shelves are a perfect list and chance is a quarter."""

    class Shelves(ModelConformance):
        n_items, learning_rate = 40, 1e-2

        def make_model(self) -> ComiRec:
            plain = {"name": "comirec", "dim": 32, "interests": 2, "max_length": 10, **options}
            return ComiRec(ComiRecConfig.from_plain(plain), self.n_items)

    model = Shelves()._trained(shelves(1000, 0), seed=0, steps=steps)
    batch = batch_of(shelves(300, 1))
    with torch.no_grad():
        assert recall_by_loop(model.scores(batch, NOISE), batch.target, 10) >= least


class Dynamic(ModelConformance):
    """The entry of the model in test_conformance.py has SA."""

    noise_in_loss = True
    learning_rate = 1e-2
    without_gradient = frozenset({"start"})

    def make_model(self) -> ComiRec:
        plain = {"name": "comirec", "dim": 32, "interests": 3, "max_length": 10, **DR}
        return ComiRec(ComiRecConfig.from_plain(plain), self.n_items)


NOT_HERE = {
    "test_cuda",  # the entry does it
    "test_planted_rule_is_learnt",  # of what follows what; what routing can learn is in test_two_interests_are_found
}


@pytest.mark.parametrize("test", [name for name in dir(Dynamic) if name.startswith("test_") and name not in NOT_HERE])
def test_dynamic_routing_keeps_the_contract(test: str):
    getattr(Dynamic(), test)()
