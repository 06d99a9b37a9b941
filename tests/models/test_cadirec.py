"""CaDiRec: losses and chain by slow readings of one row at a time, views by what they must not depend on."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from torch import Tensor

from guiderec.data.batch import PADDING, Batch
from guiderec.errors import ConfigError
from guiderec.models.cadirec import CaDiRec, CaDiRecConfig, Gaps, Masking, gaps_in
from guiderec.nn.attention import causal_mask, two_sided_mask
from guiderec.rng import Noise, seed_everything, subkeys
from guiderec.testing.oracles import Row, batch_of, planted_rows, recall_by_loop

ITEMS, DIM, STEPS = 12, 8, 40
ROWS: list[Row] = [([3, 1, 4, 1, 5, 9, 2], 6), ([5, 3], 5), ([8], 9), ([], 7), ([9, 7, 9], 3), ([2, 3, 8, 4, 6, 2], 6)]
SMALL: dict[str, Any] = {
    "dim": DIM,
    "max_length": 9,
    "hidden": 16,
    "dropout": 0.0,
    "schedule": {"name": "sqrt", "steps": STEPS},
    "context": {"layers": 2, "hidden": 16, "dropout": 0.0, "input_dropout": 0.0},
    "masking": {"ratio": 0.4},
    "views": {"name": "chain", "steps": 3},
    "candidates": 3,
}
SINGLE = {"name": "single_prediction"}


def make(**options: Any) -> CaDiRec:
    seed_everything(0)
    built = CaDiRec(CaDiRecConfig.from_plain({"name": "cadirec", **SMALL, **options}), ITEMS).double()
    with torch.no_grad():  # away from the small start, where biases are zero and everything is nearly linear
        for name, p in built.named_parameters():
            if "norm" not in name:
                p.add_(torch.randn_like(p) * 0.4)
        built.items.weight[0].zero_()
    return built.eval()


def mask_of(batch: Batch) -> Tensor:
    return batch.history != PADDING


def alpha_bar(t: int) -> float:
    """Diffusion-LM's curve 1 - sqrt(t/T + s), as the product that betas capped at 0.999 make of it."""
    curve = [1 - math.sqrt(step / STEPS + 1e-4) for step in range(STEPS + 1)]
    return math.prod(1 - min(1 - after / before, 0.999) for before, after in pairwise(curve[: t + 2]))


# ------------------------------------------------------------------------------------------------ gaps


def test_gaps_have_the_ratio_and_are_never_padding():
    mask = (torch.arange(20) >= torch.tensor([[0], [15], [19], [20]])).repeat(500, 1)
    keys = torch.arange(2000)
    drawn = Masking(ratio=0.3)(mask, keys, Noise(0), "test")
    assert not (drawn & ~mask).any()
    shares = drawn[::4].double().mean(dim=0)  # of full rows, by position: the newest is a gap as often as any
    assert (shares - 0.3).abs().max() < 5 * math.sqrt(0.21 / 500)
    assert drawn[::4].double().mean().item() == pytest.approx(0.3, abs=5 * math.sqrt(0.21 / 10_000))
    assert not Masking(ratio=0)(mask, keys, Noise(0), "test").any()
    torch.testing.assert_close(Masking(ratio=1)(mask, keys, Noise(0), "test"), mask)


@pytest.mark.parametrize("at_least", [1, 3])
def test_at_least_so_many_gaps_as_far_as_there_are_items(at_least: int):
    mask = (torch.arange(6) >= torch.tensor([[0], [4], [5], [6]])).repeat(200, 1)
    where = Masking(ratio=0.3, at_least=at_least)(mask, torch.arange(800), Noise(0), "test")
    assert not (where & ~mask).any()
    counts = where.sum(dim=1).view(200, 4)
    assert counts.amin(dim=0).tolist() == [min(at_least, length) for length in (6, 2, 1, 0)]
    assert counts[:, 0].max() > at_least


def test_forced_gaps_are_uniform_over_the_items():
    mask = torch.tensor([False, True, True, True]).expand(3000, -1)
    counts = Masking(ratio=0, at_least=1)(mask, torch.arange(3000), Noise(0), "test").sum(dim=0)
    assert counts.sum() == 3000
    assert (counts[1:] - 1000).abs().max() < 5 * math.sqrt(3000 * 2 / 9)


def test_gaps_do_not_depend_on_padding_nor_company():
    narrow, wide = batch_of(ROWS), batch_of(ROWS, width=11)
    masking = Masking(ratio=0.4, at_least=1)
    found = masking(mask_of(narrow), narrow.key, Noise(0), "test")
    assert found.any()
    torch.testing.assert_close(masking(mask_of(wide), wide.key, Noise(0), "test")[:, -7:], found)
    torch.testing.assert_close(masking(mask_of(narrow)[4:5], narrow.key[4:5], Noise(0), "test"), found[4:5])


def test_gaps_in_is_the_docstring():
    history = torch.tensor([[0, 3, 1, 4], [0, 0, 0, 5], [2, 6, 5, 3]])
    (found,) = gaps_in(history, torch.tensor([[0, 0, 1, 0], [0, 0, 0, 0], [1, 0, 0, 1]]).bool())
    assert found.history.tolist() == [[0, 3, 1, 4], [2, 6, 5, 3]]
    assert (found.rows.tolist(), found.row.tolist(), found.age.tolist()) == ([0, 2], [0, 2, 2], [1, 3, 0])
    assert (found.item.tolist(), found.share.tolist()) == ([1, 2, 3], [1.0, 0.5, 0.5])


def test_gaps_in_buckets_are_all_gaps():
    batch = batch_of(8 * ROWS)
    where = Masking(ratio=0.5)(mask_of(batch), batch.key, Noise(0), "test")
    parts = gaps_in(batch.history, where)
    assert len(parts) == 2
    assert {part.history.shape[1] for part in parts} == {3, 7}  # no wider than their longest rows
    again = torch.zeros_like(where)
    for part in parts:
        assert part.where.any(dim=1).all()
        again[part.row, where.shape[1] - 1 - part.age] = True
    torch.testing.assert_close(again, where)
    assert gaps_in(batch.history, torch.zeros_like(where)) == []


# ------------------------------------------------------------------------------------------------ diffusion


def noised_by_hand(model: CaDiRec, batch: Batch, noise: Noise) -> dict[tuple[int, int], tuple[Tensor, Tensor, int]]:
    """(row, age) -> x_0, x_t and t of every gap."""
    where = model.config.masking(mask_of(batch), batch.key, noise, "diffusion/gaps")
    found = {}
    for row, column in where.nonzero().tolist():
        age = batch.history.shape[1] - 1 - column
        t = int(noise.integers(batch.key[row : row + 1], 1, STEPS, "diffusion/t"))
        named = subkeys(batch.key[row : row + 1], torch.tensor(age))
        eps = noise.normal(named, DIM, "diffusion/eps", torch.float64)[0]
        x0 = model.items.weight[batch.history[row, column]]
        found[row, age] = (x0, math.sqrt(alpha_bar(t)) * x0 + math.sqrt(1 - alpha_bar(t)) * eps, t)
    return found


def restored_by_hand(model: CaDiRec, history: list[int], gaps: dict[int, Tensor], t: int) -> dict[int, Tensor]:
    """x0_hat at the gaps, age -> (D,), of one history without padding, whose gaps hold what is given."""
    x = model.items(torch.tensor([history])).clone()
    for age, vector in gaps.items():
        x[0, len(history) - 1 - age] = vector
    network = model.context
    x = x + network.time(torch.tensor([t * 1000 / STEPS]))
    x = torch.nn.functional.layer_norm(x, (DIM,), network.norm.weight, network.norm.bias)
    states = network.encoder(x, two_sided_mask(torch.ones(1, len(history), dtype=torch.bool)))[0]
    return {age: states[len(history) - 1 - age] for age in gaps}


@torch.no_grad()
def test_items_are_noised_at_gaps_alone_and_restored_from_a_clean_context():
    """Every gap against its own row, unpadded, in company of nobody."""
    model, batch, noise = make(), batch_of(ROWS, width=9), Noise(3)
    by_hand = noised_by_hand(model, batch, noise)
    assert len({row for row, _ in by_hand}) >= 3
    assert len(by_hand) >= 6
    seen = 0
    for part in model.denoised(batch.history, batch.key, noise):
        for p, (row, age) in enumerate(zip(part.gaps.row.tolist(), part.gaps.age.tolist(), strict=True)):
            x0, _, t = by_hand[row, age]
            own = {a: x_t for (r, a), (_, x_t, _) in by_hand.items() if r == row}
            torch.testing.assert_close(part.x0[p], x0)
            torch.testing.assert_close(part.x0_hat[p], restored_by_hand(model, ROWS[row][0], own, t)[age])
            seen += 1
    assert seen == len(by_hand)


@torch.no_grad()
def test_the_public_codes_noise_is_everywhere():
    """x_0 of all positions, context included, spreads around the items by sqrt(1 - alpha_bar_0)."""
    model, batch = make(embedding_noise=True, masking={"ratio": 0.5}), batch_of(ROWS * 40)
    contexts = []
    original = model.context.forward

    def spy(gaps: Gaps, context: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        contexts.append((context - model.items(gaps.history))[gaps.mask])
        return original(gaps, context, x_t, t)

    model.context.forward = spy
    parts = model.denoised(batch.history, batch.key, Noise(0))
    spread = torch.cat(contexts)
    assert spread.std().item() == pytest.approx(math.sqrt(1 - alpha_bar(0)), rel=0.05)
    assert spread.mean().abs() < 5 * spread.std() / math.sqrt(spread.numel())
    x0 = torch.cat([part.x0 - model.items(part.gaps.item) for part in parts])
    assert x0.std().item() == pytest.approx(math.sqrt(1 - alpha_bar(0)), rel=0.05)


@torch.no_grad()
def test_rounding_and_error_are_the_formulas():
    """NLL over items 1..I, averaged over the gaps of a row, then over all rows, also those without a gap."""
    model, batch, noise = make(error_weight=0.7), batch_of(ROWS), Noise(3)
    parts = model.denoised(batch.history, batch.key, noise)
    table = model.items.weight.tolist()
    by_row: dict[int, list[float]] = {}
    errors = []
    for part in parts:
        for row, item, x0_hat in zip(
            part.gaps.row.tolist(), part.gaps.item.tolist(), part.x0_hat.tolist(), strict=True
        ):
            logits = [sum(a * b for a, b in zip(x0_hat, vector, strict=True)) for vector in table]
            by_row.setdefault(row, []).append(math.log(sum(math.exp(z) for z in logits[1:])) - logits[item])
            errors += [(a - b) ** 2 for a, b in zip(x0_hat, table[item], strict=True)]
    expected = sum(sum(terms) / len(terms) for terms in by_row.values()) / len(ROWS)
    found = model.loss(batch, noise)
    assert found["rounding"].item() == pytest.approx(expected, rel=1e-12)
    assert found["squared_error"].item() == pytest.approx(sum(errors) / len(errors), rel=1e-12)
    weighted = (
        found["recommendation"] + 0.1 * found["contrast"] + 0.2 * found["rounding"] + 0.7 * found["squared_error"]
    )
    torch.testing.assert_close(found["loss"], weighted)


def test_a_batch_without_a_gap_has_no_diffusion_loss():
    model = make(masking={"ratio": 0.0}).train()
    parts = model.loss(batch_of(ROWS), Noise(0))
    parts["loss"].backward()
    assert (parts["rounding"].item(), parts["squared_error"].item()) == (0.0, 0.0)
    assert all(p.grad is None for p in model.context.parameters())
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


# ------------------------------------------------------------------------------------------------ views


def all_gaps(model: CaDiRec, batch: Batch) -> list[Gaps]:
    return gaps_in(batch.history, Masking(ratio=0.5, at_least=1)(mask_of(batch), batch.key, Noise(5), "test"))


@torch.no_grad()
def test_chain_is_ddim_from_noise_one_row_at_a_time():
    """In the form with the predicted noise, over the steps 39, 26 and 12, each row unpadded and alone."""
    model, batch, noise = make(), batch_of(ROWS, width=9), Noise(2)
    grid = [39, 26, 12]
    for gaps in all_gaps(model, batch):
        found = model.generate(gaps, batch.key, noise)
        for row in set(gaps.row.tolist()):
            places = [p for p, r in enumerate(gaps.row.tolist()) if r == row]
            ages = [int(gaps.age[p]) for p in places]
            x = {
                age: noise.normal(
                    subkeys(batch.key[row : row + 1], torch.tensor(age)), DIM, "views/x_T", torch.float64
                )[0]
                for age in ages
            }
            for t, previous in zip(grid, [*grid[1:], None], strict=True):
                x0 = restored_by_hand(model, ROWS[row][0], x, t)
                kept = 1.0 if previous is None else alpha_bar(previous)
                for age in ages:
                    eps = (x[age] - math.sqrt(alpha_bar(t)) * x0[age]) / math.sqrt(1 - alpha_bar(t))
                    x[age] = math.sqrt(kept) * x0[age] + math.sqrt(1 - kept) * eps
            for p, age in zip(places, ages, strict=True):
                torch.testing.assert_close(found[p], x[age])


@torch.no_grad()
def test_chain_never_sees_the_items_that_it_replaces():
    """Other items at the gaps change nothing; other items beside them do. The public code's prediction sees them."""
    model, batch = make(), batch_of(ROWS)
    for gaps in all_gaps(model, batch):
        others = torch.where(gaps.where, 1 + gaps.history % ITEMS, gaps.history)
        beside = torch.where(gaps.where | ~gaps.mask, gaps.history, 1 + gaps.history % ITEMS)
        found = model.generate(gaps, batch.key, Noise(0))
        same = model.generate(Gaps(others, gaps.where, gaps.rows), batch.key, Noise(0))
        torch.testing.assert_close(same, found, rtol=0, atol=0)
        moved = model.generate(Gaps(beside, gaps.where, gaps.rows), batch.key, Noise(0)) != found
        assert moved.any(dim=1)[(gaps.mask.sum(dim=1) > gaps.where.sum(dim=1))[gaps.where.nonzero()[:, 0]]].all()


VARIANTS = {
    "own": {"views": {"name": "chain", "steps": 3}},
    "shared": {"views": {"name": "chain", "steps": 3, "gaps": "shared"}},
    "single": {"views": SINGLE},
}


def views_of(model: CaDiRec, batch: Batch, noise: Noise) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        restored = model.denoised(batch.history, batch.key, noise)
    first, second = model.views(batch.history, batch.key, restored, noise).chunk(2)
    return first, second


@pytest.mark.parametrize("name", VARIANTS)
def test_views_hold_items_and_differ_at_gaps_alone(name: str):
    """More candidates than items, so that every item is drawn, and none that is no item."""
    model, batch, noise = make(**VARIANTS[name], candidates=99), batch_of(ROWS * 60), Noise(0)
    mask = mask_of(batch)
    training_gaps = model.config.masking(mask, batch.key, noise, "diffusion/gaps")
    views = views_of(model, batch, noise)
    for view in views:
        assert not view[~mask].any()
        assert ((view >= 1) & (view <= ITEMS))[mask].all()
        different = view != batch.history
        assert set(view[different].tolist()) == set(range(1, ITEMS + 1))
        if name != "own":
            assert not (different & ~training_gaps).any()
        everywhere = different.view(60, *mask[:6].shape).any(dim=0)
        torch.testing.assert_close(everywhere, mask[:6])  # every position is a gap now and then
    assert not torch.equal(*views)


def test_views_with_their_own_gaps_have_other_gaps():
    """A gap shows where its new item is not the old one; here any of twelve items is drawn."""
    batch = batch_of(ROWS * 40)
    differences = {}
    for name in ("own", "shared"):
        model = make(**VARIANTS[name], candidates=99)
        first, second = (view != batch.history for view in views_of(model, batch, Noise(0)))
        differences[name] = int((first ^ second).sum()) / int((first | second).sum())
    # Shared: a gap shows in one view alone when the other drew the old item, 2 (1/12)(11/12) of 1 - 1/144 = 0.15.
    assert differences["shared"] < 0.25
    assert differences["own"] > 0.6  # two independent draws at ratio 0.4: 2 (0.4)(0.6) / 0.64 = 0.75


def test_candidates_are_the_nearest_items():
    model = make(candidates=3)
    vectors = torch.randn(200, DIM, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    scores = (vectors @ model.items.weight.detach().T).tolist()
    chosen = model.rounded(vectors, torch.arange(200), Noise(0)).tolist()
    ranks = [sorted(row[1:], reverse=True).index(row[item]) for row, item in zip(scores, chosen, strict=True)]
    assert {rank: ranks.count(rank) for rank in set(ranks)}.keys() == {0, 1, 2}
    assert min(ranks.count(rank) for rank in range(3)) > 40  # of 67
    best = make(candidates=1).rounded(vectors, torch.arange(200), Noise(0)).tolist()
    assert all(row[item] == max(row[1:]) for row, item in zip(scores, best, strict=True))


def test_the_public_codes_views_are_the_prediction_of_the_loss():
    model, batch, noise = make(views=SINGLE, candidates=1), batch_of(ROWS), Noise(3)
    with torch.no_grad():
        restored = model.denoised(batch.history, batch.key, noise)
        expected = batch.history.clone()
        for part in restored:
            for row, age, x0_hat in zip(part.gaps.row.tolist(), part.gaps.age.tolist(), part.x0_hat, strict=True):
                expected[row, -1 - age] = 1 + (model.items.weight[1:] @ x0_hat).argmax()
    for view in model.views(batch.history, batch.key, restored, noise).chunk(2):
        torch.testing.assert_close(view, expected)


@pytest.mark.parametrize("name", VARIANTS)
def test_views_do_not_depend_on_the_company_nor_on_padding_and_change_with_the_step(name: str):
    model, batch, wide = make(**VARIANTS[name]), batch_of(ROWS), batch_of(ROWS, width=9)
    views = torch.cat(views_of(model, batch, Noise(0)))
    torch.testing.assert_close(torch.cat(views_of(model, wide, Noise(0)))[:, -7:], views)
    alone = [torch.cat(views_of(model, batch.rows(slice(r, r + 1)), Noise(0))) for r in range(len(ROWS))]
    torch.testing.assert_close(torch.cat([pair[:1] for pair in alone] + [pair[1:] for pair in alone]), views)
    assert not torch.equal(torch.cat(views_of(model, batch, Noise(0, step=1))), views)


def test_generation_drops_nothing_out_and_leaves_no_trace():
    model, batch = make(context={"dropout": 0.5, "input_dropout": 0.5}).train(), batch_of(ROWS)
    gaps = all_gaps(model, batch)[0]
    first, second = (model.generate(gaps, batch.key, Noise(0)) for _ in range(2))
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    assert all(module.training for module in model.modules())
    views = model.views(batch.history, batch.key, [], Noise(0))
    assert not views.is_floating_point()
    assert all(p.grad is None for p in model.parameters())


# ------------------------------------------------------------------------------------------------ contrast


@torch.no_grad()
def test_contrast_is_info_nce_of_the_newest_states():
    """Rows without an item take no part: of six rows, five are told apart."""
    model, batch = make(temperature=0.5), batch_of(ROWS)
    first, second = views_of(model, batch, Noise(0))
    states = []
    for view in (first, second):
        for row, (history, _) in enumerate(ROWS):
            if history:
                x = (
                    model.items(view[row : row + 1, -len(history) :])
                    + model.positions.table.weight[torch.arange(len(history) - 1, -1, -1)]
                )
                states.append(model.encoder(x, causal_mask(torch.ones(1, len(history), dtype=torch.bool)))[0, -1])
    terms = []
    for i, state in enumerate(states):
        others = [float(state @ other) / 0.5 for j, other in enumerate(states) if j != i]
        partner = states[(i + 5) % 10]
        terms.append(math.log(sum(math.exp(z) for z in others)) - float(state @ partner) / 0.5)
    found = model.contrast(batch.history, torch.cat([first, second]))
    assert found.item() == pytest.approx(sum(terms) / 10, rel=1e-9)


def test_contrast_moves_the_backbone_and_not_the_items():
    model, batch = make(), batch_of(ROWS)
    model.contrast(batch.history, torch.cat(views_of(model, batch, Noise(0)))).backward()
    assert model.items.weight.grad is None
    assert all(p.grad is None for p in model.context.parameters())
    assert model.positions.table.weight.grad.any()
    assert all(p.grad is not None and p.grad.any() for p in model.encoder.parameters())


def test_without_contrast_no_views_are_made(monkeypatch: pytest.MonkeyPatch):
    model = make(contrast_weight=0.0)
    monkeypatch.setattr(CaDiRec, "views", lambda *_: pytest.fail("made views"))
    parts = model.loss(batch_of(ROWS), Noise(0))
    assert parts["contrast"].item() == 0
    torch.testing.assert_close(parts["loss"], parts["recommendation"] + 0.2 * parts["rounding"])


# ------------------------------------------------------------------------------------------------ recommendation


def pairs(model: CaDiRec) -> list[tuple[Tensor, int]]:
    """(state, next item) of every position, rows one at a time; the empty history has one, of padding."""
    found = []
    for history, target in ROWS:
        batch = batch_of([(history, target)])
        mask = mask_of(batch)
        x = (model.items(batch.history) + model.positions(mask)) * mask[..., None]
        states = model.encoder(x, causal_mask(mask))[0]
        found += list(zip(states, [*history, target][-len(states) :], strict=True))
    return found


@torch.no_grad()
def test_cross_entropy_is_learnt_at_every_position():
    model, batch = make(objective={"name": "cross_entropy"}), batch_of(ROWS, width=9)
    terms = []
    for state, target in pairs(model):
        logits = (model.items.weight @ state).tolist()
        terms.append(math.log(sum(math.exp(z) for z in logits[1:])) - logits[target])
    assert len(terms) == 20
    assert model.loss(batch, Noise(0))["recommendation"].item() == pytest.approx(sum(terms) / 20, rel=1e-12)


@torch.no_grad()
def test_the_default_is_one_negative_at_every_position():
    model, batch, noise = make(), batch_of(ROWS, width=9), Noise(4)
    negatives = model._negatives(batch, 9, noise)
    assert negatives.shape == (6, 9, 1)
    flat = [int(negatives[r, c]) for r, (h, _) in enumerate(ROWS) for c in range(9 - max(1, len(h)), 9)]
    terms = []
    for (state, target), negative in zip(pairs(model), flat, strict=True):
        wanted, unwanted = (float(model.items.weight[item] @ state) for item in (target, negative))
        terms.append(math.log1p(math.exp(-wanted)) + math.log1p(math.exp(unwanted)))
    assert model.loss(batch, noise)["recommendation"].item() == pytest.approx(sum(terms) / 20, rel=1e-12)


def test_negatives_are_no_items_of_the_row_and_are_counted_from_the_newest():
    model, narrow, wide = make(), batch_of(ROWS), batch_of(ROWS, width=9)
    drawn = torch.stack([model._negatives(narrow, 7, Noise(0, step)) for step in range(200)])
    for row, (history, target) in enumerate(ROWS):
        assert set(drawn[:, row].flatten().tolist()) == set(range(1, ITEMS + 1)) - {*history, target}
    torch.testing.assert_close(model._negatives(wide, 9, Noise(0))[:, -7:], model._negatives(narrow, 7, Noise(0)))


@torch.no_grad()
def test_inference_is_the_backbone_alone():
    """The newest state of the whole encoder, row by row; the denoiser's weights and the noise have no part in it."""
    model, batch = make(), batch_of(ROWS, width=9)
    scores = model.scores(batch, Noise(0))
    last = {len(history): state for (history, _), state in zip(ROWS, scores, strict=True)}
    assert len(last) == 6
    at = -1
    states = [state for state, _ in pairs(model)]
    for row, (history, _) in enumerate(ROWS):
        at += max(1, len(history))
        torch.testing.assert_close(scores[row], model.items.weight @ states[at])
    for p in model.context.parameters():
        p.normal_()
    torch.testing.assert_close(model.scores(batch, Noise(1)), scores, rtol=0, atol=0)


def test_no_rows_have_no_scores():
    assert make().scores(batch_of(ROWS).rows(slice(0, 0)), Noise(0)).shape == (0, ITEMS + 1)


def test_only_the_newest_items_of_a_long_history_count():
    model = make(max_length=4)
    long, cut = batch_of([([7, 8, 1, 2, 3, 4], 5)]), batch_of([([1, 2, 3, 4], 5)])
    with torch.no_grad():
        torch.testing.assert_close(model.scores(long, Noise(0)), model.scores(cut, Noise(0)), rtol=0, atol=0)


def test_gradients_are_right():
    """Central differences in float64 through buckets, gaps, both networks and the tied table; views are held."""
    model = make(
        layers=1, dim=4, context={"layers": 1, "hidden": 4, "dropout": 0, "input_dropout": 0}, error_weight=0.5
    )
    batch = batch_of([ROWS[0], ROWS[1], ROWS[3]])
    views = torch.cat(views_of(model, batch, Noise(0)))
    model.views = lambda *_: views
    named = {name: p for name, p in model.named_parameters() if not name.startswith("items")}
    table = model.items.weight.detach()

    class Loss(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.m = model

        def forward(self) -> Tensor:
            return model.loss(batch, Noise(0))["loss"]

    def loss(*values: Tensor) -> Tensor:
        return torch.func.functional_call(Loss(), dict(zip((f"m.{n}" for n in named), values, strict=True)))

    assert torch.autograd.gradcheck(loss, tuple(named.values()), fast_mode=True)

    def loss_of_items(weight: Tensor) -> Tensor:  # without the contrast, which holds the items on purpose
        parts = torch.func.functional_call(Parts(model, batch), {"m.items.weight": weight})
        return parts["recommendation"] + parts["rounding"] + parts["squared_error"]

    weight = table.clone().requires_grad_()
    given = torch.autograd.grad(loss_of_items(weight), weight)[0]
    direction = torch.randn_like(table) * (torch.arange(ITEMS + 1) > 0)[:, None]
    step = 1e-6 * direction
    slope = (loss_of_items(table + step) - loss_of_items(table - step)) / 2e-6
    assert slope.item() == pytest.approx((given * direction).sum().item(), rel=1e-6)


class Parts(torch.nn.Module):
    def __init__(self, m: CaDiRec, batch: Batch) -> None:
        super().__init__()
        self.m = m
        self.batch = batch

    def forward(self) -> dict[str, Tensor]:
        return self.m.loss(self.batch, Noise(0))


# ------------------------------------------------------------------------------------------------ learning

PLANTED: dict[str, Any] = {
    "dim": 32,
    "layers": 1,
    "max_length": 6,
    "dropout": 0.0,
    "schedule": {"name": "sqrt", "steps": 50},
    "context": {"layers": 1, "dropout": 0.0, "input_dropout": 0.0},
    "views": {"name": "chain", "steps": 5},
    "candidates": 1,
}


def test_chain_puts_back_what_the_context_demands():
    """Walks along a hidden cycle of 20 items: a gap between two neighbours can be one item alone.

    Under a context of other items, at random, the same chain finds the missing one no more often than chance.
    """
    seed_everything(0)
    train, held_out = planted_rows(20, 6)
    model = CaDiRec(
        CaDiRecConfig.from_plain({"name": "cadirec", **PLANTED, "masking": {"ratio": 0.2, "at_least": 1}}), 20
    )
    batch = batch_of([row for row in train if len(row[0]) >= 3])
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for step in range(300):
        rows = Noise(0, step).integers(torch.arange(48), 1, len(batch), "test/rows")[:, 0]
        here = batch.rows(rows)
        restored = model.denoised(here.history, here.key, Noise(0, step))
        optimizer.zero_grad()
        model.rounding(restored, len(here)).backward()
        optimizer.step()
    model.eval()
    test = batch_of([row for row in held_out if len(row[0]) >= 3], first_key=10_000)
    middle = torch.zeros_like(test.history, dtype=torch.bool)
    middle[:, -2] = True
    with torch.no_grad():
        hits, blind = 0, 0
        for gaps in gaps_in(test.history, middle):
            generated = model.rounded(model.generate(gaps, test.key, Noise(0)), gaps.keys(test.key), Noise(0))
            hits += int((generated == gaps.item).sum())
            other = 1 + Noise(7).integers(gaps.rows, gaps.history.shape[1], 20, "test/other")
            nonsense = Gaps(torch.where(gaps.mask & ~gaps.where, other, gaps.history), gaps.where, gaps.rows)
            generated = model.rounded(model.generate(nonsense, test.key, Noise(0)), gaps.keys(test.key), Noise(0))
            blind += int((generated == gaps.item).sum())
    assert len(test) >= 15
    assert hits >= 0.75 * len(test)
    assert blind <= 0.3 * len(test)  # of 18, with chance 1/20: 6 or more with probability 2e-4


def test_with_one_negative_the_rule_is_found_among_items_that_were_not_just_seen():
    """Negatives are never items of the history, so nothing pushes these down: the loss needs seen = "mask"."""
    train, held_out = planted_rows(30, 6)
    seed_everything(0)
    model = CaDiRec(CaDiRecConfig.from_plain({"name": "cadirec", **PLANTED, "contrast_weight": 0.0}), 30)
    batch, optimizer = batch_of(train), torch.optim.Adam(model.parameters(), lr=1e-2)
    for step in range(120):
        rows = Noise(0, step).integers(torch.arange(64), 1, len(train), "test/rows")[:, 0]
        optimizer.zero_grad()
        model.loss(batch.rows(rows), Noise(0, step))["loss"].backward()
        optimizer.step()
    test = batch_of(held_out, first_key=10_000)
    with torch.no_grad():
        scores = model.eval().scores(test, Noise(0))
    assert recall_by_loop(scores.scatter(1, test.history, -torch.inf), test.target, 1) > 0.8
    assert recall_by_loop(scores, test.target, 1) < 0.6


# ------------------------------------------------------------------------------------------------ options and facts


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dim": 10, "heads": 4}, "heads = 4 does not divide dim = 10"),
        ({"dim": 10, "context": {"heads": 3}}, "context.heads = 3 does not divide dim = 10"),
        ({"dim": 7}, "'dim' = 7"),
        ({"views": {"name": "chains"}}, "'views.name' = 'chains' does not exist. Did you mean 'chain'"),
        ({"views": {"name": "single_prediction", "steps": 5}}, "'views.steps' is not an option"),
        ({"masking": {"ratio": 1.5}}, "'masking.ratio' = 1.5"),
    ],
)
def test_impossible_options(options: dict[str, Any], message: str):
    with pytest.raises(ConfigError, match=message):
        CaDiRecConfig.from_plain({"name": "cadirec", **options})


def test_a_chain_has_no_more_steps_than_the_schedule():
    with pytest.raises(ConfigError, match="A schedule of 40 steps cannot be sampled in 41"):
        make(views={"name": "chain", "steps": 41})


DATA = Path(__file__).parents[3] / "shared" / "data"


@pytest.mark.realdata
@pytest.mark.skipif(not DATA.is_dir(), reason=f"the real data sets are not at {DATA}")
@pytest.mark.parametrize(("data_set", "shared", "own"), [("amazon-beauty", 62, 43), ("amazon-toys", 63, 44)])
def test_share_of_rows_whose_views_are_copies_is_what_the_card_says(data_set: str, shared: int, own: int):
    lengths = pl.read_parquet(DATA / data_set / "leave-one-out" / "sequences.parquet")["items"].list.len().to_numpy()
    history = np.minimum(lengths - 3, 50)  # two items held out, and the last of the rest is the target
    assert round(100 * float(np.mean(0.9**history))) == shared
    assert round(100 * float(np.mean(0.9 ** (2 * history)))) == own
    assert np.median(history) == 3
