"""Popularity: what any model has to beat."""

from __future__ import annotations

from guiderec.models.popularity import PopularityConfig
from guiderec.recipes.experiment import Experiment


def default() -> Experiment:
    """Items by the number of times they occur in training."""
    return Experiment(model=PopularityConfig())
