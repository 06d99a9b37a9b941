"""Ways to honour a wish: the model's own steering, and what anybody can do with the scores of any model.

    rival(situation)(strength) -> scores (B, I + 1)

steering           the model itself, given the condition, at that guidance scale
classifier-free    the model guided away from its null condition at that scale: sharper, and told of no wish
similarity         s - w std(s) z(similarity to the condition)  for dislikes, + for likes; std and z-scores over the
                   catalogue, within a row, so that w counts standard deviations of the scores.
                   Similarity is the mean cosine of the model's item vectors, or the mean co-occurrence.
filter             what is named does not compete; nothing else changes
filter-group       what is named and all that the procedure looks at does not compete: what bluntness costs
oracle             what is named does not compete, and w std(s) is taken from exactly the group whose exposure will be
                   measured. It knows the question, so it is no rival: it shows what less exposure costs at least

At strength 0 all but those that remove what is named give the unsteered scores exactly. The co-occurrence that
`similarity` subtracts may be the very one that the procedure takes its neighbours from: that rival is told the answer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from guiderec.data.batch import PADDING, Query
from guiderec.data.cooccurrence import Neighbours
from guiderec.evaluation.ranking import ScoreBlocks
from guiderec.models.base import EmbeddingRecommender, Recommender
from guiderec.rng import Noise
from guiderec.steering.procedure import Wishes

Steered = Callable[[float], Tensor]
"""Strength -> steered scores (B, I + 1), the caller's to change; column 0 is -inf."""


@dataclass(frozen=True)
class Situation:
    """What a rival is given: B rows, their wishes, and the scores that nothing has steered."""

    query: Query
    """Without likes, dislikes and strength."""
    noise: Noise
    scores: Tensor
    """(B, I + 1) of the model at strength 0; column 0 is -inf. Not to be changed in place."""
    wishes: Wishes
    feedback: Literal["dislikes", "likes"]


class Rival(Protocol):
    """A way to honour wishes."""

    @property
    def name(self) -> str:
        """What it is called in tables."""
        ...

    @property
    def has_strength(self) -> bool:
        """Whether the strength matters; where not, there is one point and no curve."""
        ...

    def __call__(self, situation: Situation) -> Steered:
        """The scores at any strength, with what does not depend on it found once."""
        ...


def full_scores(model: Recommender, query: Query, noise: Noise) -> Tensor:
    """(B, I + 1) all scores of a query, checked as in ranking; column 0 is -inf."""
    ((_, block),) = ScoreBlocks(model, query, noise, block_items=model.n_items)
    return F.pad(block, (1, 0), value=-torch.inf)


def unsteered(model: Recommender, query: Query, noise: Noise) -> Tensor:
    """(B, I + 1) the scores at strength 0, without likes and dislikes."""
    return full_scores(model, replace(query, likes=None, dislikes=None, guidance_scale=0.0), noise)


@dataclass(frozen=True)
class OwnSteering:
    """The model itself."""

    model: Recommender
    name: str = "steering"
    has_strength: ClassVar[bool] = True

    def __call__(self, situation: Situation) -> Steered:
        """The model's scores with the condition as its likes or dislikes."""
        condition = situation.wishes.condition
        likes = condition if situation.feedback == "likes" else None
        dislikes = condition if situation.feedback == "dislikes" else None
        query = replace(situation.query, likes=likes, dislikes=dislikes)
        return lambda strength: full_scores(self.model, replace(query, guidance_scale=strength), situation.noise)


@dataclass(frozen=True)
class Served:
    """The model itself, and the list without what is named: what `recommend` and the server give."""

    model: Recommender
    name: str = "steering-and-filter"
    has_strength: ClassVar[bool] = True

    def __call__(self, situation: Situation) -> Steered:
        """The model's scores with the dislikes, -inf where an item is removed."""
        steered = OwnSteering(self.model)(situation)
        return lambda strength: steered(strength).scatter(1, situation.wishes.named, -torch.inf)


@dataclass(frozen=True)
class ClassifierFree:
    """A model whose guidance goes away from its null condition."""

    model: Recommender
    name: str = "classifier-free"
    has_strength: ClassVar[bool] = True

    def __call__(self, situation: Situation) -> Steered:
        """The model's scores without likes and dislikes."""
        query = replace(situation.query, likes=None, dislikes=None)
        return lambda strength: full_scores(self.model, replace(query, guidance_scale=strength), situation.noise)


@dataclass(frozen=True)
class VectorSimilarity:
    """Similarity of item vectors, subtracted from the scores or added to them."""

    model: EmbeddingRecommender
    name: str = "similarity-vectors"
    has_strength: ClassVar[bool] = True

    def __call__(self, situation: Situation) -> Steered:
        """S -+ w std(s) z(mean cosine to the condition)."""
        vectors = F.normalize(self.model.item_vectors().float(), dim=1)
        condition = situation.wishes.condition
        centre = (vectors[condition] * (condition != PADDING)[..., None]).sum(dim=1)
        return shifted(situation, centre @ vectors.T)


@dataclass(frozen=True)
class NeighbourSimilarity:
    """Similarity that the data tell, subtracted from the scores or added to them."""

    neighbours: Neighbours
    name: str = "similarity-co-occurrence"
    has_strength: ClassVar[bool] = True

    def __call__(self, situation: Situation) -> Steered:
        """S -+ w std(s) z(mean similarity to the condition); the condition is as similar as its nearest neighbour."""
        condition = situation.wishes.condition
        similarity = torch.from_numpy(self.neighbours.similarities(condition.cpu().numpy())).float()
        similarity = similarity.to(situation.scores.device)
        nearest = similarity.amax(dim=1, keepdim=True)
        nearest = torch.where(nearest > 0, nearest, 1.0).expand(-1, condition.shape[1])
        return shifted(situation, similarity.scatter(1, condition, nearest))


@dataclass(frozen=True)
class Filter:
    """Removes items and leaves the rest as it was."""

    whole_group: bool = False
    """True: all that the procedure looks at; False: what is named."""
    has_strength: ClassVar[bool] = False

    @property
    def name(self) -> str:
        """`filter` or `filter-group`."""
        return "filter-group" if self.whole_group else "filter"

    def __call__(self, situation: Situation) -> Steered:
        """The unsteered scores, -inf where an item is removed."""
        wishes = situation.wishes
        if self.whole_group:
            return lambda _: situation.scores.masked_fill(wishes.concerned, -torch.inf)
        return lambda _: situation.scores.scatter(1, wishes.named, -torch.inf)


@dataclass(frozen=True)
class GroupPenalty:
    """Told which items will be looked at, and touches no others."""

    name: str = "oracle"
    has_strength: ClassVar[bool] = True

    def __call__(self, situation: Situation) -> Steered:
        """S - w std(s) for the group, -inf for the named; std over the finite scores 1..I of a row."""
        scores, wishes = situation.scores, situation.wishes
        penalty = spread(scores) * wishes.group
        filtered = scores.scatter(1, wishes.named, -torch.inf)
        return lambda strength: filtered - strength * penalty


def spread(scores: Tensor) -> Tensor:
    """(B, 1) standard deviation of each row of scores (B, I + 1) over the items 1..I that were generated, not -inf."""
    made = torch.isfinite(scores[:, 1:])
    known = torch.where(made, scores[:, 1:], 0.0)
    n = made.sum(dim=1, keepdim=True).clamp(min=1)
    mean = known.sum(dim=1, keepdim=True) / n
    return (torch.where(made, known - mean, 0.0).square().sum(dim=1, keepdim=True) / n).sqrt()


def shifted(situation: Situation, similarity: Tensor) -> Steered:
    """S - w std(s) z(similarity) for dislikes and + for likes, over the items 1..I; `similarity` is (B, I + 1)."""
    scores, among = situation.scores, similarity[:, 1:]
    deviation = among.std(dim=1, correction=0, keepdim=True)
    z = (similarity - among.mean(dim=1, keepdim=True)) / torch.where(deviation > 0, deviation, 1.0)
    direction = z * spread(scores) * (1 if situation.feedback == "likes" else -1)
    return lambda strength: scores + strength * direction


def rivals(
    model: Recommender,
    neighbours: Neighbours,
    feedback: Literal["dislikes", "likes"],
    *,
    classifier_free: Recommender | None = None,
) -> list[Rival]:
    """All ways to honour such a wish with this model. `classifier_free` is a model with that guidance."""
    found: list[Rival] = []
    if model.steers_by_likes if feedback == "likes" else model.steers:
        found.append(OwnSteering(model))
        if feedback == "dislikes":
            found.append(Served(model))
    if classifier_free is not None:
        found.append(ClassifierFree(classifier_free))
    if isinstance(model, EmbeddingRecommender):
        found.append(VectorSimilarity(model))
    found.append(NeighbourSimilarity(neighbours))
    if feedback == "dislikes":
        found += [Filter(), Filter(whole_group=True), GroupPenalty()]
    return found
