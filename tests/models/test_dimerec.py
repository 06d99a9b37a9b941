"""DimeRec against ADIGRec with guidance G1, without AI2M and L_reg, which has a slow reading in `test_adigrec.py`.

The two have losses and guidance of their own, and share a denoiser and a chain.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from guiderec.errors import ConfigError
from guiderec.models.adigrec import ADIGRec, ADIGRecConfig
from guiderec.models.base import InterestConditioned
from guiderec.models.dimerec import DimeRec, DimeRecConfig
from guiderec.rng import Noise
from guiderec.testing.oracles import batch_of

ITEMS, K = 14, 3
ROWS = [([1, 2, 3], 4), ([5, 6], 7), ([9, 3, 4, 8, 10, 11, 12], 9), ([8], 2), ([], 4)]
NOISE = Noise(7)
SHARED: dict[str, Any] = {"dim": 8, "max_length": 5, "schedule": {"name": "exp", "steps": 6}}

VARIANTS: dict[str, dict[str, Any]] = {
    "default": {},
    "per interest": {"form": "per_interest"},
    "no sphere": {"sphere": {"name": "off"}},
    "all on the sphere": {"sphere": {"name": "full"}, "noise_scale": "1/sqrt(d)"},
    "with L_reg": {"covariance": 1.0},
    "ddim": {"generation": {"sampler": "ddim", "steps": 3, "start": "noise"}},
}


def dimerec(options: dict[str, Any]) -> DimeRec:
    torch.manual_seed(0)
    return DimeRec(DimeRecConfig.from_plain({**SHARED, "interests": K, **options}), ITEMS)


def adigrec(options: dict[str, Any], **others: Any) -> ADIGRec:
    """ADIGRec with guidance G1 alone, `others` apart."""
    torch.manual_seed(0)
    plain = {"covariance": 0.0, "insertion": False, "guidance": {"name": "g1", "interests": K}}
    return ADIGRec(ADIGRecConfig.from_plain({**SHARED, **plain, **options, **others}), ITEMS)


def trained(model: InterestConditioned, steps: int = 5) -> tuple[InterestConditioned, list[dict[str, Tensor]]]:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for step in range(steps):
        optimizer.zero_grad()
        losses.append(model.train().loss(batch_of(ROWS), NOISE.at(step)))
        losses[-1]["loss"].backward()
        optimizer.step()
    return model.eval(), losses


@pytest.mark.parametrize("name", VARIANTS)
def test_adigrec_with_g1_alone_is_dimerec_to_the_last_bit(name: str):
    """Weights of one seed, all terms of five training steps, weights after them, routing and what is generated."""
    (one, its_losses), (other, other_losses) = (trained(make(VARIANTS[name])) for make in (dimerec, adigrec))
    for mine, theirs in zip(its_losses, other_losses, strict=True):
        assert mine.keys() == theirs.keys()
        assert all(torch.equal(mine[term], theirs[term]) for term in mine)
    assert one.state_dict().keys() == other.state_dict().keys()
    for weight, tensor in one.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[weight]), weight
    with torch.no_grad():
        query = batch_of(ROWS)
        assert torch.equal(one.user_vectors(query, NOISE), other.user_vectors(query, NOISE))
        assert torch.equal(one.routing(query), other.routing(query))
        assert torch.equal(one.scores(query, NOISE), other.scores(query, NOISE))


@pytest.mark.parametrize(
    "difference",
    [{"insertion": True}, {"covariance": 0.5}, {"guidance": {"name": "both", "interests": K}}],
    ids=["AI2M", "L_reg", "G2"],
)
def test_each_part_of_adigrec_makes_it_another_model(difference: dict[str, Any]):
    """Otherwise the equality above would say nothing."""
    models = [trained(model)[0] for model in (dimerec({}), adigrec({}, **difference))]
    with torch.no_grad():
        one, other = (model.user_vectors(batch_of(ROWS), NOISE) for model in models)
    assert not torch.allclose(one, other, atol=1e-4)


@torch.no_grad()
def test_its_denoiser_is_affine_in_the_state_and_reads_every_interest():
    model = dimerec({}).double()
    interests = model.guidance(batch_of(ROWS)).rows
    t = torch.tensor([0, 1, 2, 3, 4])
    denoise = model.denoiser.on(interests)
    x, y = torch.randn(2, 5, 1, 8, dtype=torch.float64)
    middle = denoise(0.3 * x + 0.7 * y, t)
    torch.testing.assert_close(middle, 0.3 * denoise(x, t) + 0.7 * denoise(y, t))
    for k in range(K):
        moved = interests.clone()
        moved[:, k] += 1
        assert (model.denoiser.on(moved)(x, t) - denoise(x, t)).abs().amax(dim=(1, 2)).min() > 1e-3


def test_the_mean_over_the_noise_is_refused():
    with pytest.raises(ConfigError, match="start must be"):
        DimeRecConfig.from_plain({"generation": {"start": "mean"}})
