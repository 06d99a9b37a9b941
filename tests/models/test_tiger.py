"""TIGER against slow readings: one row, one token, one head at a time, tuples by trying all of them."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from guiderec.errors import ConfigError, NotFittedError
from guiderec.evaluation.ranking import target_ranks, top_k
from guiderec.models.tiger import (
    RQVAE,
    TIGER,
    Beam,
    Exact,
    RelativePositions,
    ResidualKMeans,
    TIGERConfig,
    Trie,
    content_vectors,
    k_means,
    nearest,
    residual_codes,
    rqvae_loss,
    semantic_ids,
)
from guiderec.rng import Noise, seed_everything
from guiderec.testing.oracles import Row, batch_of, sequences_of

ITEMS, DIM, HEADS, WIDTH, LEVELS, K, L = 12, 6, 3, 4, 2, 3, 4
ROWS: list[Row] = [([1, 2, 3], 4), ([5, 6], 7), ([9, 3, 4, 8, 10, 11, 12], 9), ([8], 2), ([], 4)]
NOISE = Noise(7)
SIZES: dict[str, Any] = {
    "dim": DIM,
    "heads": HEADS,
    "head_dim": WIDTH,
    "hidden": 8,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "levels": LEVELS,
    "codewords": K,
    "max_length": L,
    "buckets": 8,
    "max_distance": 9,
    "quantiser": {"name": "residual_k_means"},
}


def make(n_items: int = ITEMS, rows: list[Row] = ROWS, **options: Any) -> TIGER:
    seed_everything(0)
    model = TIGER(TIGERConfig.from_plain({"name": "tiger", **SIZES, **options}), n_items).double().eval()
    model.prepare(sequences_of(rows))
    with torch.no_grad():
        for parameter in model.parameters():  # norms of ones would hide mistakes
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


# ------------------------------------------------------------------------------------------------ T5, slowly


def slow_bucket(ahead: int, buckets: int, farthest: int, *, two_sided: bool) -> int:
    """T5's class of a key `ahead` places after its query, from Raffel et al.: exact, then logarithmic, then one."""
    first = 0
    if two_sided:
        buckets //= 2
        first = buckets if ahead > 0 else 0
        distance = abs(ahead)
    else:
        distance = max(-ahead, 0)
    exact = buckets // 2
    if distance < exact:
        return first + distance
    steps = math.log(distance / exact) / math.log(farthest / exact) * (buckets - exact)
    return first + min(exact + int(steps), buckets - 1)


def slow_norm(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    return x / math.sqrt(sum(v * v for v in x) / len(x) + 1e-6) * weight


def slow_attention(
    weights: dict[str, np.ndarray], name: str, x: np.ndarray, seen: list[np.ndarray], bias: list[np.ndarray] | None
) -> np.ndarray:
    """One query `x` over the states `seen`, with numbers (H,) added to the logits of each."""
    heads = []
    for h in range(HEADS):
        part = slice(h * WIDTH, (h + 1) * WIDTH)
        query = weights[f"{name}.query.weight"][part] @ x
        logits = [
            query @ (weights[f"{name}.key.weight"][part] @ s) + (bias[i][h] if bias else 0.0)
            for i, s in enumerate(seen)
        ]
        total = sum(math.exp(v) for v in logits)
        heads.append(
            sum(
                math.exp(v) / total * (weights[f"{name}.value.weight"][part] @ s)
                for v, s in zip(logits, seen, strict=True)
            )
        )
    return weights[f"{name}.output.weight"] @ np.concatenate(heads)


def slow_stack(
    weights: dict[str, np.ndarray], name: str, states: list[np.ndarray], memory: list[np.ndarray] | None
) -> list[np.ndarray]:
    """An encoder, or with `memory` a decoder, over the states of one sequence."""
    two_sided = memory is None
    table = weights["distances.table.weight" if two_sided else "written.table.weight"]
    n = len(states)
    for b in range(2):
        block = f"{name}.{b}"
        normed = [slow_norm(s, weights[f"{block}.attention_norm.weight"]) for s in states]
        after = []
        for i in range(n):
            visible = range(n if two_sided else i + 1)
            bias = [table[slow_bucket(j - i, 8, 9, two_sided=two_sided)] for j in visible]
            x = states[i] + slow_attention(weights, f"{block}.attention", normed[i], [normed[j] for j in visible], bias)
            if memory is not None:
                h = slow_norm(x, weights[f"{block}.reading_norm.weight"])
                x = x + slow_attention(weights, f"{block}.reading", h, memory, None)
            h = slow_norm(x, weights[f"{block}.feedforward_norm.weight"])
            hidden = [max(0.0, float(v)) for v in weights[f"{block}.feedforward.expand.weight"] @ h]
            after.append(x + weights[f"{block}.feedforward.contract.weight"] @ np.array(hidden))
        states = after
    return [slow_norm(s, weights[f"{name}_norm.weight"]) for s in states]


def slow_log_likelihoods(model: TIGER, history: list[int], item: int) -> list[float]:
    """log p of each token of an item, without padding."""
    weights = {name: p.detach().numpy() for name, p in model.named_parameters()}
    codes, table = model.codes.tolist(), weights["tokens.weight"]
    read = [table[level * K + c] for i in history[-L:] for level, c in enumerate(codes[i])]
    memory = slow_stack(weights, "encoder", [*read, weights["end"]], None)
    written = [table[level * K + c] for level, c in enumerate(codes[item])]
    states = slow_stack(weights, "decoder", [weights["start"], *written[:-1]], memory)
    found = []
    for level, state in enumerate(states):
        logits = [float(table[level * K + c] @ state) / math.sqrt(DIM) for c in range(K)]
        found.append(logits[codes[item][level]] - math.log(sum(math.exp(v) for v in logits)))
    return found


@pytest.mark.parametrize(("buckets", "farthest"), [(32, 128), (8, 9)])
@pytest.mark.parametrize("two_sided", [True, False])
def test_buckets_are_those_of_the_slow_reading(buckets: int, farthest: int, two_sided: bool):
    found = RelativePositions(buckets, farthest, 2, two_sided=two_sided)
    ahead = torch.arange(-300, 301)
    expected = [slow_bucket(a, buckets, farthest, two_sided=two_sided) for a in ahead.tolist()]
    assert found.bucket(ahead).tolist() == expected
    assert set(expected) == set(range(buckets)) - ({buckets // 2} if two_sided else set())  # 0 ahead is not ahead


def test_buckets_of_the_paper_by_hand():
    """32 of them, 16 to a side: 0 to 7 alone, then 8-11, 12-15, 16-22, 23-31, 32-45, 46-63, 64-90, and all the rest."""
    found = RelativePositions(32, 128, 1, two_sided=True)
    before = [0, 7, 8, 11, 12, 15, 16, 22, 23, 31, 32, 45, 46, 63, 64, 90, 91, 1000]
    expected = [0, 7, 8, 8, 9, 9, 10, 10, 11, 11, 12, 12, 13, 13, 14, 14, 15, 15]
    assert found.bucket(-torch.tensor(before)).tolist() == expected
    assert found.bucket(torch.tensor(before[1:])).tolist() == [16 + b for b in expected[1:]]


@torch.no_grad()
def test_loss_and_scores_are_those_of_the_slow_reading():
    model = make(search={"name": "exact"})
    batch = batch_of(ROWS)
    scores, parts = model.scores(batch, NOISE), model.loss(batch, NOISE)
    losses = np.zeros(LEVELS + 1)
    for row, (history, target) in enumerate(ROWS):
        losses -= np.array(slow_log_likelihoods(model, history, target)) / len(ROWS)
        for item in (1, target, ITEMS):
            assert float(scores[row, item]) == pytest.approx(sum(slow_log_likelihoods(model, history, item)), rel=1e-9)
    assert [float(parts[f"token_{i}"]) for i in (1, 2, 3)] == pytest.approx(losses.tolist())
    assert float(parts["loss"]) == pytest.approx(losses.sum())


@torch.no_grad()
def test_the_likelihoods_of_all_tuples_sum_to_one():
    """Also of those that are no item: each token is a choice among K."""
    model = make()
    tuples = torch.tensor(list(itertools.product(range(K), repeat=LEVELS + 1)))
    memory = model.encode(batch_of(ROWS).history[:, -L:])
    found = model.log_likelihoods(tuples.expand(len(ROWS), -1, -1), memory).sum(dim=2).exp().sum(dim=1)
    torch.testing.assert_close(found, torch.ones(len(ROWS), dtype=torch.float64))


def test_no_position_is_told_by_later_tokens():
    """The log-probability of a token does not depend on what is written after it."""
    model = make()
    memory = model.encode(batch_of(ROWS[:1]).history)
    one, other = (model.log_likelihoods(torch.tensor([[[2, 1, last]]]), memory)[0, 0] for last in (0, 2))
    assert torch.equal(one[:2], other[:2])
    assert one[2] != other[2]


# ------------------------------------------------------------------------------------------------ beam search


@torch.no_grad()
def test_a_beam_as_wide_as_the_catalogue_is_exact():
    exact, beam = make(search={"name": "exact"}), make(search={"name": "beam", "width": ITEMS})
    found, expected = beam.scores(batch_of(ROWS), NOISE), exact.scores(batch_of(ROWS), NOISE)
    torch.testing.assert_close(found[:, 1:], expected[:, 1:], rtol=1e-10, atol=1e-10)
    assert (found[:, 0] == -torch.inf).all()


@pytest.mark.parametrize("width", [1, 2, 3, 5])
@torch.no_grad()
def test_a_narrow_beam_is_that_of_the_slow_search(width: int):
    model = make(search={"name": "beam", "width": width})
    found = model.scores(batch_of(ROWS), NOISE)
    items = {tuple(codes): item for item, codes in enumerate(model.codes.tolist()) if item}
    for row, (history, _) in enumerate(ROWS):
        likelihood = {path: slow_log_likelihoods(model, history, item) for path, item in items.items()}
        beams: list[tuple[int, ...]] = [()]
        for depth in range(1, LEVELS + 2):
            value = {path[:depth]: sum(p[:depth]) for path, p in likelihood.items() if path[: depth - 1] in beams}
            beams = sorted(value, key=lambda path: -value[path])[:width]
        reached = {items[path]: sum(likelihood[path]) for path in beams}
        assert {i for i in range(1, ITEMS + 1) if found[row, i] > -torch.inf} == set(reached)
        assert all(float(found[row, i]) == pytest.approx(s, rel=1e-9) for i, s in reached.items())


@torch.no_grad()
def test_what_the_beam_does_not_reach_is_never_listed_and_ranks_last():
    model = make(search={"name": "beam", "width": 2})
    batch = batch_of(ROWS)
    scores, listed = top_k(model, batch, 4, NOISE)
    assert (listed[:, :2] > 0).all()
    assert (listed[:, 2:] == 0).all()
    assert (scores[:, 2:] == -torch.inf).all()
    missed = torch.tensor([next(i for i in range(1, ITEMS + 1) if i not in row) for row in listed.tolist()])
    assert (target_ranks(model, batch, missed, NOISE) == ITEMS).all()
    assert target_ranks(model, batch, listed[:, 1], NOISE).tolist() == [2] * len(ROWS)


@torch.no_grad()
def test_parts_of_a_batch_are_decoded_like_the_whole(monkeypatch: pytest.MonkeyPatch):
    beam, exact = make(), make(search={"name": "exact"})
    expected = beam.scores(batch_of(ROWS), NOISE), exact.scores(batch_of(ROWS), NOISE)
    monkeypatch.setattr("guiderec.models.tiger._BEAMS_AT_ONCE", 7)
    for model, scores in zip((beam, exact), expected, strict=True):
        torch.testing.assert_close(model.scores(batch_of(ROWS), NOISE), scores)
        none = batch_of(ROWS).rows(slice(0, 0))
        assert model.scores(none, NOISE).shape == (0, ITEMS + 1)


def test_the_trie_holds_what_exists_and_nothing_else():
    codes = torch.tensor([[2, 0, 1], [0, 1, 0], [2, 0, 0], [0, 2, 2], [2, 1, 0]])
    trie = Trie.of(codes)
    assert [t.tolist() for t in trie.tokens] == [[0, 2], [1, 2, 0, 1], [0, 2, 0, 1, 0]]
    assert [s.tolist() for s in trie.starts] == [[0, 2], [0, 2, 4], [0, 1, 2, 4, 5]]
    assert trie.items.tolist() == [2, 4, 3, 1, 5]
    child, exists = trie.children(2, torch.tensor([[0, 2]]))
    assert child[exists].tolist() == [0, 2, 3]
    assert exists.tolist() == [[[True, False], [True, True]]]


def test_every_tuple_is_a_path_of_the_trie_and_every_path_a_tuple():
    model = make()
    trie, paths = Trie.of(model.codes[1:]), {}
    level: list[tuple[int, tuple[int, ...]]] = [(0, ())]
    for depth in range(LEVELS + 1):
        following = []
        for node, path in level:
            child, exists = trie.children(depth, torch.tensor(node))
            following += [(c, (*path, int(trie.tokens[depth][c]))) for c in child[exists].tolist()]
        level = following
    paths = {path: int(trie.items[node]) for node, path in level}
    assert paths == {tuple(codes): item for item, codes in enumerate(model.codes.tolist()) if item}


# ------------------------------------------------------------------------------------------------ semantic ids


def test_residual_codes_are_those_of_the_slow_loop():
    seed_everything(1)
    points, books = torch.randn(40, 5), torch.randn(3, 7, 5)
    for point, codes in zip(points.double().numpy(), residual_codes(points, books).tolist(), strict=True):
        left = point.copy()
        for book, code in zip(books.double().numpy(), codes, strict=True):
            distances = [sum((a - b) ** 2 for a, b in zip(left, e, strict=True)) for e in book]
            assert code == distances.index(min(distances))
            left = left - book[code]


def test_items_of_one_tuple_are_counted_in_the_given_order():
    points = torch.tensor([[0.0], [5.1], [0.1], [5.0], [0.2]])
    books = torch.tensor([[[0.0], [5.0], [9.0]]])
    assert semantic_ids(points, books, torch.tensor([4, 0, 1, 2, 3])).tolist() == [
        [0, 1],
        [1, 0],
        [0, 2],
        [1, 1],
        [0, 0],
    ]


def test_an_item_without_room_goes_to_the_next_nearest_codeword_with_room():
    """K = 2, m = 2: two items fit a tuple, four below a first token; the last of five equal ones goes elsewhere."""
    books = torch.tensor([[[0.0], [1.0]], [[0.0], [0.4]]])
    found = semantic_ids(torch.zeros(8, 1), books, torch.arange(8)).tolist()
    assert found[:4] == [[0, 0, 0], [0, 0, 1], [0, 1, 0], [0, 1, 1]]
    assert found[4:] == [[1, 0, 0], [1, 0, 1], [1, 1, 0], [1, 1, 1]]


@pytest.mark.parametrize("quantiser", [{"name": "residual_k_means"}, {"name": "rqvae", "hidden": [8], "latent": 4}])
def test_tuples_are_unique_and_in_range_when_most_items_are_unknown(quantiser: dict[str, Any]):
    n_items = K ** (LEVELS + 1)  # not one tuple is left over
    model = make(n_items, quantiser=quantiser)
    codes = model.codes[1:]
    assert len({tuple(row) for row in codes.tolist()}) == n_items
    assert 0 <= int(codes.min()) <= int(codes.max()) < K
    assert not model.codes[0].any()


def test_codes_do_without_anything_that_meets():
    assert len({tuple(row) for row in make(rows=[([], 1), ([], 2)]).codes[1:].tolist()}) == ITEMS


def test_codes_follow_the_seed_alone():
    for quantiser in ({"name": "residual_k_means"}, {"name": "rqvae", "hidden": [8], "latent": 4}):
        assert torch.equal(make(quantiser=quantiser).codes, make(quantiser=quantiser).codes)


def test_items_that_are_taken_together_share_their_first_token():
    """Three groups of ten, sequences of four from one group each."""
    generator = np.random.Generator(np.random.Philox(0))
    lists = [1 + group * 10 + generator.permutation(10)[:4] for group in range(3) for _ in range(60)]
    rows = [(items[:-1].tolist(), int(items[-1])) for items in lists]
    for quantiser in ({"name": "residual_k_means"}, {"name": "rqvae", "hidden": [16], "latent": 8}):
        first = make(30, rows, codewords=4, content_dim=3, quantiser=quantiser).codes[1:, 0].view(3, 10)
        owners = [set(group.tolist()) for group in first]
        assert not owners[0] & owners[1]
        assert not owners[1] & owners[2]
        assert not owners[0] & owners[2]


def test_content_is_the_ppmi_of_the_training_sequences():
    """Two pairs that two of five sequences hold each, and who meets nobody; as many columns as items lose nothing."""
    rows: list[Row] = [([1, 2], 1), ([1], 2), ([3], 4), ([4, 3], 4), ([5], 5)]
    vectors = content_vectors(sequences_of(rows), 6, 64).double().numpy()
    assert vectors.shape == (6, 6)
    # met in two of five sequences, all of their own: log(2 * 5 / (2 * 2)), damped by 2 / (2 + 5), with itself as well
    mutual = math.log(5 / 2) * 2 / (2 + 5)
    alone = math.log(5 / 1) * 1 / (1 + 5)
    matrix = np.zeros((6, 6))
    matrix[:2, :2] = matrix[2:4, 2:4] = mutual
    matrix[4, 4] = alone
    matrix[5, 5] = math.log(5) * 0 / 5
    np.testing.assert_allclose(vectors[:4] @ vectors[:4].T, matrix[:4, :4] / mutual, atol=1e-6)
    assert not vectors[4:].any()


def test_content_of_a_large_catalogue_is_that_of_the_whole_decomposition(monkeypatch: pytest.MonkeyPatch):
    generator = np.random.Generator(np.random.Philox(3))
    rows = [((1 + generator.integers(60, size=3)).tolist(), int(1 + generator.integers(60))) for _ in range(300)]
    whole = content_vectors(sequences_of(rows), 60, 8)
    monkeypatch.setattr("guiderec.models.tiger._DENSE_ITEMS", 10)
    torch.testing.assert_close(content_vectors(sequences_of(rows), 60, 8), whole, rtol=1e-4, atol=1e-5)


def test_k_means_finds_planted_clusters():
    seed_everything(0)
    centres = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]])
    points = centres.repeat_interleave(20, dim=0) + 0.1 * torch.randn(60, 2)
    found = k_means(points, 3, rounds=10)
    label = nearest(points, found)
    assert len(set(label[::20].tolist())) == 3
    for group in range(3):
        own = points[20 * group : 20 * (group + 1)]
        torch.testing.assert_close(found[label[20 * group]], own.mean(dim=0))
    assert torch.equal(k_means(points[:2], 5, rounds=3).unique(dim=0), points[:2].unique(dim=0))


def test_rqvae_loss_is_the_formula():
    """x = 3, z = w x with w = 0.5, x_hat = 2 z_hat; 1 and 2 are as near to z = 1.5, and the first one is taken."""
    x, books = torch.tensor([[3.0]]), torch.tensor([[[1.0], [2.0]], [[0.25], [-1.0]]], requires_grad=True)
    w = torch.tensor(0.5, requires_grad=True)
    loss = rqvae_loss(x, lambda a: w * a, lambda z: 2 * z, books, 0.25)
    assert loss.item() == pytest.approx((3 - 2 * 1.25) ** 2 + 1.25 * 0.5**2 + 1.25 * 0.25**2)
    loss.backward()
    # a codeword: 2 (e - r) of its own term alone; the encoder: the decoder, and both commitments
    assert books.grad is not None
    assert books.grad.flatten().tolist() == pytest.approx([-1.0, 0.0, -0.5, 0.0])
    to_z = -2 * 0.5 * 2 + 0.25 * 2 * 0.5 + 0.25 * 2 * 0.25
    assert w.grad is not None
    assert w.grad.item() == pytest.approx(3 * to_z)


def test_steps_bound_the_epochs():
    content, known = torch.randn(30, 4), torch.ones(30, dtype=torch.bool)

    def books(**options: Any) -> torch.Tensor:
        seed_everything(0)
        return RQVAE(hidden=(5,), latent=3, batch_size=10, **options)(content, known, 1, 4)[1]

    assert torch.equal(books(epochs=5, steps=3), books(epochs=1))
    assert not torch.equal(books(epochs=5, steps=4), books(epochs=1))
    assert torch.equal(books(epochs=5, steps=0), books(epochs=0))


# ------------------------------------------------------------------------------------------------ the contract


@torch.no_grad()
def test_history_beyond_the_window_and_users_are_not_read():
    model = make()
    long, short = batch_of([([5, 6, 7, 1, 2, 3, 4], 1)]), batch_of([([1, 2, 3, 4], 1)], first_key=50)
    torch.testing.assert_close(model.scores(long, NOISE), model.scores(short, NOISE))
    other = batch_of([([6, 2, 3, 4], 1)])
    assert not torch.allclose(model.scores(other, NOISE), model.scores(short, NOISE))


def test_an_empty_history_is_learnt():
    model = make()
    model.loss(batch_of([([], 3)]), NOISE)["loss"].backward()
    assert model.end.grad is not None
    assert model.end.grad.any()


def test_codes_travel_with_the_weights():
    model = make()
    stored = load_tensors(save_tensors({name: tensor.contiguous() for name, tensor in model.state_dict().items()}))
    fresh = TIGER(model.config, ITEMS).double().eval()
    with pytest.raises(NotFittedError, match="no semantic ids"):
        fresh.scores(batch_of(ROWS), NOISE)
    fresh.load_state_dict(stored)
    assert torch.equal(fresh.scores(batch_of(ROWS), NOISE), model.scores(batch_of(ROWS), NOISE))


def test_initialisation_is_t5s():
    seed_everything(0)
    config = TIGERConfig(dim=64, heads=4, head_dim=32, hidden=256, encoder_layers=1, decoder_layers=1)
    model = TIGER(config, 100)
    deviation = {name: float(p.detach().std()) for name, p in model.named_parameters() if p.ndim == 2}
    expected = {
        "query": (64 * 32) ** -0.5,
        "key": 64**-0.5,
        "value": 64**-0.5,
        "output": (4 * 32) ** -0.5,
        "expand": 64**-0.5,
        "contract": 256**-0.5,
        "tokens": 1.0,
        "table": 64**-0.5,
    }
    for name, found in deviation.items():
        kind = name.split(".")[-2]
        assert found == pytest.approx(expected[kind], rel=0.25 if kind == "table" else 0.05), name
    assert all((p == 1).all() for name, p in model.named_parameters() if "norm" in name)
    assert not [name for name, _ in model.named_parameters() if "bias" in name]


def test_distances_can_begin_wider():
    seed_everything(0)
    tables = [p for name, p in make(position_std=50.0).named_parameters() if "table" in name]
    assert all(25 < float(p.detach().std()) < 75 for p in tables)
    assert len(tables) == 2


def test_sizes_are_the_papers():
    config = TIGERConfig()
    assert (config.levels, config.codewords, config.max_length) == (3, 256, 20)
    assert (config.dim, config.heads, config.head_dim, config.hidden) == (128, 6, 64, 1024)
    assert (config.encoder_layers, config.decoder_layers, config.dropout) == (4, 4, 0.1)
    assert isinstance(config.quantiser, RQVAE)
    assert (config.quantiser.hidden, config.quantiser.latent, config.quantiser.commitment) == (
        (512, 256, 128),
        32,
        0.25,
    )


def test_options_that_cannot_be():
    with pytest.raises(ConfigError, match=r"28 items cannot have distinct tuples of 3 tokens with 3 values"):
        TIGER(TIGERConfig.from_plain({"name": "tiger", **SIZES}), 28)
    with pytest.raises(ConfigError, match=r"max_distance = 4 is not above half of buckets = 8"):
        TIGERConfig(buckets=8, max_distance=4)
    with pytest.raises(ConfigError, match="widths must be at least 1"):
        RQVAE(hidden=(8, 0))


def test_the_search_moves_no_weight():
    options = [Beam(width=5), Beam(), Exact()]
    states = [make(search=search.to_plain()).state_dict() for search in options]
    assert all(torch.equal(states[0][name], state[name]) for state in states for name in states[0])
    assert ResidualKMeans().rounds == 20
