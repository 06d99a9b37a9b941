"""Keyed noise against big-integer arithmetic and against statistics of what it should be.

All statistics are of fixed seeds, so a test passes always or never; tolerances are about five standard deviations of
the statistic under the hypothesis, stated at each.
"""

from __future__ import annotations

import hashlib
import math
import random
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from guiderec import rng
from guiderec.rng import Noise, key_of, numpy_generator, seed_everything

WORD = 1 << 64


def mix_big(z: int) -> int:
    """The finaliser of SplitMix64 (Steele, Lea and Flood 2014, Fig. 16: mix64variant13) on unbounded integers."""
    z %= WORD
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % WORD
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB % WORD
    return z ^ (z >> 31)


def signed(z: int) -> int:
    return z - WORD if z >= WORD // 2 else z


int64 = st.integers(-(2**63), 2**63 - 1)


@settings(max_examples=30, deadline=None)
@given(st.lists(int64, min_size=1, max_size=20))
def test_finaliser_is_that_of_big_integers(values: list[int]):
    found = rng._mix(torch.tensor(values, dtype=torch.int64))
    assert found.tolist() == [signed(mix_big(value)) for value in values]


def test_finaliser_gives_the_published_stream():
    """First outputs of SplitMix64 with seed 1234567, as printed by its reference implementation (Vigna, 2015)."""
    states = [1234567 + 0x9E3779B97F4A7C15 * step for step in range(1, 6)]
    found = rng._mix(torch.tensor([signed(state % WORD) for state in states]))
    assert [value % WORD for value in found.tolist()] == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**40), step=st.integers(0, 10**6), key=int64, purpose=st.text(max_size=8))
def test_bits_are_the_documented_hash(seed: int, step: int, key: int, purpose: str):
    """Written out in big integers: a stored result can be recomputed by anyone, on any machine."""
    golden = 0x9E3779B97F4A7C15
    text = f"{seed}/{step}/{purpose}".encode()
    stream = int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")
    row = mix_big(mix_big(key * golden + stream))
    expected = [mix_big(mix_big(row + column * golden) ^ row) % 2**63 for column in range(1, 5)]
    assert Noise(seed, step).bits(torch.tensor([key]), 4, purpose)[0].tolist() == expected


@pytest.mark.parametrize("name", ["bits", "uniform", "normal", "integers"])
def test_a_row_depends_on_its_key_alone(name: str):
    """Neither on the batch, nor on the order, nor, for the first numbers, on how many are drawn."""
    keys = torch.tensor([5, -3, 2**62, 0, 5])

    def draw(keys: torch.Tensor, size: int = 6) -> torch.Tensor:
        more = (9,) if name == "integers" else ()
        return getattr(Noise(1, 2), name)(keys, size, *more, "test")

    together = draw(keys)
    assert torch.equal(torch.cat([draw(key[None]) for key in keys]), together)
    assert torch.equal(draw(keys.flip(0)), together.flip(0))
    assert torch.equal(together[0], together[4])
    if name != "normal":  # pairs of normals lie half the row apart
        assert torch.equal(draw(keys, 3), together[:, :3])


def test_any_part_of_the_name_changes_everything():
    keys = torch.arange(100)
    base = Noise(0, 0).bits(keys, 50, "a")
    for other in (
        Noise(1, 0).bits(keys, 50, "a"),
        Noise(0, 1).bits(keys, 50, "a"),
        Noise(0, 0).bits(keys, 50, "b"),
        Noise(0, 0).bits(keys + 100, 50, "a"),
    ):
        assert not (base == other).any()
    assert Noise(0).at(3) == Noise(0, 3)


def test_names_do_not_run_together():
    """Seed 1, step 23 is not seed 12, step 3."""
    keys = torch.arange(4)
    assert not (Noise(1, 23).bits(keys, 4, "x") == Noise(12, 3).bits(keys, 4, "x")).any()
    assert key_of("ab", "c") != key_of("a", "bc")


# --------------------------------------------------------------------------------------------------------- distribution

ROWS, COLUMNS = 500, 400


def test_every_bit_is_fair():
    bits = Noise(3).bits(torch.arange(ROWS), COLUMNS, "fair").flatten()
    assert int(bits.min()) >= 0
    n = len(bits)
    for place in range(63):
        ones = int((bits >> place & 1).sum())
        assert abs(ones - n / 2) < 5 * math.sqrt(n) / 2, place


def test_one_bit_of_the_key_flips_half_of_the_result():
    """Avalanche: mean flipped bits over keys, for each input bit, within five standard deviations of 31.5."""
    keys = torch.arange(1000) * 7919
    base = Noise(0).bits(keys, 1, "avalanche")[:, 0]
    for place in range(63):
        flipped = base ^ Noise(0).bits(keys ^ (1 << place), 1, "avalanche")[:, 0]
        counts = sum((flipped >> i & 1) for i in range(63)).double()
        assert abs(float(counts.mean()) - 31.5) < 5 * math.sqrt(63 / 4 / 1000), place


def test_uniform_is_uniform():
    draws = Noise(0).uniform(torch.arange(ROWS), COLUMNS, "u")
    assert draws.dtype == torch.float64
    assert 0 <= float(draws.min()) < float(draws.max()) < 1
    assert stats.kstest(draws.flatten().numpy(), "uniform").pvalue > 1e-3


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [1, 2, 3, COLUMNS, COLUMNS + 1])
def test_normal_is_normal(dtype: torch.dtype, size: int):
    rows = 200_000 // size
    draws = Noise(0).normal(torch.arange(rows), size, "n", dtype)
    assert draws.shape == (rows, size)
    assert draws.dtype == dtype
    assert draws.isfinite().all()
    assert stats.kstest(draws.flatten().double().numpy(), "norm").pvalue > 1e-3


def test_normal_has_the_moments_and_tails_of_a_normal():
    draws = Noise(5).normal(torch.arange(2000), 1000, "moments").double().flatten()
    n = len(draws)  # two million
    assert abs(float(draws.mean())) < 5 / math.sqrt(n)
    assert abs(float((draws**2).mean()) - 1) < 5 * math.sqrt(2 / n)
    assert abs(float((draws**3).mean())) < 5 * math.sqrt(15 / n)
    assert abs(float((draws**4).mean()) - 3) < 5 * math.sqrt(96 / n)
    beyond = float((draws.abs() > 4).double().sum())
    expected = n * 2 * stats.norm.sf(4)  # 127
    assert abs(beyond - expected) < 5 * math.sqrt(expected)


def test_normal_in_single_precision_is_that_of_double_precision():
    """The same draws, rounded: a model in float64 sees the noise that it sees in float32.

    Radii near 0 come from uniforms near 1, which float32 rounds by up to 2^-25: by sqrt(2^-24) = 2.4e-4 at most.
    """
    keys = torch.arange(500)
    single, double = (Noise(0).normal(keys, 100, "p", dtype) for dtype in (torch.float32, torch.float64))
    torch.testing.assert_close(single.double(), double, rtol=1e-5, atol=2.5e-4)
    assert float((single - double).abs().mean()) < 1e-6


def test_half_precision_is_rounded_from_single():
    keys = torch.arange(50)
    single = Noise(0).normal(keys, 10, "p")
    assert torch.equal(Noise(0).normal(keys, 10, "p", torch.bfloat16), single.to(torch.bfloat16))


@pytest.mark.parametrize("gap", [1, 2, COLUMNS // 2])
def test_numbers_are_independent_within_rows_between_rows_and_between_steps(gap: int):
    """Correlations of n pairs are below 5 / sqrt(n), of the numbers and of their squares.

    The gap of half a row is where the two halves of a Box-Muller pair stand; adjacent keys are what users are.
    """
    draws = Noise(0).normal(torch.arange(ROWS + gap), COLUMNS, "i", torch.float64)
    next_step = Noise(0, 1).normal(torch.arange(ROWS + gap), COLUMNS, "i", torch.float64)
    for first, second in (
        (draws[:, :-gap], draws[:, gap:]),
        (draws[:-gap], draws[gap:]),
        (draws, next_step),
    ):
        for power in (1, 2):
            pair = torch.stack([first.flatten() ** power, second.flatten() ** power])
            assert abs(float(torch.corrcoef(pair)[0, 1])) < 5 / math.sqrt(first.numel())


@pytest.mark.parametrize("high", [1, 2, 7, 1000])
def test_integers_are_uniform_over_all_values(high: int):
    draws = Noise(0).integers(torch.arange(1000), 200, high, "k").flatten()
    counts = torch.bincount(draws, minlength=high)
    assert len(counts) == high
    assert high == 1 or stats.chisquare(counts.numpy()).pvalue > 1e-3


# ------------------------------------------------------------------------------------------------------------ seeds


def test_keys_are_the_same_in_another_process():
    """Python's own hash of strings is not."""
    code = "from guiderec.rng import key_of; print(key_of('user', 12, 3.5))"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    key = key_of("user", 12, 3.5)
    assert int(other.stdout) == key
    assert 0 <= key < 2**63


def test_seed_everything_seeds_every_generator():
    def draws() -> list[float]:
        return [random.random(), float(np.random.rand()), float(torch.rand(())), float(torch.randn(()))]  # noqa: NPY002

    seed_everything(2**63 + 5)
    first = draws()
    assert draws() != first
    seed_everything(2**63 + 5)
    assert draws() == first
    seed_everything(6)
    assert all(a != b for a, b in zip(draws(), first, strict=True))


def test_numpy_generators_of_different_purposes_are_independent():
    draws = [
        numpy_generator(0, "a").random(1000),
        numpy_generator(0, "b").random(1000),
        numpy_generator(1, "a").random(1000),
    ]
    assert np.array_equal(draws[0], numpy_generator(0, "a").random(1000))
    correlations = np.corrcoef(draws)
    assert np.abs(correlations[np.triu_indices(3, 1)]).max() < 5 / math.sqrt(1000)


@given(st.integers(0, 2**62), st.integers(0, 2**62))
def test_subkeys_are_two_rounds_of_the_finaliser(key, index):
    found = rng.subkeys(torch.tensor([key]), torch.tensor([index]))
    golden = 0x9E3779B97F4A7C15
    expected = mix_big(mix_big(key * golden) + index * golden)
    assert int(found) % WORD == expected


def test_subkeys_differ_and_broadcast():
    keys = rng.subkeys(torch.arange(100)[:, None], torch.arange(50))
    assert keys.shape == (100, 50)
    assert len(keys.unique()) == 5000
    noise = Noise(0).normal(keys.flatten(), 4, "position").view(100, 50, 4)
    assert stats.kstest(noise.flatten().numpy(), "norm").pvalue > 1e-3
    neighbours = torch.corrcoef(torch.stack([noise[:, :-1].flatten(), noise[:, 1:].flatten()]))[0, 1]
    assert abs(float(neighbours)) < 5 / math.sqrt(noise[:, 1:].numel())
