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

from pydantic import Field, field_validator
from torch import Tensor
from torch.nn import functional as F

from guiderec.data.batch import Batch
from guiderec.diffusion.generation import Generation
from guiderec.diffusion.interests import Form
from guiderec.diffusion.schedule import Exponential, ScheduleConfig
from guiderec.diffusion.sphere import SphereConfig, StatesOnSphere
from guiderec.models.base import InterestConditioned, InterestGuidance, ModelConfig
from guiderec.nn.interests import SelfAttentiveInterests, best_interest, covariance_penalty, index_of_best
from guiderec.rng import Noise


class DimeRecConfig(ModelConfig):
    """Options of DimeRec. Defaults are those of ADIGRec's comparison for YooChoose and KuaiRec."""

    name: Literal["dimerec"] = "dimerec"
    dim: int = Field(64, ge=2, multiple_of=2)
    """D, width of items, interests and states."""
    max_length: int = Field(10, ge=1)
    """L, the longest history. Of a longer one the newest items count."""
    init_std: float = Field(1.0, gt=0)
    """Deviation of the initial items and positions. At 1 an item is as long as the noise, sqrt(D)."""
    interests: int = Field(4, ge=1)
    """K."""
    form: Form = "joined"
    """What f reads of the interests: all of them, or one for each of several predictions."""
    sphere: SphereConfig = StatesOnSphere()
    """What has length 1: x_t ("paper", as ADIGRec prints it), items and predictions too ("full"), nothing ("off")."""
    noise_scale: Literal[1, "1/sqrt(d)"] = 1
    """Deviation of the noise: literally 1, where its length is sqrt(D); or its expected length is 1, as an item's under
    `sphere.name=full`."""
    negatives: int = Field(10, ge=1)
    """Negatives per row, drawn uniformly, which both softmax losses share."""
    reconstruction: float = Field(0.1, ge=0)
    """Weight of the squared error."""
    retrieval: float = Field(1.0, ge=0)
    """Weight of the sampled softmax of x0_hat. ADIGRec's comparison has 0.01 for Zhihu."""
    covariance: float = Field(0.0, ge=0)
    """Weight of ADIGRec's L_reg; 0 is DimeRec."""
    schedule: ScheduleConfig = Exponential(steps=200)
    """Noise schedule and number of diffusion steps T; this one ends near the same alpha_bar for every T."""
    generation: Generation = Generation(sampler="ddpm", steps=None, start="noise")
    """Sampler and its steps. There is no closed form of the mean over the noise, so start must be "noise"."""

    @field_validator("generation")
    @classmethod
    def _starts_from_noise(cls, generation: Generation) -> Generation:
        if generation.start != "noise":
            raise ValueError('start must be "noise": the sphere is not affine, the mean is not known')
        return generation


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
