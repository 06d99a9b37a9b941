from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace

import pytest
import torch

from guiderec.data.batch import Batch, Query
from guiderec.evaluation.index import recall_of
from guiderec.evaluation.ranking import top_k
from guiderec.models.guided_sasrec import GuidedSASRec, GuidedSASRecConfig
from guiderec.models.sasrec import SASRec, SASRecConfig
from guiderec.rng import Noise, seed_everything
from guiderec.testing.oracles import Row, batch_of, sequences_of

ROWS: list[Row] = [([3, 1, 4], 1), ([5], 9), ([], 2), ([6, 5, 3, 5, 8], 9)]


def make(n_items: int = 9, **options: object) -> GuidedSASRec:
    seed_everything(0)
    small = {"dim": 8, "layers": 1, "heads": 2, "dropout": 0.0, "max_length": 6}
    built = GuidedSASRec(GuidedSASRecConfig(**{**small, **options}), n_items).double()
    with torch.no_grad():
        for parameter in (built.items.weight, built.pull.weight, built.pull.bias):
            parameter.add_(torch.randn_like(parameter) * 0.3)
        built.items.weight[0].zero_()
    return built


def probabilities(built: GuidedSASRec, vector: torch.Tensor) -> list[float]:
    """softmax_j e_j . vector over the items, by a loop."""
    logits = [float((built.items.weight[j] @ vector).detach()) for j in range(1, built.n_items + 1)]
    total = sum(math.exp(logit) for logit in logits)
    return [math.exp(logit) / total for logit in logits]


def test_unsteered_it_is_sasrec():
    """The same weights in SASRec give the same states and the same next-item loss."""
    built = make()
    twin = SASRec(SASRecConfig(dim=8, layers=1, heads=2, dropout=0.0, max_length=6), 9).double()
    twin.load_state_dict({k: v for k, v in built.state_dict().items() if k in twin.state_dict()})
    batch = batch_of(ROWS)
    torch.testing.assert_close(built.user_vectors(batch, Noise(0)), twin.user_vectors(batch, Noise(0)))
    torch.testing.assert_close(built.loss(batch, Noise(0))["next_item"], twin.loss(batch, Noise(0))["loss"])


@pytest.mark.parametrize("itself", [0.0, 0.3, 1.0])
def test_kinship_is_the_cross_entropy_of_an_item_against_its_row(itself: float):
    """By a loop over every possible anchor, averaged; the draws are uniform, so many keys come to the same."""
    built = make(itself=itself)
    for history, target in ROWS:
        own = [*history, target]
        expected = 0.0
        for place, anchor in enumerate(own):
            p = probabilities(built, built.pull(built.direction(torch.tensor(anchor))))
            wanted = Counter({place: itself if len(own) > 1 else 1.0})
            for other in range(len(own)):
                if other != place:
                    wanted[other] += (1 - itself) / (len(own) - 1)
            expected -= sum(weight * math.log(p[own[other] - 1]) for other, weight in wanted.items()) / len(own)
        one = batch_of([(history, target)])
        draws = 4000
        many = Batch(history=one.history.expand(draws, -1), target=one.target.expand(draws), key=torch.arange(draws))
        with torch.no_grad():
            assert float(built.kinship(many, Noise(0))) == pytest.approx(expected, rel=0.03)  # some 4 standard errors


def test_more_anchors_are_other_draws_of_the_same():
    built, batch = make(anchors=3), batch_of(ROWS)
    once = [float(make().kinship(batch, Noise(seed)).detach()) for seed in range(300)]
    thrice = [float(built.kinship(batch, Noise(seed)).detach()) for seed in range(100)]
    assert sum(thrice) / 100 == pytest.approx(sum(once) / 300, rel=0.03)
    assert torch.tensor(thrice).std() < torch.tensor(once).std()


def test_neighbours_are_those_of_the_training_sequences():
    """1 and 2 meet three times, 1 and 3, 1 and 5 once; 4 meets nobody. Only as many as there are."""
    built = make(neighbours=2)
    built.prepare(sequences_of([([1], 2), ([2], 1), ([5, 1], 2), ([1], 3), ([4], 4)]))
    assert built.akin[[1, 2, 3, 4]].tolist() == [[2, 3], [1, 5], [1, 0], [0, 0]]  # of 3 and 5, 1 has the smaller id


def test_a_wish_moves_its_item_most_and_its_neighbours_along():
    """Items 1-5 and 6-10 are taken together. To dislike 1 lowers it, and 2-5 on average more than 6-10."""
    seed_everything(0)
    built = GuidedSASRec(GuidedSASRecConfig(dim=16, layers=1, heads=2, dropout=0.0, max_length=6), 10)
    optimizer = torch.optim.AdamW(built.parameters(), lr=1e-2)
    generator = torch.Generator().manual_seed(0)
    rows: list[Row] = []
    for row in range(150 * 64):
        *history, target = (torch.randperm(5, generator=generator)[:4] + 1 + 5 * (row % 2)).tolist()
        rows.append((history, target))
    built.prepare(sequences_of(rows))
    for step in range(150):
        optimizer.zero_grad()
        built.loss(batch_of(rows[64 * step : 64 * (step + 1)]), Noise(0, step))["loss"].backward()
        optimizer.step()
    built.eval()
    query = Query(history=torch.tensor([[0, 2, 7]]), key=torch.tensor([0]))
    for name, sign in (("dislikes", -1), ("likes", 1)):
        wishing = replace(query, guidance_scale=0.5, **{name: torch.tensor([[1]])})
        with torch.no_grad():
            change = sign * (built.scores(wishing, Noise(0)) - built.scores(query, Noise(0)))[0, 1:]
        assert change.argmax() == 0
        assert float(change[1:5].mean()) > float(change[5:].mean())


def test_of_a_liked_category_the_item_that_suits_most_is_wished_and_the_others_are_its_neighbours():
    built = make()
    history = torch.tensor([[0, 3, 1, 4]])
    wishes, groups = torch.tensor([[2, 5, 1, 6, 3]]), torch.tensor([[1, 1, 0, 1, 2]])  # 3 is a category of one item
    with torch.no_grad():
        state = built.newest_state(history)
        scores = (built.item_vectors()[wishes[0]] @ state[0]).tolist()
        items, kin, shares = built.asked(state, wishes, groups)
        alone = built.asked(state, wishes, None)
    leader = max((0, 1, 3), key=lambda place: scores[place])
    assert items[0].tolist() == [item if place in (leader, 2, 4) else 0 for place, item in enumerate([2, 5, 1, 6, 3])]
    heard = [
        {item: share for item, share in zip(k, s, strict=True) if item and share}
        for k, s in zip(kin[0].tolist(), shares[0].tolist(), strict=True)
    ]
    n = built.config.neighbours
    assert heard[leader] == dict.fromkeys({2, 5, 6} - {int(wishes[0, leader])}, n / 2)
    for place in (2, 4):
        assert heard[place] == dict.fromkeys(filter(None, built.akin[wishes[0, place]].tolist()), 1.0)
    torch.testing.assert_close(alone[0], wishes)
    torch.testing.assert_close(alone[1], built.akin[wishes])


def test_a_liked_category_keeps_more_of_the_list_than_all_of_its_items_liked():
    """Means over 64 histories: some of the list is of the category, and more of the rest stays."""
    built = make(n_items=200, dim=16)
    generator = torch.Generator().manual_seed(0)
    liked = torch.arange(101, 109).expand(64, -1)
    with torch.no_grad():
        built.items.weight[1:] = torch.randn(200, 16, generator=generator).double()
        built.items.weight[101:109] += torch.randn(16, generator=generator).double()  # they are alike
    query = Query(history=torch.randint(1, 101, (64, 4), generator=generator), key=torch.arange(64))

    def listed(**wishes: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return top_k(built, replace(query, **wishes), 10, Noise(0))[1]

    before, each = listed(), listed(likes=liked)
    whole = listed(likes=liked, like_groups=torch.ones_like(liked))
    members = [torch.isin(found, liked[0]).double().mean() for found in (before, whole, each)]
    assert members[0] + 0.1 < members[1] < members[2] - 0.1
    assert recall_of(whole, before) > recall_of(each, before) + 0.1


def test_samples_spread_around_the_mean():
    """With all steps, samples of one history have the spread of the denoiser around gain times the state."""
    built = make(generation={"steps": 200, "start": "noise"}, schedule={"name": "linear", "steps": 200})
    with torch.no_grad():
        built.gain.fill_(0.7)
        built.denoiser.log_spread.fill_(math.log(0.5))
    draws = 3000
    history = torch.tensor([[0, 0, 0, 3, 1, 4]])
    query = Query(history=history.expand(draws, -1), key=torch.arange(draws))
    with torch.no_grad():
        found = built.user_vectors(query, Noise(0))[:, 0]
        state = built.states(history)[0, -1]
    assert not built.explains
    error = 0.5 / math.sqrt(draws)
    # The schedule leaves a share a_T of the clean vector at its noisiest, which a start from N(0, I) lacks.
    left = built.schedule.a(199)
    torch.testing.assert_close(found.mean(dim=0), 0.7 * state, rtol=0, atol=5 * error + left * float(state.abs().max()))
    assert float(found.std(dim=0).mean()) == pytest.approx(0.5, rel=0.05)


def test_the_head_learns_its_gain_and_spread():
    """Targets that are N(0.6 c, 0.3^2) are found out by the denoising error alone."""
    built = make(n_items=400, dim=8)
    torch.manual_seed(0)
    with torch.no_grad():
        built.items.weight[1:] = torch.randn(400, 8).double()
    batch = Batch(history=torch.zeros(400, 1, dtype=torch.int64), target=torch.arange(1, 401), key=torch.arange(400))
    x0 = built.direction(batch.target).detach()
    c = (x0 - 0.3 * torch.randn_like(x0)) / 0.6
    best = float((c * x0).sum() / c.square().sum())
    spread = float((x0 - best * c).square().mean().sqrt())
    optimizer = torch.optim.Adam([built.gain, built.denoiser.log_spread], lr=0.02)
    for step in range(600):
        optimizer.zero_grad()
        built.denoising(c, batch, Noise(0, step)).backward()
        optimizer.step()
    assert float(built.gain.detach()) == pytest.approx(best, rel=0.05)
    assert float(built.denoiser.spread.detach()) == pytest.approx(spread, rel=0.1)
