"""ACVAE against a slow reading, and its one loss against the game of two players by turns."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from guiderec.data.batch import PADDING, Batch
from guiderec.errors import ConfigError
from guiderec.models.acvae import ACVAE, ACVAEConfig, of_the_next_row, positions_of
from guiderec.rng import Noise, seed_everything, subkeys
from guiderec.testing.oracles import Row, batch_of

ITEMS, L = 9, 5
WIDTHS = {"dim": 3, "item_dim": 4, "state_dim": 6, "judge_dim": 5, "kernel": 3, "max_length": L}
ROWS: list[Row] = [([3, 1, 4], 1), ([5], 9), ([], 2), ([6, 5, 3, 5, 8, 2, 1], 9), ([4, 1], 1)]
NOISE = Noise(7)


def make(n_items: int = ITEMS, **options: Any) -> ACVAE:
    seed_everything(0)
    return ACVAE(ACVAEConfig.from_plain({"name": "acvae", **WIDTHS, **options}), n_items).double().eval()


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def softplus(x: Any) -> Any:
    return np.log1p(np.exp(x))


def gelu(x: np.ndarray) -> np.ndarray:
    return x * 0.5 * (1 + np.array([math.erf(v / 2**0.5) for v in x]))


def elu(x: np.ndarray) -> np.ndarray:
    return np.where(x > 0, x, np.exp(x) - 1)


class Slow:
    """The model in NumPy, one position at a time, from its weights."""

    def __init__(self, model: ACVAE) -> None:
        self.w = {name: p.detach().numpy() for name, p in model.named_parameters()}
        self.kernel = model.config.kernel

    def layer(self, name: str, x: np.ndarray) -> np.ndarray:
        return self.w[f"{name}.weight"] @ x + self.w[f"{name}.bias"]

    def gru(self, name: str, vectors: list[np.ndarray]) -> list[np.ndarray]:
        parts = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        w, u, b, c = (self.w[f"{name}.cells.{part}_l0"] for part in parts)
        d = u.shape[1]
        h, states = np.zeros(d), []
        for x in vectors:
            given, kept = w @ x + b, u @ h + c
            r, z = sigmoid(given[:d] + kept[:d]), sigmoid(given[d : 2 * d] + kept[d : 2 * d])
            h = (1 - z) * np.tanh(given[2 * d :] + r * kept[2 * d :]) + z * h
            states.append(h)
        return states

    def vectors(self, items: list[int]) -> list[np.ndarray]:
        """Of the positions; one position of 0 for a history without items."""
        table = self.w["items.weight"]
        return [table[item] for item in items] or [np.zeros(table.shape[1])]

    def latent(self, items: list[int], eps: np.ndarray) -> list[np.ndarray]:
        """For items and noise (n, 2, H)."""
        width = self.w["encoder.noise.weight"].shape[0]
        states = self.gru("gru", self.vectors(items)) if items else [np.zeros(width)]
        first, mixed = [], []
        for h, e in zip(states, eps, strict=True):
            y = softplus(self.layer("encoder.before", h + np.tanh(self.layer("encoder.noise", e[0]))))
            first.append(y + np.tanh(self.layer("encoder.noise", e[1])))
        for t, h in enumerate(states):
            y = self.w["encoder.convolution.bias"].copy()
            for back in range(self.kernel):
                if t >= back:
                    y += self.w["encoder.convolution.weight"][:, :, self.kernel - 1 - back] @ first[t - back]
            mixed.append(h + softplus(self.layer("encoder.after", softplus(y))))
        return [self.layer("encoder.latent", y) for y in mixed]

    def scores(self, latent: np.ndarray) -> list[float]:
        hidden, table = np.tanh(self.layer("decoder", latent)), self.w["output.weight"]
        return [float(table[j][:-1] @ hidden + table[j][-1]) for j in range(1, len(table))]

    def log_share(self, latent: np.ndarray, item: int) -> float:
        scores = self.scores(latent)
        return scores[item - 1] - math.log(sum(math.exp(s) for s in scores))

    def adversary(self, x: np.ndarray, z: np.ndarray) -> np.ndarray:
        f = self.layer("adversary.input", np.concatenate([x, z]))
        for block in range(2):
            inner = self.layer(f"adversary.blocks.{block}.0", f)
            f = elu(f + self.layer(f"adversary.blocks.{block}.1", inner))
        return self.layer("adversary.output", f) + 0.5 * z**2

    def critic(self, x: list[np.ndarray], z: list[np.ndarray]) -> list[float]:
        states = self.gru("critic.gru", [np.concatenate(pair) for pair in zip(x, z, strict=True)])
        return [float(self.layer("critic.line", gelu(h))[0]) for h in states]


def drawn(row: int, n: int, size: int, purpose: str, noise: Noise = NOISE) -> np.ndarray:
    """(n, size) for the n positions of a row, oldest first, named by how many are newer."""
    key = torch.tensor([row])
    draws = [noise.normal(subkeys(key, torch.tensor(newer)), size, purpose, torch.float64)[0] for newer in range(n)]
    return torch.stack(draws[::-1]).numpy()


def eps_of(row: int, n: int) -> np.ndarray:
    return drawn(row, n, 2 * WIDTHS["state_dim"], "encoder").reshape(n, 2, -1)


# ------------------------------------------------------------------------------------------------------------ answer


@torch.no_grad()
def test_scores_are_those_of_the_slow_reading():
    """With 0 for the noise, or with the noise of the row."""
    model, sampling, batch = make(), make(inference="sample"), batch_of(ROWS)
    slow = Slow(model)
    scores, samples = model.scores(batch, NOISE), sampling.scores(batch, NOISE)
    for row, (history, _) in enumerate(ROWS):
        items = history[-L:]
        eps = eps_of(row, max(1, len(items)))
        assert scores[row, 1:].tolist() == pytest.approx(slow.scores(slow.latent(items, 0 * eps)[-1]), rel=1e-9)
        assert samples[row, 1:].tolist() == pytest.approx(slow.scores(slow.latent(items, eps)[-1]), rel=1e-9)
    assert torch.equal(scores, model.scores(batch, Noise(8)))
    assert (samples != sampling.scores(batch, Noise(8))).any()
    torch.testing.assert_close(sampling.scores(batch.rows(slice(1, 3)), NOISE), samples[1:3])
    assert model.scores(batch.rows(slice(0, 0)), NOISE).shape == (0, ITEMS + 1)


@torch.no_grad()
def test_rows_of_all_lengths_have_the_vectors_that_they_have_alone():
    model = make(max_length=16)
    rows = [([1 + (row + p) % 9 for p in range(row % 20)], 1) for row in range(60)]  # 8 rows and more of each bucket
    batch = batch_of(rows)
    together = model.latent(batch, NOISE)
    for row, (items, _) in enumerate(rows):
        history = torch.tensor([items or [PADDING]])
        alone = model.latent(Batch(history=history, key=batch.key[row : row + 1], target=torch.tensor([1])), NOISE)[0]
        torch.testing.assert_close(together[row, -len(alone) :], alone)


# -------------------------------------------------------------------------------------------------------------- loss


@torch.no_grad()
def test_loss_is_that_of_the_slow_reading():
    """All four parts, position by position; the other row of the critic counts from the newest and begins again."""
    model, batch = make(kl_weight=0.3, contrast_weight=0.7), batch_of(ROWS)
    slow = Slow(model)
    histories = [history[-L:] for history, _ in ROWS]
    x = [slow.vectors(items) for items in histories]
    z = [slow.latent(items, eps_of(row, max(1, len(items)))) for row, items in enumerate(histories)]
    likelihood, kl, adversary, contrast = [], [], [], []
    for row, (items, (_, target)) in enumerate(zip(histories, ROWS, strict=True)):
        prior = drawn(row, len(z[row]), WIDTHS["dim"], "prior")
        after = z[(row + 1) % len(ROWS)]
        other = [after[-1 - newer % len(after)] for newer in range(len(z[row]))][::-1]
        for place, wanted in enumerate([*items[1:], target]):
            likelihood.append(-slow.log_share(z[row][place], wanted))
            true, false = (slow.adversary(x[row][place], v) for v in (z[row][place], prior[place]))
            kl.append(true.mean())
            adversary.append((-np.log(sigmoid(true)) - np.log(1 - sigmoid(false))).mean())
        for own, foreign in zip(slow.critic(x[row], z[row]), slow.critic(x[row], other), strict=True):
            contrast.append(softplus(-own) + softplus(foreign))
    parts = {name: float(value) for name, value in model.loss(batch, NOISE).items()}
    assert len(likelihood) == len(contrast) == 12
    assert parts["likelihood"] == pytest.approx(np.mean(likelihood), rel=1e-9)
    assert parts["divergence"] == pytest.approx(np.mean(kl), rel=1e-9)
    assert parts["adversary"] == pytest.approx(np.mean(adversary), rel=1e-9)
    assert parts["contrast"] == pytest.approx(np.mean(contrast), rel=1e-9)
    total = np.mean(likelihood) + 0.3 * np.mean(kl) + np.mean(adversary) + 0.7 * np.mean(contrast)
    assert parts["loss"] == pytest.approx(total, rel=1e-9)


def test_the_other_row_is_that_of_the_docstring():
    real = torch.tensor([[False, True, True, True], [False, False, True, True], [False, False, False, True]])
    names = torch.tensor([[-1, 1, 2, 3], [-1, -1, 4, 5], [-1, -1, -1, 6]])[..., None]
    assert of_the_next_row(names, real)[..., 0].tolist() == [[4, 5, 4, 5], [6, 6, 6, 6], [3, 1, 2, 3]]
    assert positions_of(torch.tensor([[0, 0, 4], [0, 0, 0]])).tolist() == [[False, False, True]] * 2


def test_one_row_is_no_contrast():
    """Its negative is itself: softplus(T) + softplus(-T) is least where T is 0, and says nothing of z."""
    model = make(kl_weight=0.0)
    parts = model.loss(batch_of([([3, 1, 4], 1)]), NOISE)
    assert parts["contrast"] >= 2 * math.log(2)


# -------------------------------------------------------------------------------------------------------------- game


def sides(model: ACVAE) -> tuple[dict[str, nn.Parameter], dict[str, nn.Parameter]]:
    named = dict(model.named_parameters())
    judge = {name: p for name, p in named.items() if name.startswith("adversary.")}
    return {name: p for name, p in named.items() if name not in judge}, judge


def by_turns(model: ACVAE, batch: Batch, noise: Noise, players: tuple[torch.optim.Optimizer, ...]) -> None:
    """A step of the model, then one of the adversary on the latent vectors from before, as the authors take them.

    Written with the model's layers alone: none of its terms of the loss.
    """
    config, (first, second) = model.config, players
    adversary, critic = model.adversary, model.critic
    assert adversary is not None
    assert critic is not None
    real = batch.mask.clone()
    real[:, -1] = True
    latent, read = model.latent(batch, noise), model.items(batch.history)
    z, x = latent[real], read[real]
    logits = model.decode(z) @ model.output.weight[1:].T
    nll = F.cross_entropy(logits, batch.next_items[real] - 1)
    shuffled = of_the_next_row(latent, real)
    pair, other = critic(read, latent, real)[real], critic(read, shuffled, real)[real]
    contrast = -(pair.sigmoid().log() + (1 - other.sigmoid()).log()).mean()
    first.zero_grad()
    (nll + config.kl_weight * adversary(x, z).mean() + config.contrast_weight * contrast).backward()
    first.step()
    newer = torch.arange(real.shape[1] - 1, -1, -1)
    prior = noise.normal(subkeys(batch.key[:, None], newer)[real], config.dim, "prior", torch.float64)
    second.zero_grad()  # also what the divergence has left there
    true, false = adversary(x.detach(), z.detach()), adversary(x.detach(), prior)
    (-(true.sigmoid().log() + (1 - false.sigmoid()).log())).mean().backward()
    second.step()


@pytest.mark.parametrize("kl_weight", [0.05, 3.0])
def test_gradients_are_those_of_the_game(kl_weight: float):
    """Of every weight of both players, with steps of length 0 so that nothing moves between the turns."""
    ours, theirs = make(kl_weight=kl_weight), make(kl_weight=kl_weight)
    batch = batch_of([(history[-L:], target) for history, target in ROWS])
    ours.loss(batch, NOISE)["loss"].backward()
    model, judge = sides(theirs)
    grads: dict[str, Tensor] = {}

    class Keep(torch.optim.SGD):
        def step(self, closure: Any = None) -> None:
            own = {id(p) for group in self.param_groups for p in group["params"]}
            for name, p in theirs.named_parameters():
                if id(p) in own:
                    assert p.grad is not None
                    grads[name] = p.grad.clone()

    by_turns(theirs, batch, NOISE, (Keep(model.values(), lr=0.0), Keep(judge.values(), lr=0.0)))
    for name, parameter in ours.named_parameters():
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.grad, grads[name], rtol=1e-9, atol=1e-12)
        assert parameter.grad.any(), name


def test_steps_of_one_adamw_are_those_of_two_by_turns():
    """Ten steps: the same weights of both players."""
    ours = make()
    theirs = copy.deepcopy(ours)
    batch = batch_of([(history[-L:], target) for history, target in ROWS])
    options = {"lr": 1e-2, "weight_decay": 1e-2}
    one = torch.optim.AdamW(ours.parameters(), **options)
    model, judge = sides(theirs)
    two = torch.optim.AdamW(model.values(), **options), torch.optim.AdamW(judge.values(), **options)
    before = copy.deepcopy(ours.state_dict())
    for step in range(10):
        one.zero_grad()
        ours.loss(batch, NOISE.at(step))["loss"].backward()
        one.step()
        by_turns(theirs, batch, NOISE.at(step), two)
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter, theirs.get_parameter(name), rtol=1e-6, atol=1e-8)
        assert (parameter != before[name]).any()


def test_the_divergence_does_not_teach_the_adversary_nor_its_error_the_model():
    model, batch = make(), batch_of(ROWS)
    parts = model.loss(batch, NOISE)
    own, judge = sides(model)
    for part, silent in (("divergence", judge), ("adversary", own)):
        grads = torch.autograd.grad(parts[part], list(silent.values()), retain_graph=True, allow_unused=True)
        assert all(grad is None or not grad.any() for grad in grads)


def test_the_best_adversary_measures_the_divergence():
    """Its error is least at T = log q - log p: a grid search over T at one point, for densities 0.3 and 0.1."""
    q, p = 0.3, 0.1
    grid = torch.linspace(-3, 3, 60001, dtype=torch.float64)
    error = q * F.softplus(-grid) + p * F.softplus(grid)
    assert grid[error.argmin()].item() == pytest.approx(math.log(q / p), abs=1e-3)


# ----------------------------------------------------------------------------------------------------------- options


def test_without_weight_there_is_no_judge():
    batch = batch_of(ROWS)
    for options, name, part in (
        ({"kl_weight": 0.0}, "adversary", "divergence"),
        ({"contrast_weight": 0.0}, "critic", "contrast"),
    ):
        model = make(**options)
        assert getattr(model, name) is None
        parts = model.loss(batch, NOISE)
        assert part not in parts
        assert name not in parts
    alone = make(kl_weight=0.0, contrast_weight=0.0).loss(batch, NOISE)
    assert alone["loss"] == alone["likelihood"]


def test_dropout_is_active_in_training_only():
    batch = batch_of(ROWS)
    for name in ("embedding_dropout", "dropout", "adversary_dropout"):
        others = dict.fromkeys(("embedding_dropout", "dropout", "adversary_dropout"), 0.0)
        model = make(**{**others, name: 0.5})
        assert model.loss(batch, NOISE)["loss"] == model.loss(batch, NOISE)["loss"]
        model.train()
        assert model.loss(batch, NOISE)["loss"] != model.loss(batch, NOISE)["loss"]


def test_padding_and_unread_items_get_no_gradient():
    """Item 7 is a target and in no history; item 6 is beyond the newest five."""
    model = make()
    model.loss(batch_of([([3], 7), ([], 2), ([6, 5, 3, 5, 8, 2], 9)]), NOISE)["loss"].backward()
    read, scored = model.items.weight.grad, model.output.weight.grad
    assert read is not None
    assert scored is not None
    assert not read[[0, 1, 4, 6, 7, 9]].any()
    assert read[[2, 3, 5, 8]].any(dim=1).all()
    assert not scored[0].any()


def test_initialisation():
    """Xavier-normal decoder, N(0, 1) items; a fresh model says nearly the same of 500 items."""
    seed_everything(0)
    model = ACVAE(ACVAEConfig(), 500)
    assert model.decoder.weight.detach().std().item() == pytest.approx((2 / 192) ** 0.5, rel=0.05)
    assert model.items.weight.detach()[1:].std().item() == pytest.approx(1, rel=0.05)
    assert model.output.weight.detach()[1:, :-1].std().item() == pytest.approx((2 / 628) ** 0.5, rel=0.05)
    assert model.output.weight.detach()[1:, -1].abs().max() <= 128**-0.5
    assert not model.output.weight[0].any()
    loss = model.eval().loss(batch_of([([1 + row], 3 + row) for row in range(100)]), NOISE)["likelihood"]
    assert loss.item() == pytest.approx(math.log(500), abs=0.5)


def test_defaults_are_those_of_the_authors():
    config = ACVAEConfig()
    assert (config.item_dim, config.state_dim, config.dim, config.judge_dim, config.kernel) == (128, 100, 64, 128, 5)
    assert (config.embedding_dropout, config.dropout, config.adversary_dropout) == (0.5, 0.5, 0.2)
    assert (config.kl_weight, config.contrast_weight) == (0.05, 0.1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kernel": 0}, "'kernel' = 0"),
        ({"contrast_weight": -1}, "'contrast_weight' = -1"),
        ({"inference": "mean"}, "inference"),
        ({"dropout": 1.0}, "'dropout' = 1.0"),
    ],
)
def test_impossible_options(options: dict[str, Any], message: str):
    with pytest.raises(ConfigError, match=message):
        ACVAEConfig.from_plain({"name": "acvae", **options})
