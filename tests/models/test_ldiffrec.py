"""L-DiffRec: its loss and scores by one encoder per cluster in the order of clusters, mapped back; its clusters."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from torch import Tensor

from guiderec.data.sequences import Sequences
from guiderec.errors import ConfigError, NotFittedError
from guiderec.models.ldiffrec import LDiffRec, LDiffRecConfig, item_directions, k_means, latent_widths
from guiderec.rng import Noise
from guiderec.testing.oracles import batch_of, sequences_of

ITEMS, D = 9, 6
ROWS = [([1, 4, 7], 2), ([2, 5], 8), ([9], 3), ([], 6), ([1, 4], 7), ([3, 6, 9], 3)]
PLAIN: dict[str, Any] = {
    "dim": D,
    "hidden": [5],
    "time_dim": 4,
    "clusters": 3,
    "cluster_dim": 4,
    "timesteps": "uniform",
}


def make(**options: Any) -> LDiffRec:
    torch.manual_seed(0)
    model = LDiffRec(LDiffRecConfig.from_plain({**PLAIN, **options}), ITEMS).double().eval()
    model.prepare(sequences_of(ROWS))
    return model


class InClusterOrder:
    """One encoder and decoder per cluster, profiles in the order of clusters, as the public code has them."""

    def __init__(self, model: LDiffRec) -> None:
        self.model = model
        self.members = [torch.where(model.item_cluster == c)[0] for c in range(3)]
        self.columns = [torch.where(model.column_cluster == c)[0] for c in range(3)]
        self.order = torch.cat(self.members)
        assert self.order.tolist() != sorted(self.order.tolist())  # else mapping back would be nothing

    def encode(self, profile: Tensor) -> tuple[Tensor, Tensor]:
        parts = profile[:, self.order].split([len(m) for m in self.members], dim=1)
        joined = []
        for layer in (self.model.to_mean, self.model.to_log_variance):
            own = [
                part @ layer.weight[column][:, member].T + layer.bias[column]
                for part, member, column in zip(parts, self.members, self.columns, strict=True)
            ]
            joined.append(torch.cat(own, dim=1))
        return joined[0], joined[1]

    def decode(self, latent: Tensor, *, shared: bool) -> Tensor:
        weight, bias = self.model.decoder.weight, self.model.decoder.bias
        if shared:
            ordered = latent @ weight[self.order].T + bias[self.order]
        else:
            parts = latent.split([len(c) for c in self.columns], dim=1)
            ordered = torch.cat(
                [
                    part @ weight[member][:, column].T + bias[member]
                    for part, member, column in zip(parts, self.members, self.columns, strict=True)
                ],
                dim=1,
            )
        back = torch.empty_like(ordered)
        for place, item in enumerate(self.order.tolist()):
            back[:, item] = ordered[:, place]
        return back


def hot(*items: int) -> list[float]:
    return [float(j in items) for j in range(1, ITEMS + 1)]


@pytest.mark.parametrize("decoder", ["shared", "per_cluster"])
@torch.no_grad()
def test_scores_are_those_of_encoders_in_the_order_of_clusters(decoder: str):
    model, batch = make(decoder=decoder), batch_of(ROWS)
    slow = InClusterOrder(model)
    x, _ = slow.encode(torch.tensor([hot(*history) for history, _ in ROWS], dtype=torch.float64))
    bar = [1.0, *model.schedule.alpha_bar.tolist()]  # bar[t + 1] belongs to step t
    for t in range(4, -1, -1):
        x0, beta = model.denoiser(x, torch.full((len(x),), t)), 1 - bar[t + 1] / bar[t]
        of_x0 = math.sqrt(bar[t]) * beta / (1 - bar[t + 1])
        x = of_x0 * x0 + math.sqrt(1 - beta) * (1 - bar[t]) / (1 - bar[t + 1]) * x
    expected = slow.decode(x, shared=decoder == "shared")
    torch.testing.assert_close(model.scores(batch, Noise(0))[:, 1:], expected, rtol=0, atol=1e-8)


@pytest.mark.parametrize("answer", ["profile", "target"])
@torch.no_grad()
def test_loss_by_hand(answer: str):
    model, batch, noise = make(answer=answer), batch_of(ROWS), Noise(1).at(40)
    slow = InClusterOrder(model)
    shown = [hot(*history) if answer == "target" else hot(*history, target) for history, target in ROWS]
    wanted = [hot(target) if answer == "target" else hot(*history, target) for history, target in ROWS]
    mean, log_variance = slow.encode(torch.tensor(shown, dtype=torch.float64))
    z = mean + log_variance.div(2).exp() * noise.normal(batch.key, D, "latent", torch.float64)
    t = noise.integers(batch.key, 1, 5, "draw/t")[:, 0]
    eps = noise.normal(batch.key, D, "draw/eps", torch.float64)
    bars = model.schedule.alpha_bar.tolist()
    diffusion = likelihood = divergence = 0.0
    for row, step in enumerate(t.tolist()):
        bar = bars[step]
        x_t = math.sqrt(bar) * z[row] + math.sqrt(1 - bar) * eps[row]
        restored = model.denoiser(x_t[None], t[row : row + 1])
        weight = bars[step - 1] / (1 - bars[step - 1]) - bar / (1 - bar) if step else 1.0
        diffusion += weight * float((restored - z[row]).square().mean())
        logits = slow.decode(restored, shared=True)[0].tolist()
        normaliser = math.log(sum(math.exp(logit) for logit in logits))
        likelihood -= sum(w * (logit - normaliser) for w, logit in zip(wanted[row], logits, strict=True))
        for m, v in zip(mean[row].tolist(), log_variance[row].tolist(), strict=True):
            divergence -= 0.5 * (1 + v - m * m - math.exp(v))
    n = len(ROWS)
    lam, gamma = 0.03 * (1 - 40 / 10_000), 40 / 200
    parts = model.loss(batch, noise)
    assert float(parts["likelihood"]) == pytest.approx(likelihood / n, rel=1e-9)
    assert float(parts["divergence"]) == pytest.approx(divergence / n, rel=1e-9)
    assert float(parts["loss"]) == pytest.approx((lam * diffusion + likelihood + gamma * divergence) / n, rel=1e-8)


def test_annealing():
    model = make()
    assert [model.weight_of_kl(step) for step in (0, 30, 60, 10**6)] == pytest.approx([0.0, 0.15, 0.3, 0.3])
    weights = [model.weight_of_diffusion(step) for step in (0, 5_000, 9_000, 10**6)]
    assert weights == pytest.approx([0.03, 0.015, 0.005, 0.005])


@torch.no_grad()
def test_items_of_a_cluster_reach_no_column_of_another():
    model = make(decoder="per_cluster")
    mean, log_variance = model.encode(torch.eye(ITEMS, dtype=torch.float64))
    none, none_log_variance = model.encode(torch.zeros(1, ITEMS, dtype=torch.float64))
    for item, cluster in enumerate(model.item_cluster.tolist()):
        reached = ((mean[item] != none[0]) | (log_variance[item] != none_log_variance[0])).tolist()
        assert reached == (model.column_cluster == cluster).tolist()


def test_columns_are_divided_in_proportion_to_items():
    assert latent_widths(np.array([50, 50]), 300).tolist() == [150, 150]
    assert latent_widths(np.array([7000, 3000]), 300).tolist() == [210, 90]
    assert latent_widths(np.array([9998, 1, 1]), 3).tolist() == [1, 1, 1]  # the public code gives the last none
    for sizes in ([1, 2, 3, 994], [5, 5, 5], [0, 10]):
        widths = latent_widths(np.array(sizes), 41)
        assert widths.sum() == 41
        assert widths.min() >= 1


def test_directions_give_back_the_angles_between_items():
    """With all columns kept, inner products of the vectors are the cosines of the items' columns in the matrix."""
    lists = [[1, 2, 2], [2, 3], [1, 2, 4], [4], [3, 1]]  # 2 occurs twice in the first: it counts once; 5 never occurs
    vectors = item_directions(Sequences.from_lists(lists), 5, 50)
    matrix = np.array([[float(j in items) for j in range(1, 6)] for items in lists])
    lengths = np.linalg.norm(matrix, axis=0)
    lengths[4] = 1.0
    np.testing.assert_allclose(vectors @ vectors.T, (matrix / lengths).T @ (matrix / lengths), atol=1e-12)


def test_few_directions_are_those_of_the_best_approximation():
    """The sparse solver against the dense one, by the angles between items."""
    generator = np.random.default_rng(0)
    lists = [generator.integers(1, 31, size=5).tolist() for _ in range(60)]
    matrix = np.array([[float(j in items) for j in range(1, 31)] for items in lists])
    _, values, rows = np.linalg.svd(matrix, full_matrices=False)
    factors = (rows[:4].T * values[:4]).astype(np.float64)
    factors /= np.linalg.norm(factors, axis=1, keepdims=True)
    vectors = item_directions(Sequences.from_lists(lists), 30, 4)
    assert vectors.shape == (30, 4)
    np.testing.assert_allclose(vectors @ vectors.T, factors @ factors.T, atol=1e-8)


def test_k_means_is_as_tight_as_that_of_another_library():
    generator = np.random.default_rng(0)
    centres = generator.normal(size=(4, 3)) * 6
    points = np.concatenate([centre + generator.normal(size=(40, 3)) for centre in centres])

    def spread(labels: np.ndarray) -> float:
        return sum(float(((points[labels == c] - points[labels == c].mean(axis=0)) ** 2).sum()) for c in set(labels))

    ours = k_means(points, 4)
    theirs = KMeans(4, n_init=10, random_state=0).fit_predict(points)
    assert spread(ours) == pytest.approx(spread(theirs), rel=1e-6)
    assert ours[0] == 0  # numbered in the order of first points


def test_fewer_distinct_points_than_clusters_are_no_error():
    labels = k_means(np.array([[1.0, 0.0]] * 5 + [[0.0, 1.0]] * 2), 4)
    assert labels.tolist() == [0] * 5 + [1] * 2


def test_planted_groups_are_the_clusters():
    rows = [([4 * g + 1, 4 * g + 3, 4 * g + 2], 4 * g + 4) for g in range(2) for _ in range(5)]
    torch.manual_seed(0)
    model = LDiffRec(LDiffRecConfig(cluster_dim=3, dim=8), 8)
    model.prepare(sequences_of(rows))
    assert model.item_cluster.tolist() == [0] * 4 + [1] * 4
    assert model.column_cluster.tolist() == [0] * 4 + [1] * 4


def test_unprepared_model_says_so():
    model = LDiffRec(LDiffRecConfig(), 10)
    with pytest.raises(NotFittedError, match=r"no clusters of items.*Hint: call prepare"):
        model.scores(batch_of([([1], 2)]), Noise(0))


def test_impossible_options():
    with pytest.raises(ConfigError, match=r"dim = 3 has no column for each of 4 clusters"):
        LDiffRecConfig(dim=3, clusters=4)
    with pytest.raises(ConfigError, match=r"sampling_steps = 9 is more than T = 5"):
        LDiffRecConfig(sampling_steps=9)
