"""Last-item Markov chain: the simplest model that looks at the history."""

from __future__ import annotations

from guiderec.models.markov import MarkovConfig
from guiderec.recipes.experiment import Experiment


def default() -> Experiment:
    """Items by how often they followed the last item of the history in training."""
    return Experiment(model=MarkovConfig())
