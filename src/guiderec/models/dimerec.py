"""DimeRec: A Unified Framework for Enhanced Sequential Recommendation via Generative Diffusion Models (Li et al., WSDM
2025, arXiv:2408.12153).

Idea       A guidance extraction module (GEM) turns the history into K interests; a diffusion aggregation module (DAM)
           generates the embedding of the next item under them, on a sphere, where inner products are distances. The
           losses of extraction, reconstruction and retrieval are minimised together.
Notation   paper -> code:  g -> interests (B, K, D);  x_t -> x_t;  lambda, mu -> reconstruction, retrieval
Order      guide() GEM -> loss() -> user_vectors() (`models/base.py`)
Facts      The paper's code is not public. This is a RECONSTRUCTION from its abstract and from what ADIGRec's paper says
           of it. Taken from there: interests by self-attention as in ComiRec, guidance of all of them, an MLP denoiser,
           three losses with 10 shared negatives, sampling through all T steps with normalisation.
Departs    Ours, where nothing was to be had:
           1. f is one linear layer on [x_t ; vec(g) ; time(t)], as ADIGRec's with guidance G1: without AI2M and L_reg
              that model is this one, to the last bit.
           2. The walk on the sphere is a chain in space brought back to length 1 before every step; items are as long
              as they are (`sphere.name=full`: length 1 everywhere).
           3. Of the extraction modules, the self-attentive one; no rules and no capsules.
           4. Schedule, start vector, positions, negatives and initialisation as in `adigrec.py`.
           5. `covariance` adds ADIGRec's regulariser of the routing (its Table 5); at 0, as here, it is no part of it.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from guiderec.data.batch import Batch
from guiderec.models.base import InterestConditioned, InterestConfig, InterestGuidance, ModelConfig
from guiderec.nn.interests import SelfAttentiveInterests, best_interest, covariance_penalty, index_of_best
from guiderec.rng import Noise


class DimeRecConfig(InterestConfig):
    """Options of DimeRec. Defaults are those of ADIGRec's comparison for YooChoose and KuaiRec."""

    name: Literal["dimerec"] = "dimerec"
    interests: int = Field(4, ge=1)
    """K."""
    covariance: float = Field(0.0, ge=0)
    """Weight of ADIGRec's L_reg; 0 is DimeRec."""


class DimeRec(InterestConditioned):
    """Generates the next item under K interests.

    Initialisation: `InterestConditioned`; the interests as in `nn/interests.py`.
    """

    Config: ClassVar[type[ModelConfig]] = DimeRecConfig

    def __init__(self, config: DimeRecConfig, n_items: int) -> None:
        super().__init__(config, n_items, rows=config.interests, width=config.dim, insertion=False)
        self.extract = SelfAttentiveInterests(config.dim, config.interests)

    def guide(self, items: Tensor, mask: Tensor) -> InterestGuidance:
        """GEM: the interests are the guidance."""
        interests, routing = self.extract(items, items + self.positions(mask), mask)
        return InterestGuidance(interests, interests, routing)

    def loss(self, batch: Batch, noise: Noise) -> dict[str, Tensor]:
        """L_gem + lambda L_recon + mu L_ssm, and the parts, unweighted."""
        config, look = self.config, self.embed(batch, noise)
        guidance = self.guide(look.items, look.mask)
        nearest = index_of_best(guidance.rows, look.target)
        x0_hat, drawn = self.reconstruct(guidance, look.target, batch.key, noise, nearest)
        reconstruction = F.mse_loss(x0_hat, drawn.x0)
        retrieval = self.against_negatives(x0_hat, look)
        interest = self.against_negatives(best_interest(guidance.rows, look.target), look)
        loss = config.reconstruction * reconstruction + config.retrieval * retrieval + interest
        terms = {"reconstruction": reconstruction, "retrieval": retrieval, "interest": interest}
        if config.covariance > 0:
            assert guidance.routing is not None
            terms["covariance"] = covariance_penalty(guidance.routing, look.mask)
            loss = loss + config.covariance * terms["covariance"]
        return {"loss": loss, **terms}
