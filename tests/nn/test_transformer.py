from __future__ import annotations

import pytest
import torch

from guiderec.nn.attention import SelfAttention, causal_mask, two_sided_mask
from guiderec.nn.embedding import PositionEmbedding, item_embedding, positions
from guiderec.nn.sampling import items_outside
from guiderec.nn.transformer import PreNormBlock, TransformerEncoder
from guiderec.rng import Noise

MASK = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1], [0, 0, 0, 0, 0]]).bool()


def test_masks_are_the_definition():
    causal, two_sided = causal_mask(MASK)[:, 0], two_sided_mask(MASK)[:, 0]
    for b in range(3):
        for i in range(5):
            for j in range(5):
                item = bool(MASK[b, j])
                assert causal[b, i, j] == ((item and j <= i) or i == j)
                assert two_sided[b, i, j] == (item or i == j)


def test_positions_are_those_of_the_docstring():
    assert positions(MASK, "from_start").tolist() == [[0, 0, 0, 1, 2], [0, 1, 2, 3, 4], [0] * 5]
    assert positions(MASK, "from_end").tolist() == [[0, 0, 2, 1, 0], [4, 3, 2, 1, 0], [0] * 5]


def test_too_many_positions():
    with pytest.raises(ValueError, match="5 positions, but the table has 4"):
        PositionEmbedding(4, 8)(MASK)


def test_padding_row_stays_zero_under_the_optimizer():
    torch.manual_seed(0)
    table = item_embedding(5, 4)
    optimizer = torch.optim.AdamW(table.parameters(), lr=0.1, weight_decay=0.1)
    before = table.weight.detach().clone()
    table(torch.tensor([0, 1, 2])).square().sum().backward()
    optimizer.step()
    assert not table.weight[0].any()
    assert (table.weight[1] != before[1]).all()


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_values_at_padding_reach_no_item(norm: str):
    torch.manual_seed(0)
    encoder = TransformerEncoder(8, layers=2, heads=2, hidden=16, dropout=0.0, norm=norm, std=0.5).double()
    x = torch.randn(3, 5, 8, dtype=torch.float64)
    poisoned = torch.where(MASK[..., None], x, 1e6)
    torch.testing.assert_close(encoder(poisoned, causal_mask(MASK))[MASK], encoder(x, causal_mask(MASK))[MASK])


def test_an_empty_row_has_finite_values_and_gradients():
    torch.manual_seed(0)
    encoder = TransformerEncoder(8, layers=2, heads=2, hidden=16, dropout=0.0)
    x = torch.zeros(3, 5, 8, requires_grad=True)
    out = encoder(x, causal_mask(MASK))
    out.sum().backward()
    assert out.isfinite().all()
    assert x.grad is not None
    assert x.grad.isfinite().all()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in encoder.parameters())


def test_heads_must_divide_the_width():
    with pytest.raises(ValueError, match="a width of 10 cannot be split into 4 heads"):
        SelfAttention(10, 4)


def test_items_outside_is_uniform_over_exactly_the_others():
    own = torch.tensor([[3, 0, 3, 1, 9, 0]])
    drawn = items_outside(own, 10, 70_000, keys=torch.tensor([4]), noise=Noise(0), purpose="test")
    counts = torch.bincount(drawn[0], minlength=11)
    assert counts[[0, 1, 3, 9]].sum() == 0
    others = counts[[2, 4, 5, 6, 7, 8, 10]].double()
    chi_square = ((others - 10_000) ** 2 / 10_000).sum()
    assert chi_square < 30  # six degrees of freedom: below 22.5 with probability 0.999


def test_items_outside_every_exclusion_set_of_a_small_catalogue():
    """All 2^6 sets of own items, in one batch: what is drawn is the complement, and padding where it is empty."""
    sets = [[item for item in range(1, 7) if code >> (item - 1) & 1] for code in range(64)]
    own = torch.tensor([s + [0] * (6 - len(s)) for s in sets])
    drawn = items_outside(own, 6, 400, keys=torch.arange(64), noise=Noise(1), purpose="test")
    for row, s in enumerate(sets):
        assert set(drawn[row].tolist()) == (set(range(1, 7)) - set(s) or {0})


def test_items_outside_of_a_row_does_not_depend_on_the_batch():
    own, keys = torch.tensor([[1, 2], [5, 0], [7, 7]]), torch.tensor([11, 12, 13])
    together = items_outside(own, 9, 20, keys=keys, noise=Noise(0), purpose="test")
    alone = items_outside(own[1:2], 9, 20, keys=keys[1:2], noise=Noise(0), purpose="test")
    assert (alone[0] == together[1]).all()


@pytest.mark.parametrize("visible_of", [causal_mask, two_sided_mask])
def test_the_newest_position_alone_is_that_of_the_whole_block(visible_of):
    torch.manual_seed(0)
    block = PreNormBlock(8, heads=2, hidden=16, dropout=0.3).double().eval()
    x = torch.randn(3, 5, 8, dtype=torch.float64)
    torch.testing.assert_close(block.last(x, visible_of(MASK)), block(x, visible_of(MASK))[:, -1])


def test_numbers_instead_of_truths_are_added_to_the_logits():
    torch.manual_seed(0)
    attention = SelfAttention(8, heads=2).double()
    x = torch.randn(3, 5, 8, dtype=torch.float64)
    added = torch.zeros(3, 1, 5, 5, dtype=torch.float64).masked_fill(~two_sided_mask(MASK), -torch.inf)
    torch.testing.assert_close(attention(x, added), attention(x, two_sided_mask(MASK)))
    torch.testing.assert_close(attention.last(x, added), attention(x, added)[:, -1])


@pytest.mark.parametrize("norm", ["pre", "post"])
@pytest.mark.parametrize("layers", [0, 1, 2])
def test_the_newest_position_alone_is_that_of_the_whole_encoder(layers: int, norm: str):
    torch.manual_seed(0)
    encoder = TransformerEncoder(8, layers=layers, heads=2, hidden=16, dropout=0.3, norm=norm, std=0.5).double().eval()
    x = torch.randn(3, 5, 8, dtype=torch.float64)
    torch.testing.assert_close(encoder.last(x, causal_mask(MASK)), encoder(x, causal_mask(MASK))[:, -1])


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_hidden_units_have_their_own_dropout(norm: str):
    def rates(**options: float) -> list[float]:
        built = TransformerEncoder(8, layers=2, heads=2, hidden=16, dropout=0.5, norm=norm, **options)
        return [p for block in built.blocks for p in (block.feedforward.dropout.p, block.dropout.p)]

    assert rates() == [0.5, 0.5] * 2
    assert rates(hidden_dropout=0.0) == [0.0, 0.5] * 2


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_attention_weights_have_a_dropout_of_their_own(norm: str):
    """0 where everything else is dropped, and above 0 where nothing else is."""
    x = torch.randn(3, 5, 8)
    for dropout, attention_dropout in [(0.0, 0.5), (0.5, 0.0)]:
        encoder = TransformerEncoder(
            8, layers=1, heads=2, hidden=16, dropout=dropout, attention_dropout=attention_dropout, norm=norm
        )
        attention = encoder.blocks[0].attention
        visible = two_sided_mask(torch.ones(3, 5, dtype=torch.bool))
        assert torch.equal(attention(x, visible), attention(x, visible)) == (attention_dropout == 0)
        assert not torch.equal(encoder(x, visible), encoder(x, visible))
        assert torch.equal(encoder.eval()(x, visible), encoder(x, visible))
