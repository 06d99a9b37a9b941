"""SteerRec: its loss and Algorithm 2 written out by hand in the public layout, its negatives by slow rankings."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from guiderec.data.batch import Batch, Query
from guiderec.diffusion.guidance import ClassifierFree, PositiveNegative
from guiderec.diffusion.objectives import draw
from guiderec.diffusion.schedule import Linear
from guiderec.errors import ConfigError
from guiderec.models.steerrec import HardNegatives, OwnNegatives, RandomNegatives, SteerRec, SteerRecConfig
from guiderec.rng import Noise, seed_everything
from guiderec.testing.oracles import batch_of, planted_rows

ITEMS, DIM = 30, 8
ROWS = [([1, 2, 3], 4), ([5, 6], 7), ([8], 9), ([], 4), ([2, 10, 11, 12], 13)]
SMALL: dict[str, Any] = {
    "dim": DIM,
    "max_length": 4,
    "dropout": 0.0,
    "schedule": {"name": "linear", "steps": 40},
    "generation": {"steps": 5},
}


def make(**options: Any) -> SteerRec:
    torch.manual_seed(0)
    model = SteerRec(SteerRecConfig.from_plain({**SMALL, **options}), ITEMS).double()
    return model.eval()


def with_dislikes(query: Query, *dislikes: list[int]) -> Query:
    width = max(len(items) for items in dislikes)
    padded = [items + [0] * (width - len(items)) for items in dislikes]
    return dataclasses.replace(query, dislikes=torch.tensor(padded))


def same_weights(model: SteerRec, **options: Any) -> SteerRec:
    other = make(**options)
    other.load_state_dict(model.state_dict())
    return other


@torch.no_grad()
def vectors(model: SteerRec, query: Query, noise: Noise | None = None) -> Tensor:
    return model.user_vectors(query, noise or Noise(0))[:, 0]


def joined(model: SteerRec, x: Tensor, condition: Tensor, t: Tensor) -> Tensor:
    """The denoiser as one Linear on [x_t ; c ; time(t)], the public layout."""
    network = model.denoiser
    weight = torch.cat([network.from_state.weight, network.from_condition.weight, network.from_time.weight], dim=1)
    return torch.cat([x, condition, network.time(t)], dim=1) @ weight.T + network.from_time.bias


def alpha_bar(t: int) -> float:
    return math.prod(1 - (1e-4 + (0.02 - 1e-4) * s / 39) for s in range(t + 1))


def cosine(x: Tensor, y: Tensor) -> Tensor:
    return sum(x * y) / (math.sqrt(sum(x * x)) * math.sqrt(sum(y * y)))


# ------------------------------------------------------------------------------------------------ loss


@pytest.mark.parametrize(("balance", "margin"), [(0.2, 0.1), (0.7, 0.0), (0.0, 0.1), (1.0, 2.5)])
@torch.no_grad()
def test_loss_by_hand(balance: float, margin: float):
    """Eq. 12 and 13 row by row; rows 0 and 3 have one target, so each is left out of the other's centroid."""
    model, batch = make(balance=balance, margin=margin, p_uncond=0.0), batch_of(ROWS)
    noise = Noise(3)
    t = noise.integers(batch.key, 1, 40, "draw/t")[:, 0]
    eps = noise.normal(batch.key, DIM, "draw/eps", torch.float64)
    targets = [target for _, target in ROWS]
    reconstruction, alignment = [], []
    for row, target in enumerate(targets):
        x0 = model.items.weight[target]
        level = alpha_bar(int(t[row]))
        x_t = math.sqrt(level) * x0 + math.sqrt(1 - level) * eps[row]
        others = [model.items.weight[other] for other in targets if other != target]
        negative = sum(others) / len(others)
        condition = model.encode(batch.rows(slice(row, row + 1)))[0]
        d_pos, d_neg = (
            1 - cosine(joined(model, x_t[None], c[None], t[row : row + 1])[0], x0) for c in (condition, negative)
        )
        reconstruction.append(float(d_pos))
        alignment.append(max(0.0, float(d_pos - d_neg) + margin))
    expected_reconstruction, expected_alignment = (sum(part) / len(ROWS) for part in (reconstruction, alignment))
    parts = model.loss(batch, noise)
    assert parts["reconstruction"].item() == pytest.approx(expected_reconstruction, abs=1e-12)
    assert parts["alignment"].item() == pytest.approx(expected_alignment, abs=1e-12)
    expected = (1 - balance) * expected_reconstruction + balance * expected_alignment
    assert parts["loss"].item() == pytest.approx(expected, abs=1e-12)
    assert any(part > 0 for part in alignment)


def test_gradient_is_that_of_the_two_distances():
    """Eq. 32 on the model: with every hinge active, dL = d(mean d_pos) - mu d(mean d_neg); with none, (1 - mu)."""
    mu, batch = 0.3, batch_of(ROWS)

    def gradient(margin: float, *, balance: float) -> Tensor:
        model = make(balance=balance, margin=margin, p_uncond=0.0)
        model.loss(batch, Noise(0))["loss"].backward()
        return torch.cat([p.grad.flatten() for p in model.denoiser.parameters()])

    only_reconstruction = gradient(0.0, balance=0.0)  # d(d_pos)
    difference = gradient(4.0, balance=1.0)  # a margin above 2 makes every hinge active: d(d_pos) - d(d_neg)
    d_neg = only_reconstruction - difference
    active = gradient(4.0, balance=mu)
    torch.testing.assert_close(active, only_reconstruction - mu * d_neg, rtol=0, atol=1e-14)
    assert d_neg.abs().max() > 1e-3

    model = make(balance=mu, margin=0.0, p_uncond=0.0)
    parts = model.loss(batch.rows(slice(2, 3)), Noise(0))  # alone, so no other target, so no hinge
    parts["loss"].backward()
    alone = make(balance=0.0, p_uncond=0.0)
    alone.loss(batch.rows(slice(2, 3)), Noise(0))["loss"].backward()
    for name, parameter in model.named_parameters():
        expected = dict(alone.named_parameters())[name].grad
        assert (parameter.grad is None) == (expected is None)
        if expected is not None:
            torch.testing.assert_close(parameter.grad, (1 - mu) * expected, rtol=0, atol=1e-15)


def test_dropped_rows_take_no_part_in_the_alignment():
    """With the null condition for all rows but one, the alignment is that row's alone."""
    batch = batch_of(ROWS * 4, first_key=50)
    kept = Noise(1).uniform(batch.key, 1, "drop_condition")[:, 0] >= 0.9
    assert 0 < int(kept.sum()) < 6
    model = make(p_uncond=0.9, margin=4.0)
    before = model.loss(batch, Noise(1))["alignment"]
    with torch.no_grad():
        model.null.add_(5.0)
    after = model.loss(batch, Noise(1))
    assert after["alignment"].item() == before.item()
    never = make(p_uncond=0.0, margin=4.0).loss(batch, Noise(1))
    assert after["alignment"].item() != never["alignment"].item()


@pytest.mark.parametrize("negative_condition", ["raw", "layernorm", "encoder"])
def test_one_target_alone_has_no_alignment(negative_condition: str):
    """A batch of one row, or of rows with one target: no other target, so no negative; nothing is nan."""
    for rows in ([ROWS[0]], [([1], 5), ([2, 3], 5)]):
        model = make(negative_condition=negative_condition)
        parts = model.train().loss(batch_of(rows), Noise(0))
        assert parts["alignment"].item() == 0
        assert parts["loss"].item() == pytest.approx(0.8 * parts["reconstruction"].item(), abs=1e-15)
        parts["loss"].backward()
        assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_same_targets_count_when_asked_to():
    rows = [([1], 5), ([2, 3], 5)]
    assert make(exclude_same_id=False, margin=4.0).loss(batch_of(rows), Noise(0))["alignment"].item() > 0


def test_detached_targets_get_no_gradient_of_their_own():
    """A target that is nobody's history learns from the reconstruction alone, unless it is detached."""
    gradients = {}
    for detach in (False, True):
        model = make(detach_target=detach, balance=0.0)
        model.loss(batch_of([([1, 2], 20), ([3], 21)]), Noise(0))["loss"].backward()
        gradients[detach] = model.items.weight.grad[[20, 21]].abs().sum().item()
    assert gradients[False] > 0
    assert gradients[True] == 0


# ------------------------------------------------------------------------------------------------ guidance


@torch.no_grad()
def test_generation_is_algorithm_2():
    """From noise, two calls of the joined network per step, the predicted noise written out; S = 5 steps of T = 40."""
    model, query = (
        make(generation={"steps": 5, "start": "noise"}, negatives={"name": "random", "count": 6}),
        batch_of(ROWS),
    )
    w = 4.0
    toward = model.encode(query)
    negatives = RandomNegatives(count=6)(query, toward, model.items.weight, Noise(0))
    away = torch.stack([sum(model.items.weight[int(item)] for item in row) / 6 for row in negatives])
    x = Noise(0).normal(query.key, DIM, "x_T", torch.float64)
    grid = [39, 31, 23, 15, 7]
    for t, previous in zip(grid, [*grid[1:], None], strict=True):
        steps = torch.full((len(query),), t)
        x0 = (1 + w) * joined(model, x, toward, steps) - w * joined(model, x, away, steps)
        eps = (x - math.sqrt(alpha_bar(t)) * x0) / math.sqrt(1 - alpha_bar(t))
        kept = 1.0 if previous is None else alpha_bar(previous)
        x = math.sqrt(kept) * x0 + math.sqrt(1 - kept) * eps
    torch.testing.assert_close(vectors(model, query), x, rtol=0, atol=1e-11)


@torch.no_grad()
def test_guidance_shifts_every_step_by_the_difference_of_conditions():
    """F(x, c+, t) - F(x, c-, t) = W_c (c+ - c-) for any x and t, so x0_hat moves in proportion to w."""
    model, query = make(), batch_of(ROWS)
    toward = model.encode(query)
    away = model.negative_condition(query, toward, Noise(0))
    for t in (0, 17, 39):
        x, steps = torch.randn(len(query), DIM, dtype=torch.float64), torch.full((len(query),), t)
        difference = model.denoiser(x, steps, toward) - model.denoiser(x, steps, away)
        expected = (toward - away) @ model.denoiser.from_condition.weight.T
        torch.testing.assert_close(difference, expected, rtol=0, atol=1e-12)
    at = {w: vectors(model, dataclasses.replace(query, guidance_scale=w)) for w in (0.0, 1.0, 3.0)}
    torch.testing.assert_close(at[3.0] - at[0.0], 3 * (at[1.0] - at[0.0]), rtol=0, atol=1e-11)
    assert (at[1.0] - at[0.0]).abs().max() > 1e-2


@pytest.mark.parametrize("start", ["mean", "noise"])
def test_the_null_condition_as_negative_is_classifier_free_guidance(start: str, monkeypatch: pytest.MonkeyPatch):
    generation = {"steps": 5, "start": start}
    model, query = make(generation=generation), batch_of(ROWS)
    cfg = same_weights(model, generation=generation, guidance={"name": "cfg", "scale": 4.0})
    expected = vectors(cfg, query)
    assert not torch.allclose(vectors(model, query), expected)
    monkeypatch.setattr(model, "negative_condition", lambda query, *_: model.null.expand(len(query), -1))
    torch.testing.assert_close(vectors(model, query), expected, rtol=0, atol=1e-12)


def test_without_strength_negatives_and_dislikes_change_nothing():
    model = make(guidance={"name": "png", "scale": 0.0})
    query = batch_of(ROWS)
    plain = vectors(model, query)
    assert torch.equal(vectors(model, query, Noise(5)), plain)
    assert torch.equal(vectors(model, with_dislikes(query, *[[3, 4]] * 5)), plain)
    assert torch.equal(vectors(same_weights(model, guidance={"name": "none"}), query), plain)


def test_it_steers_only_where_the_guidance_looks_at_dislikes():
    query = with_dislikes(batch_of(ROWS), *[[3, 4]] * 5)
    for guidance, steers in ((PositiveNegative(scale=4.0), True), (ClassifierFree(scale=4.0), False)):
        model = make(guidance=guidance.to_plain())
        assert model.steers is steers
        moved = not torch.equal(vectors(model, query), vectors(model, batch_of(ROWS)))
        assert moved is steers
    assert not make(guidance={"name": "none"}).steers


# ------------------------------------------------------------------------------------------------ negatives


def many(history: list[int], n: int = 4000) -> Query:
    return Query(history=torch.tensor([history] * n), key=torch.arange(n))


def test_random_negatives_are_uniform_over_what_is_not_in_the_history():
    history = [0, 3, 17, 3, 30]
    query = many(history)
    drawn = RandomNegatives(count=10)(query, torch.empty(0), torch.empty(ITEMS + 1, 1), Noise(0))
    assert drawn.shape == (4000, 10)
    counts = torch.bincount(drawn.flatten(), minlength=ITEMS + 1)
    assert len(counts) == ITEMS + 1
    assert counts[[0, 3, 17, 30]].tolist() == [0, 0, 0, 0]
    expected = 40_000 / (ITEMS - 3)
    left = torch.tensor([j for j in range(1, ITEMS + 1) if j not in history])
    assert (counts[left] - expected).abs().max() < 5 * math.sqrt(expected)


def test_random_negatives_of_a_row_do_not_depend_on_the_others():
    query = batch_of(ROWS)
    items = torch.empty(ITEMS + 1, 1)
    together = RandomNegatives()(query, torch.empty(0), items, Noise(0))
    assert torch.equal(RandomNegatives()(query.rows(slice(2, 3)), torch.empty(0), items, Noise(0))[0], together[2])
    assert not torch.equal(RandomNegatives()(query, torch.empty(0), items, Noise(1)), together)


def ranking_by_loop(condition: Tensor, items: Tensor) -> list[int]:
    def score(item: int) -> float:
        return sum(a * b for a, b in zip(condition.tolist(), items[item].tolist(), strict=True))

    return sorted(range(1, len(items)), key=lambda item: -score(item))


@pytest.mark.parametrize(
    ("band", "count", "ranks"),
    [
        ((0.1, 0.3), 4, range(3, 9)),  # wider than the count: drawn with replacement
        ((0.5, 1.0), 10, range(15, 30)),
        ((0.0, 0.0), 5, range(5)),  # exactly the most similar
        ((0.1, 0.2), 3, range(3, 6)),  # as wide as the count: each once
        ((0.1, 0.1), 6, range(3, 9)),  # narrower: made as wide as the count
        ((0.9, 1.0), 20, range(27, 30)),  # but never beyond the catalogue
        ((0.0, 0.0), 50, range(30)),
    ],
)
def test_hard_negatives_are_a_band_of_the_ranking(band: tuple[float, float], count: int, ranks: range):
    items = torch.randn(ITEMS + 1, DIM, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    condition = torch.randn(1, DIM, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    allowed = [ranking_by_loop(condition[0], items)[rank] for rank in ranks]
    query = many([0, 1], 500)
    drawn = HardNegatives(count=count, band=band)(query, condition.expand(500, -1), items, Noise(0))
    assert set(drawn.flatten().tolist()) == set(allowed)
    if len(ranks) <= count:
        assert all(row == allowed for row in drawn.tolist())
    else:
        assert drawn.shape == (500, count)
        counts = torch.bincount(drawn.flatten(), minlength=ITEMS + 1)[allowed]
        expected = 500 * count / len(ranks)
        assert (counts - expected).abs().max() < 5 * math.sqrt(expected)


@pytest.mark.parametrize("band", [(0.3, 0.1), (-0.1, 0.5), (0.5, 1.5), (1.0, 1.0)])
def test_impossible_bands_are_refused(band: tuple[float, float]):
    with pytest.raises(ConfigError, match="0 <= first <= last <= 1"):
        HardNegatives(band=band)


def test_hard_negatives_are_close_to_the_condition_of_their_own_row():
    model = make(negatives={"name": "hard", "count": 3, "band": [0.0, 0.0]})
    query = batch_of(ROWS)
    with torch.no_grad():
        condition = model.encode(query)
        found = model.negative_condition(query, condition, Noise(0))
        for row in range(len(query)):
            nearest = ranking_by_loop(condition[row], model.items.weight)[:3]
            torch.testing.assert_close(found[row], model.items.weight[nearest].mean(dim=0), rtol=0, atol=1e-12)


# ------------------------------------------------------------------------------------------------ dislikes


def as_condition(model: SteerRec, kind: str, items: list[int]) -> Tensor:
    rows = [model.items.weight[item] for item in items]
    if kind == "encoder":
        alone = [Query(history=torch.tensor([[0, 0, item]]), key=torch.zeros(1, dtype=torch.int64)) for item in items]
        rows = [model.encode(query)[0] for query in alone]
    centroid = sum(rows) / len(rows)
    if kind == "layernorm":
        centred = centroid - centroid.mean()
        centroid = centred / torch.sqrt((centred * centred).mean() + 1e-5)
    return centroid


@pytest.mark.parametrize("kind", ["raw", "layernorm", "encoder"])
@torch.no_grad()
def test_dislikes_replace_the_sampled_negatives_row_by_row(kind: str):
    model = make(negative_condition=kind, negatives={"name": "random", "count": 4})
    query = batch_of(ROWS)
    condition = model.encode(query)
    sampled = RandomNegatives(count=4)(query, condition, model.items.weight, Noise(0)).tolist()
    dislikes = [[20, 21, 22], [], [23], [], [1, 1]]
    found = model.negative_condition(with_dislikes(query, *dislikes), condition, Noise(0))
    for row, items in enumerate(dislikes):
        torch.testing.assert_close(found[row], as_condition(model, kind, items or sampled[row]), rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", ["raw", "layernorm", "encoder"])
@torch.no_grad()
def test_dislikes_can_be_a_share_of_the_negatives(kind: str):
    """One dislike at 8 / 72 beside 64 sampled items is a centroid in which it counts as eight of them."""
    model = make(negative_condition=kind, negatives={"name": "random", "count": 64}, dislike_share=8 / 72)
    query = batch_of(ROWS)
    condition = model.encode(query)
    sampled = RandomNegatives(count=64)(query, condition, model.items.weight, Noise(0)).tolist()
    dislikes = [[20, 21], [], [23], [1], [1]]
    asked = with_dislikes(query, *dislikes)
    found = model.negative_condition(asked, condition, Noise(0))
    for row, items in enumerate(dislikes):
        torch.testing.assert_close(
            found[row], as_condition(model, kind, sampled[row] + 8 // max(1, len(items)) * items), rtol=0, atol=1e-12
        )
    if model.explains:
        together = torch.cat(model.parts(asked, Noise(0)), dim=1).sum(dim=1)
        torch.testing.assert_close(together, vectors(model, asked), rtol=0, atol=1e-10)


@pytest.mark.parametrize("kind", ["raw", "layernorm", "encoder"])
@torch.no_grad()
def test_training_uses_the_same_space_for_negatives(kind: str):
    """The centroid in the loss is that of the other targets, in the space that inference uses."""
    model, batch = make(negative_condition=kind, p_uncond=0.0), batch_of(ROWS[:3])
    seen: list[Tensor] = []
    original = model.denoiser.under_each
    model.denoiser.under_each = lambda x, t, conditions: seen.extend(conditions) or original(x, t, conditions)
    model.loss(batch, Noise(0))
    positive, negative = seen
    torch.testing.assert_close(positive, model.encode(batch), rtol=0, atol=1e-12)
    for row, others in enumerate([[7, 9], [4, 9], [4, 7]]):
        torch.testing.assert_close(negative[row], as_condition(model, kind, others), rtol=0, atol=1e-12)


def test_disliking_an_item_lowers_it():
    """Pushing away from one item moves the user vector against the image of that item: w W_c e_j, for any user."""
    model, query = make(), batch_of(ROWS)
    target = 25
    plain = vectors(model, with_dislikes(query, *[[24]] * 5))
    disliking = vectors(model, with_dislikes(query, *[[target]] * 5))
    with torch.no_grad():
        G = model.generator.compose().G
        expected = -4.0 * (model.items.weight[target] - model.items.weight[24]) @ G.T
    torch.testing.assert_close(disliking - plain, expected.expand(5, -1), rtol=0, atol=1e-10)


# ------------------------------------------------------------------------------------------------ ranking


@torch.no_grad()
def test_scores_are_inner_products_or_cosines():
    query = batch_of(ROWS)
    dot = make()
    table = dot.items.weight
    user = vectors(dot, query)
    torch.testing.assert_close(dot.scores(query, Noise(0)), user @ table.T, rtol=0, atol=1e-12)
    cos = same_weights(dot, score="cos").scores(query, Noise(0))
    expected = F.cosine_similarity(user[:, None], table[None, 1:], dim=2) * user.norm(dim=1, keepdim=True)
    torch.testing.assert_close(cos[:, 1:], expected, rtol=0, atol=1e-12)


def test_an_mlp_is_sampled():
    model = make(denoiser="mlp", generation={"steps": 5, "start": "noise"})
    first, second = vectors(model, batch_of(ROWS)), vectors(model, batch_of(ROWS), Noise(1))
    assert first.isfinite().all()
    assert not torch.allclose(first, second)
    with pytest.raises(ConfigError, match=r"generation\.start"):
        make(denoiser="mlp")


def test_only_the_newest_items_of_a_long_history_count():
    model = make()
    long = batch_of([([9, 8, 7, 6, 5, 4, 3], 1)])
    short = Batch(history=long.history[:, -4:], key=long.key, target=long.target)
    with torch.no_grad():
        assert torch.equal(model.encode(long), model.encode(short))
    assert model.loss(long, Noise(0))["loss"].item() == model.loss(short, Noise(0))["loss"].item()


@torch.no_grad()
def test_sampled_centroids_scatter_like_means_of_negatives():
    """Around the mean item with variance var(items) / N_neg: at inference c^- is mostly noise of that size."""
    for count in (16, 64):
        model = make(negatives={"name": "random", "count": count})
        query = many([0], 3000)
        centroids = model.negative_condition(query, model.encode(query), Noise(0))
        table = model.items.weight[1:]
        scatter = (centroids - table.mean(dim=0)).square().sum(dim=1).mean()
        assert scatter.item() == pytest.approx(table.var(dim=0, correction=0).sum().item() / count, rel=0.1)


def test_two_sided_alignment_ties_the_negative_prediction_to_its_own_items() -> None:
    """The tie is d(F(x_t, c^-), centroid of the drawn items), by a loop; it is added with its weight."""
    seed_everything(0)
    config = SteerRecConfig(
        dim=16, schedule=Linear(steps=20), dropout=0.0, p_uncond=0.0, training_negatives=OwnNegatives(most=4, tie=0.7)
    )
    model = SteerRec(config, 30).double()
    batch, noise = batch_of(planted_rows(30, 4)[0][:12]), Noise(3)
    parts = model.loss(batch, noise)
    drawn = model.own_negatives(batch, 4, noise)
    counts = (drawn != 0).sum(dim=1)
    assert set(counts.tolist()) <= {1, 2, 3, 4}
    assert len(set(counts.tolist())) > 1
    x0 = model.items(batch.target)
    noised = draw(x0, model.schedule, noise, batch.key)
    ties = []
    for row in range(len(batch)):
        items = [item for item in drawn[row].tolist() if item]
        assert not set(items) & {*batch.history[row].tolist(), int(batch.target[row])}
        centroid = torch.stack([model.items.weight[item] for item in items]).mean(dim=0)
        predicted = model.denoiser(noised.x_t[row : row + 1], noised.t[row : row + 1], centroid[None])[0]
        ties.append(1 - torch.cosine_similarity(predicted, centroid, dim=0))
    expected = torch.stack(ties).mean()
    torch.testing.assert_close(parts["tie"], expected)
    untied = (1 - config.balance) * parts["reconstruction"] + config.balance * parts["alignment"]
    torch.testing.assert_close(parts["loss"], untied + 0.7 * expected)


SHOWN = torch.tensor([[20, 21, 22], [23, 0, 0], [24, 25, 0], [0, 0, 0], [26, 27, 28]])
"""What was passed over beside the targets of ROWS; of the fourth nothing is known."""


def shown_batch() -> Batch:
    return dataclasses.replace(batch_of(ROWS), negatives=SHOWN)


@pytest.mark.parametrize("tie", [0.0, 0.7])
def test_items_that_were_passed_over_are_the_negatives_of_their_own_row(tie: float) -> None:
    model = make(training_negatives={"name": "shown", "tie": tie}, p_uncond=0.0, balance=0.4, margin=0.1)
    batch, noise = shown_batch(), Noise(3)
    parts = model.loss(batch, noise)
    x0 = model.items(batch.target)
    noised = draw(x0, model.schedule, noise, batch.key)
    positive = model.denoiser(noised.x_t, noised.t, model.encode(batch))
    hinges, ties = [], []
    for row, items in enumerate(SHOWN.tolist()):
        if not any(items):
            continue
        centroid = torch.stack([model.items.weight[item] for item in items if item]).mean(dim=0)
        away = model.denoiser(noised.x_t[row : row + 1], noised.t[row : row + 1], centroid[None])[0]
        hinges.append(
            (
                F.cosine_similarity(away, x0[row], dim=0) - F.cosine_similarity(positive[row], x0[row], dim=0) + 0.1
            ).clamp(min=0)
        )
        ties.append(1 - F.cosine_similarity(away, centroid, dim=0))
    reconstruction = torch.stack(
        [1 - F.cosine_similarity(positive[row], x0[row], dim=0) for row in range(len(ROWS))]
    ).mean()
    expected = 0.6 * reconstruction + 0.4 * torch.stack(hinges).mean() + tie * torch.stack(ties).mean()
    torch.testing.assert_close(parts["loss"], expected)
    assert ("tie" in parts) == (tie > 0)


def test_more_padding_of_what_was_passed_over_changes_nothing() -> None:
    model = make(training_negatives={"name": "shown", "tie": 0.3})
    batch = shown_batch()
    wider = dataclasses.replace(batch, negatives=F.pad(SHOWN, (0, 5)))
    torch.testing.assert_close(model.loss(batch, Noise(1)), model.loss(wider, Noise(1)))


def test_data_that_do_not_tell_what_was_passed_over_are_refused() -> None:
    with pytest.raises(ConfigError, match="'shown' needs data that tell what was passed over"):
        make(training_negatives={"name": "shown"}).loss(batch_of(ROWS), Noise(0))
