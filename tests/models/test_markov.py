from __future__ import annotations

from collections import Counter, defaultdict

import pytest
import torch

from guiderec.data.batch import Query
from guiderec.data.sequences import Sequences
from guiderec.errors import ConfigError, NotFittedError
from guiderec.models.markov import Markov, MarkovConfig
from guiderec.rng import Noise, numpy_generator


def random_lists(n_items: int, count: int, longest: int) -> list[list[int]]:
    generator = numpy_generator(0, "markov test", n_items)
    return [generator.integers(1, n_items + 1, size=generator.integers(1, longest + 1)).tolist() for _ in range(count)]


def fitted(lists: list[list[int]], n_items: int, **options: float) -> Markov:
    model = Markov(MarkovConfig(**options), n_items)
    model.prepare(Sequences.from_lists(lists))
    return model


def after(*last: int) -> Query:
    return Query(history=torch.tensor([[0, item] for item in last]), key=torch.arange(len(last)))


def by_loop(lists: list[list[int]], n_items: int, window: int) -> tuple[dict[int, Counter], Counter]:
    """Transition weights and item counts, one pair at a time."""
    transitions: dict[int, Counter] = defaultdict(Counter)
    for items in lists:
        for i, first in enumerate(items):
            for gap, second in enumerate(items[i + 1 : i + 1 + window], start=1):
                transitions[first][second] += 1 / gap
    return transitions, Counter(item for items in lists for item in items)


@pytest.mark.parametrize("window", [1, 2, 5])
@pytest.mark.parametrize("backoff", [0.5, 3.0])
def test_scores_are_the_formula(window: int, backoff: float):
    """score(j | i) = (n_ij + m p_j) / (n_i + m), pair by pair; only the order of equal counts is left free."""
    lists = random_lists(12, 40, 8)
    model = fitted(lists, 15, window=window, backoff=backoff)  # items 13 to 15 never occur
    model.ties.zero_()
    transitions, counts = by_loop(lists, 15, window)
    scores = model.scores(after(*range(16)), Noise(0))
    total = sum(counts.values())
    for i in range(16):
        n_i = sum(transitions[i].values())
        expected = [(transitions[i][j] + backoff * counts[j] / total) / (n_i + backoff) for j in range(16)]
        torch.testing.assert_close(scores[i], torch.tensor(expected), rtol=1e-5, atol=1e-7)


def test_transitions_do_not_cross_sequences():
    scores = fitted([[1, 2], [3, 4]], 4, backoff=1e-6).scores(after(2), Noise(0))[0]
    assert scores[3] < 0.5  # 2 -> 3 never happened; a chain over the flat array would give it 1


def test_scores_are_a_distribution():
    scores = fitted(random_lists(50, 30, 9), 60, window=3).scores(after(0, 1, 2, 55), Noise(0))
    torch.testing.assert_close(scores.sum(dim=1), torch.ones(4))


def test_unknown_last_item_and_empty_history_get_popularity():
    scores = fitted([[1, 1, 1, 2]], 3).scores(after(0, 3), Noise(0))
    torch.testing.assert_close(scores[0], scores[1], rtol=0, atol=0)
    assert scores[0, 1:].argsort(descending=True).tolist() == [0, 1, 2]


def test_sequences_without_a_single_transition_are_no_error():
    scores = fitted([[2], [2], [1]], 3, window=4).scores(after(2), Noise(0))[0]
    assert scores[1:].argsort(descending=True).tolist() == [1, 0, 2]


def test_memory_grows_with_the_data_and_not_with_the_square_of_the_catalogue():
    model = fitted(random_lists(1_000_000, 100, 20), 1_000_000)
    stored = sum(buffer.nbytes for buffer in model.buffers())
    assert stored < 40 * 1_000_001
    assert model.scores(after(5), Noise(0)).shape == (1, 1_000_001)


def test_weights_of_another_size_of_data_load_into_a_fitted_model():
    """The number of transitions is part of the weights and not of the config."""
    lists = random_lists(20, 30, 6)
    model, other = fitted(lists, 20), fitted(lists[:3], 20)
    other.load_state_dict(model.state_dict())
    torch.testing.assert_close(other.scores(after(1, 2), Noise(0)), model.scores(after(1, 2), Noise(0)))
    model.weights.zero_()  # `other` holds copies
    assert other.weights.any()


def test_weights_without_transitions_are_refused():
    state = fitted([[1, 2]], 2).state_dict()
    del state["following"]
    with pytest.raises(RuntimeError, match="following"):
        Markov(MarkovConfig(), 2).load_state_dict(state)


def test_unfitted_model_says_so():
    with pytest.raises(NotFittedError, match=r"counted no transitions.*Hint: call prepare"):
        Markov(MarkovConfig(), 3).scores(after(1), Noise(0))


def test_impossible_options():
    with pytest.raises(ConfigError, match=r"2 problems.*'backoff' = 0.*'window' = 0"):
        MarkovConfig(backoff=0, window=0)
