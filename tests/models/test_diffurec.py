"""DiffuRec against a slow reading of the paper: one row at a time, no padding, every position, every step anew."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from guiderec.errors import ConfigError
from guiderec.models.aligndiff import AlignDiff
from guiderec.models.diffurec import DiffuRec, DiffuRecConfig
from guiderec.nn.buckets import by_length
from guiderec.nn.dropout import Dropout
from guiderec.nn.time import sinusoid
from guiderec.rng import Noise, subkeys
from guiderec.testing.oracles import batch_of

ITEMS, DIM, HEADS, T, L = 12, 8, 2, 6, 5
ROWS = [([1, 2, 3], 4), ([5, 6], 7), ([9, 3, 4, 8, 10, 11, 12], 9), ([8], 2), ([], 4)]
NOISE = Noise(7)


def make(**options: Any) -> DiffuRec:
    torch.manual_seed(0)
    plain = {
        "dim": DIM,
        "max_length": L,
        "layers": 2,
        "heads": HEADS,
        "mixing": 0.4,
        "schedule": {"name": "trunc_lin", "steps": T},
    }
    model = DiffuRec(DiffuRecConfig.from_plain({**plain, **options}), ITEMS).double().eval()
    for parameter in model.parameters():  # norms and biases that are the identity would hide mistakes
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    return model


def attention(block: Any, x: Tensor, weights_of: Any) -> Tensor:
    """Multi-head attention of one row (n, D), head by head and query by query."""
    q, k, v = (x @ block.query_key_value.weight.T + block.query_key_value.bias).chunk(3, dim=1)
    width = DIM // HEADS
    mixed = torch.zeros_like(x)
    for head in range(HEADS):
        columns = slice(head * width, (head + 1) * width)
        for i in range(len(x)):
            logits = torch.stack([q[i, columns] @ k[j, columns] / math.sqrt(width) for j in range(len(x))])
            mixed[i, columns] = weights_of(i, logits) @ v[:, columns]
    return mixed @ block.output.weight.T + block.output.bias


def slow_prediction(model: DiffuRec, history: list[int], key: int, x_t: Tensor, t: int, noise: Noise) -> Tensor:
    """x0_hat (D,) of one history, with its final norm."""
    public = model.config.padding == "public_code"
    items = history[-L:]
    if public:
        items = [0] * (L - len(items)) + items
    elif not items:
        items = [0]  # one padding position
    n, network = len(items), model.denoiser
    vectors = model.items.weight[items]
    if model.positions is not None:
        vectors = vectors + model.positions.table.weight[list(range(n - 1, -1, -1))]
    e = F.layer_norm(model.item_dropout(vectors), (DIM,), model.item_norm.weight, model.item_norm.bias)
    wave = sinusoid(torch.tensor([t * 1000.0 / T], dtype=torch.float64), DIM, dtype=torch.float64)
    time = (F.silu(wave @ network.time.up.weight.T + network.time.up.bias) @ network.time.down.weight.T)[0]
    time = time + network.time.down.bias
    step_key = subkeys(torch.tensor([key]), torch.tensor([t]))
    mixing = model.config.mixing
    z = []
    for i in range(n):
        drawn = noise.normal(subkeys(step_key, torch.tensor([n - 1 - i])), DIM, "lambda", torch.float64)[0]
        z.append(e[i] + (mixing + mixing * drawn) * (x_t + time))
    x = torch.stack(z)

    def weights_of(i: int, logits: Tensor) -> Tensor:
        return torch.full((n,), 1 / n).double() if public and items[i] == 0 else logits.softmax(0)

    for block in network.blocks:
        normed = F.layer_norm(x, (DIM,), block.attention_norm.weight, block.attention_norm.bias)
        x = x + block.dropout(attention(block.attention, normed, weights_of))
        normed = F.layer_norm(x, (DIM,), block.feedforward_norm.weight, block.feedforward_norm.bias)
        x = x + block.dropout(block.feedforward(normed))
    return F.layer_norm(network.dropout(x[-1]), (DIM,), network.norm.weight, network.norm.bias)


VARIANTS = [{}, {"positions": True}, {"padding": "public_code"}, {"positions": True, "padding": "public_code"}]


@pytest.mark.parametrize("options", VARIANTS)
@torch.no_grad()
def test_loss_is_that_of_the_slow_reading(options: dict[str, Any]):
    model, batch = make(**options), batch_of(ROWS, first_key=3)
    alpha_bar = model.schedule.alpha_bar
    t = NOISE.integers(batch.key, 1, T, "draw/t")[:, 0].tolist()
    eps = NOISE.normal(batch.key, DIM, "draw/eps", torch.float64)
    assert len(set(t)) > 1
    total = 0.0
    for row, (history, target) in enumerate(ROWS):
        x0 = model.items.weight[target]
        x_t = alpha_bar[t[row]].sqrt() * x0 + (1 - alpha_bar[t[row]]).sqrt() * eps[row]
        logits = model.items.weight @ slow_prediction(model, history, 3 + row, x_t, t[row], NOISE)
        if not options.get("padding"):
            logits[0] = -torch.inf  # padding is no class
        total += float(logits.logsumexp(0) - logits[target])
    assert float(model.loss(batch, NOISE)["loss"]) == pytest.approx(total / len(ROWS), rel=1e-7)


@pytest.mark.parametrize("options", VARIANTS)
@torch.no_grad()
def test_generation_is_ancestral_sampling_with_the_slow_reading(options: dict[str, Any]):
    model, query = make(**options), batch_of(ROWS, first_key=3)
    found = model.user_vectors(query, NOISE)[:, 0]
    beta, alpha_bar = model.schedule.betas.tolist(), [1.0, *model.schedule.alpha_bar.tolist()]  # alpha_bar[t + 1]
    for row, (history, _) in enumerate(ROWS):
        key = torch.tensor([3 + row])
        x = NOISE.normal(key, DIM, "x_T", torch.float64)[0]
        for t in range(T - 1, -1, -1):
            x0 = slow_prediction(model, history, 3 + row, x, t, NOISE)
            rest, before = 1 - alpha_bar[t + 1], 1 - alpha_bar[t]
            mean = math.sqrt(alpha_bar[t]) * beta[t] / rest * x0 + math.sqrt(1 - beta[t]) * before / rest * x
            drawn = NOISE.normal(key, DIM, f"step/{t}", torch.float64)[0]
            x = mean + math.sqrt(beta[t] * before / rest) * drawn
        torch.testing.assert_close(found[row], x, rtol=1e-6, atol=1e-7)


@torch.no_grad()
def test_dropout_stands_before_the_norms(monkeypatch: pytest.MonkeyPatch):
    """LN(Dropout(e)) and LN(Dropout(Blocks(z))), as in the public code: with a factor for each column in its place."""
    monkeypatch.setattr(
        Dropout, "forward", lambda layer, x: x * (1 + layer.p * torch.arange(x.shape[-1], dtype=x.dtype).cos())
    )
    model = make(dropout=0.3, embedding_dropout=0.6, positions=True)
    for history, _ in ROWS:
        x_t, key = torch.randn(1, DIM, dtype=torch.float64), torch.tensor([3])
        network = model.denoiser_of(torch.tensor([history[-L:] or [0]]), key, NOISE)
        found = model.denoiser.norm(network(x_t, torch.tensor([2])))[0]
        torch.testing.assert_close(found, slow_prediction(model, history, 3, x_t[0], 2, NOISE), rtol=1e-9, atol=1e-9)


def test_items_learn_as_history_as_classes_and_as_the_noised_target():
    """The gradient of the table is the central difference: nothing of the three is held fixed."""
    model, batch = make(), batch_of(ROWS)
    table = model.items.weight
    model.loss(batch, NOISE)["loss"].backward()
    direction = torch.randn_like(table) * (torch.arange(ITEMS + 1) > 0)[:, None]  # padding is never moved
    ends, start = [], table.detach().clone()
    with torch.no_grad():
        for step in (1e-6, -1e-6):
            table.copy_(start + step * direction)
            ends.append(float(model.loss(batch, NOISE)["loss"]))
    assert float((table.grad * direction).sum()) == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-6)


@torch.no_grad()
def test_only_the_public_code_lets_items_attend_to_padding():
    query = batch_of(ROWS[:2])
    for padding, moves in (("masked", False), ("public_code", True)):
        model = make(padding=padding)
        before = model.user_vectors(query, NOISE)
        model.items.weight[0] += 1.0
        assert torch.equal(model.user_vectors(query, NOISE), before) != moves


@torch.no_grad()
def test_without_positions_only_the_newest_item_has_a_place():
    """The noise has places too, so it is switched off."""
    for positions, moves in ((False, False), (True, True)):
        model = make(positions=positions, mixing=0.0)
        one, other = (model.user_vectors(batch_of([(history, 1)]), NOISE) for history in ([1, 2, 3], [2, 1, 3]))
        assert torch.allclose(one, other, rtol=0, atol=1e-12) != moves


@torch.no_grad()
def test_the_published_mixing_leaves_almost_nothing_of_the_noise():
    """What the sheet says of delta = 0.001: other noise hardly moves the answer, while delta = 1 moves it."""
    spread = {}
    for mixing in (0.001, 1.0):
        model, query = make(mixing=mixing), batch_of(ROWS)
        one, other = (model.user_vectors(query, Noise(seed)) for seed in (1, 2))
        spread[mixing] = float((one - other).norm() / one.norm())
    assert spread[0.001] < 0.01 < 0.1 < spread[1.0]


@pytest.mark.parametrize(
    ("options", "message"),
    [({"generation": {"start": "mean"}}, "start must be"), ({"heads": 3}, "heads = 3 does not divide dim")],
)
def test_options_that_do_not_fit(options: dict[str, Any], message: str):
    with pytest.raises(ConfigError, match=message):
        DiffuRecConfig.from_plain(options)


@torch.no_grad()
def test_rows_in_several_buckets_are_rows_alone():
    rows = [([1 + (row * place) % ITEMS for place in range(row)], 1) for row in range(24)]
    model, query = make(max_length=20), batch_of(rows, width=23)
    assert len(by_length(query.mask[:, -20:])) == 3
    together = model.user_vectors(query, NOISE)
    alone = torch.cat([model.user_vectors(query.rows(slice(row, row + 1)), NOISE) for row in range(24)])
    torch.testing.assert_close(alone, together)


@pytest.mark.parametrize("name", ["diffurec", "aligndiff"])
def test_items_begin_as_short_as_they_are_told(name: str) -> None:
    """The deviation of the table, over 12,800 draws: within 3 % of what the options say, with padding at zero."""
    recommender = {"diffurec": DiffuRec, "aligndiff": AlignDiff}[name]
    torch.manual_seed(0)
    options = {"name": name, "dim": 128, "layers": 1, "init_std": 0.1}
    table = recommender(recommender.Config.from_plain(options), 100).item_vectors()
    assert table[1:].std().item() == pytest.approx(0.1, rel=0.03)
    assert not table[0].any()
