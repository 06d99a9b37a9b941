from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from guiderec.data.batch import PADDING, Batch
from guiderec.errors import ConfigError
from guiderec.models.sasrec import SASRec, SASRecConfig
from guiderec.nn.next_item import BinaryCrossEntropy, CrossEntropy
from guiderec.rng import Noise, seed_everything
from guiderec.testing.oracles import Row, batch_of, causal_states_by_loop, ruleless_rows

ROWS: list[Row] = [([3, 1, 4], 1), ([5], 9), ([], 2), ([6, 5, 3, 5, 8], 9)]


def model(n_items: int = 9, **options: object) -> SASRec:
    seed_everything(0)
    config = SASRecConfig(**{"dim": 8, "layers": 2, "heads": 2, "dropout": 0.0, "max_length": 6, **options})
    built = SASRec(config, n_items).double()
    with torch.no_grad():  # away from the small start, where everything is nearly linear and biases are zero
        for name, p in built.named_parameters():
            if "norm" not in name:
                p.add_(torch.randn_like(p) * 0.3)
        built.items.weight[0].zero_()
    return built


def states_by_loop(built: SASRec, history: list[int]) -> list[np.ndarray]:
    weights = {name: p.detach().numpy() for name, p in built.named_parameters()}
    c = built.config
    return causal_states_by_loop(weights, history, layers=c.layers, heads=c.heads, norm=c.norm, counting=c.counting)


@pytest.mark.parametrize("norm", ["pre", "post"])
@pytest.mark.parametrize("counting", ["from_start", "from_end"])
def test_states_are_those_of_a_slow_loop(norm: str, counting: str):
    built = model(norm=norm, counting=counting).eval()
    states = built.states(batch_of(ROWS).history)
    for row, (history, _) in enumerate(ROWS):
        expected = states_by_loop(built, history)
        if expected:
            torch.testing.assert_close(states[row, -len(history) :], torch.tensor(np.array(expected)))


@pytest.mark.parametrize("layers", [0, 2])
def test_rows_of_all_lengths_have_the_states_that_they_have_alone(layers: int):
    built = model(max_length=16, layers=layers).eval()
    rows = [([1 + (row + p) % 9 for p in range(row % 20)], 1) for row in range(60)]  # 8 rows and more of each bucket
    history = batch_of(rows).history
    together, newest = built.states(history), built.newest_state(history)
    for row, (items, _) in enumerate(rows):
        alone = built.states(torch.tensor([items or [PADDING]]))[0]
        torch.testing.assert_close(together[row, -len(alone) :], alone)
        torch.testing.assert_close(newest[row], alone[-1])


def test_no_rows_have_no_scores():
    built = model().eval()
    none = batch_of(ROWS).rows(slice(0, 0))
    assert built.scores(none, Noise(0)).shape == (0, 10)
    assert built.states(none.history).shape == (0, none.history.shape[1], 8)


def test_last_state_is_that_of_torchs_own_encoder():
    """torch.nn.TransformerEncoderLayer with our weights, pre-norm, over rows without padding."""
    built = model(norm="pre").eval()
    layer = torch.nn.TransformerEncoderLayer(8, 2, 32, 0.0, "gelu", batch_first=True, norm_first=True)
    # The nested-tensor fast path of the reference does not take pre-norm, and says so in a warning.
    reference = torch.nn.TransformerEncoder(layer, 2, norm=torch.nn.LayerNorm(8), enable_nested_tensor=False)
    reference = reference.double().eval()
    ours = {"query_key_value": "self_attn.in_proj_", "output": "self_attn.out_proj."}
    with torch.no_grad():
        for block, theirs in zip(built.encoder.blocks, reference.layers, strict=True):
            for kind in ("weight", "bias"):
                for mine, other in ours.items():
                    theirs.get_parameter(other + kind).copy_(block.get_parameter(f"attention.{mine}.{kind}"))
                theirs.get_parameter(f"linear1.{kind}").copy_(block.get_parameter(f"feedforward.expand.{kind}"))
                theirs.get_parameter(f"linear2.{kind}").copy_(block.get_parameter(f"feedforward.contract.{kind}"))
                theirs.get_parameter(f"norm1.{kind}").copy_(block.get_parameter(f"attention_norm.{kind}"))
                theirs.get_parameter(f"norm2.{kind}").copy_(block.get_parameter(f"feedforward_norm.{kind}"))
        for kind in ("weight", "bias"):
            reference.norm.get_parameter(kind).copy_(built.encoder.exit.get_parameter(kind))
        history = torch.tensor([[3, 1, 4, 1], [5, 9, 2, 6]])
        x = built.items(history) + built.positions.table.weight[:4]
        expected = reference(x, mask=torch.triu(torch.ones(4, 4, dtype=torch.bool), diagonal=1))
        torch.testing.assert_close(built.states(history), expected)


def test_the_future_is_not_seen():
    built = model().eval()
    before = built.states(torch.tensor([[0, 3, 1, 4]]))
    after = built.states(torch.tensor([[0, 3, 1, 9]]))
    torch.testing.assert_close(before[:, :3], after[:, :3], rtol=0, atol=0)
    assert (before[:, 3] != after[:, 3]).any()


def test_only_the_newest_items_of_a_long_history_count():
    built = model(max_length=4).eval()
    long, cut = batch_of([([7, 8, 1, 2, 3, 4], 5)]), batch_of([([1, 2, 3, 4], 5)])
    torch.testing.assert_close(built.scores(long, Noise(0)), built.scores(cut, Noise(0)), rtol=0, atol=0)
    torch.testing.assert_close(built.loss(long, Noise(0))["loss"], built.loss(cut, Noise(0))["loss"], rtol=0, atol=0)


# ------------------------------------------------------------------------------------------------------------ losses


def pairs(built: SASRec, batch: Batch, predict: str) -> list[tuple[Tensor, int]]:
    """(state, target) of every learnt position, by the rows' own lists."""
    states = built.states(batch.history)
    found = []
    for row, (history, target) in enumerate(ROWS):
        items = [*history, target]
        places = range(len(history)) if predict == "every_position" and history else [len(history) - 1]
        found += [(states[row, states.shape[1] - len(history) + p], items[p + 1]) for p in places]
    return found


@pytest.mark.parametrize(("predict", "positions"), [("every_position", 10), ("last_position", 4)])
def test_cross_entropy_is_the_formula(predict: str, positions: int):
    """Over real positions of the batch, and items 1..I: padding is neither a target nor in the denominator."""
    built = model(predict=predict).eval()
    batch = batch_of(ROWS)
    table = built.items.weight.tolist()
    terms = []
    for state, target in pairs(built, batch, predict):
        logits = [sum(s * e for s, e in zip(state.tolist(), vector, strict=True)) for vector in table]
        terms.append(math.log(sum(math.exp(logit) for logit in logits[1:])) - logits[target])
    assert len(terms) == positions
    assert built.loss(batch, Noise(0))["loss"].item() == pytest.approx(sum(terms) / positions, rel=1e-12)


def test_binary_cross_entropy_is_the_formula():
    states = torch.tensor([[1.0, 2.0], [0.5, -1.0]])
    table = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [-1.0, 1.0]])
    found = BinaryCrossEntropy(negatives=2)(
        states, torch.tensor([1, 2]), torch.tensor([[2, 3], [3, 0]]), table
    )  # the 0 of the second row is no negative

    def sigmoid(x: float) -> float:
        return 1 / (1 + math.exp(-x))

    first = -math.log(sigmoid(1)) - (math.log(1 - sigmoid(2)) + math.log(1 - sigmoid(1))) / 2
    second = -math.log(sigmoid(-1)) - math.log(1 - sigmoid(-1.5))
    assert float(found) == pytest.approx((first + second) / 2, rel=1e-6)


def test_negatives_are_never_items_of_the_row_and_change_with_the_step():
    built = model(n_items=12, objective={"name": "binary_cross_entropy", "negatives": 40})
    batch = batch_of(ROWS)
    drawn = built._negatives(batch, 5, 40, Noise(0))
    assert drawn.shape == (4, 5, 40)
    for row, (history, target) in enumerate(ROWS):
        assert set(drawn[row].flatten().tolist()) == set(range(1, 13)) - {*history, target}
    assert (drawn != built._negatives(batch, 5, 40, Noise(0, step=1))).any()


def test_padding_moves_no_negative():
    built = model(n_items=12, objective={"name": "binary_cross_entropy", "negatives": 3}, max_length=20)
    narrow, wide = batch_of(ROWS), batch_of(ROWS, width=15)
    torch.testing.assert_close(built.loss(wide, Noise(0)), built.loss(narrow, Noise(0)), rtol=1e-12, atol=0)


@pytest.mark.parametrize("objective", [CrossEntropy(), BinaryCrossEntropy()])
def test_both_sides_of_the_product_learn_and_padding_does_not(objective: CrossEntropy | BinaryCrossEntropy):
    """Item 7 is a target and in no history: its gradient can only come from the output side, item 3's from both."""
    built = model(objective=objective)
    built.loss(batch_of([([3], 7)]), Noise(0))["loss"].backward()
    gradient = built.items.weight.grad
    assert gradient is not None
    assert gradient[7].any()
    assert gradient[3].any()
    assert not gradient[0].any()


def test_gradients_are_right():
    """Central differences in float64, through attention mask, indexing and tied table."""
    built = model(n_items=5, layers=1, dim=4, heads=1, max_length=3)
    batch = batch_of([([1, 2], 3), ([], 4)])
    named = dict(built.named_parameters())

    def loss(*values: Tensor) -> Tensor:
        return torch.func.functional_call(
            _Loss(built), dict(zip((f"m.{n}" for n in named), values, strict=True)), batch
        )

    assert torch.autograd.gradcheck(loss, tuple(named.values()), fast_mode=True)


class _Loss(torch.nn.Module):
    def __init__(self, m: SASRec) -> None:
        super().__init__()
        self.m = m

    def forward(self, batch: Batch) -> Tensor:
        return self.m.loss(batch, Noise(0))["loss"]


def test_dropout_is_active_in_training_only():
    built = model(dropout=0.5)
    batch = batch_of(ruleless_rows(9, 5, 20))
    built.train()
    assert built.loss(batch, Noise(0))["loss"] != built.loss(batch, Noise(0))["loss"]
    built.eval()
    assert built.loss(batch, Noise(0))["loss"] == built.loss(batch, Noise(0))["loss"]


def test_start_is_small_and_a_uniform_guess():
    """N(0, 0.02^2) tables and maps: the first loss is log I to within a few hundredths."""
    seed_everything(0)
    built = SASRec(SASRecConfig(), 1000)
    assert not built.items.weight[0].any()
    assert built.items.weight[1:].std().item() == pytest.approx(0.02, rel=0.02)
    batch = batch_of(ruleless_rows(1000, 10, 200))
    assert built.loss(batch, Noise(0))["loss"].item() == pytest.approx(math.log(1000), abs=0.1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dim": 10, "heads": 4}, "heads = 4 does not divide dim = 10"),
        ({"dropout": 1.0}, "'dropout' = 1.0"),
        ({"droput": 0.1}, "Did you mean 'dropout'"),
        ({"objective": {"name": "cross_entropy", "negatives": 3}}, "negatives' is not an option"),
        ({"norm": "prae"}, "'norm' = 'prae'"),
    ],
)
def test_impossible_options(options: dict[str, object], message: str):
    with pytest.raises(ConfigError, match=message):
        SASRecConfig.from_plain({"name": "sasrec", **options})
