"""ADIGRec: Adaptive User Dynamic Interest Guidance for Generative Sequential Recommendation (SIGIR 2025,
doi 10.1145/3726302.3729888).

Idea       The next item's embedding is generated under k interests of the history, each joined with the state of a
           transformer (DIFGC), and the guidance is inserted into the noisy embedding by attention (AI2M). The
           covariance of the routing weights is regularised, so that the interests do not collapse into one.
Notation   paper -> code:  E_S -> items (B, L, D);  P -> positions;  W -> routing (B, L, K);  G1 -> interests (B, K, D);
           G2 -> dynamic.last(...) (B, D);  G -> rows (B, M, W);  e_t -> x_t;  f -> denoiser;  lambda_1, lambda_2 ->
           reconstruction, retrieval;  L_reg -> covariance;  k -> guidance.interests
Order      guide() Sec. 4.1 -> nn/insertion.py AI2M -> loss() Alg. 1 -> user_vectors() Alg. 2 (`models/base.py`)
Facts      The paper's code is not public.
Departs    1. f reads vec(G), all rows at once, since training could select a row by the target and inference could
              not. `form="per_interest"` predicts under each row, and ranks by the best.
           2. The chain's state has D entries: e_t joined with a (2D) is the input of f and not the next state.
           3. The posterior is that of DDPM. Eq. 16 and Eq. 5 as printed are not Bayes' rule: sqrt(alpha_{t-1}) for
              sqrt(alpha_bar_{t-1}), and 1 - alpha_bar_t for 1 - alpha_bar_{t-1}.
           4. L_ssm has x0_hat in its denominator too; as printed, with g, it has no lower bound. f is given what AI2M
              returns; Eq. 17 passes the noisy vector.
           5. x_t has length 1 as in Algorithms 1 and 2, and nothing else has (`sphere`).
           6. L_reg as printed, over the items of a history alone: padding is not a position.
           7. Schedule: not given; the one of DreamRec that reaches the same alpha_bar with any T, since T is searched.
           8. Histories are padded on the left; positions count from the oldest item. An empty history is one learned
              start vector (D,), where DreamRec's code has its padding vector.
           9. Negatives avoid the items of the row, not of the whole sequence.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn import functional as F

from guiderec.config import Part
from guiderec.data.batch import Batch
from guiderec.models.base import InterestConditioned, InterestConfig, InterestGuidance, ModelConfig, require_divisors
from guiderec.nn.attention import causal_mask
from guiderec.nn.interests import SelfAttentiveInterests, best_interest, covariance_penalty, index_of_best
from guiderec.nn.transformer import TransformerEncoder
from guiderec.rng import Noise

Combine = Literal["concat", "add", "multiply", "concat_k"]
"""How G1 (K, D) and G2 (D,) become G: joined on the feature axis (K, 2D), added or multiplied to each interest (K, D),
or as one more row (K + 1, D)."""


class Interests(Part):
    """G = G1: the interests alone. The rows "G1" of Table 3."""

    name: Literal["g1"] = "g1"
    interests: int = Field(4, ge=1)
    """k."""

    def shape(self, dim: int) -> tuple[int, int]:
        """Rows and width of G."""
        return self.interests, dim


class Dynamic(Part):
    """G = G2: the last state of a transformer alone, one row. The row "G2" of Table 3."""

    name: Literal["g2"] = "g2"
    layers: int = Field(2, ge=1)
    """Transformer blocks."""
    heads: int = Field(2, ge=1)
    """Attention heads; divides dim. Not given in the paper."""
    expansion: int = Field(1, ge=1)
    """Hidden width of the position-wise networks in multiples of dim. Not given in the paper."""
    dropout: float = Field(0.1, ge=0, lt=1)
    """Dropout of the input, attention weights and branches of the transformer. Not given in the paper."""

    def shape(self, dim: int) -> tuple[int, int]:
        """Rows and width of G."""
        return 1, dim


class Both(Part):
    """G from G1 and G2 (DIFGC)."""

    name: Literal["both"] = "both"
    combine: Combine = "concat"
    """How the two are combined; the other three are those of Table 4."""
    interests: int = Field(4, ge=1)
    """k."""
    layers: int = Field(2, ge=1)
    """Transformer blocks."""
    heads: int = Field(2, ge=1)
    """Attention heads; divides dim. Not given in the paper."""
    expansion: int = Field(1, ge=1)
    """Hidden width of the position-wise networks in multiples of dim. Not given in the paper."""
    dropout: float = Field(0.1, ge=0, lt=1)
    """Dropout of the input, attention weights and branches of the transformer. Not given in the paper."""

    def shape(self, dim: int) -> tuple[int, int]:
        """Rows and width of G."""
        return self.interests + (self.combine == "concat_k"), dim * (1 + (self.combine == "concat"))


class ADIGRecConfig(InterestConfig):
    """Options of ADIGRec. Defaults are the paper's for YooChoose and KuaiRec."""

    name: Literal["adigrec"] = "adigrec"
    guidance: Annotated[Interests | Dynamic | Both, Field(discriminator="name")] = Both()
    """Where G comes from."""
    insertion: bool = True
    """True: AI2M, the guidance is also inserted into x_t by attention. False is the ablation without it."""
    covariance: float = Field(1.0, ge=0)
    """Weight of L_reg; printed without one. 0 is the ablation without it, and all that `guidance.name=g2` allows."""

    @model_validator(mode="after")
    def _parts_fit(self) -> ADIGRecConfig:
        guidance = self.guidance
        if not isinstance(guidance, Interests):
            require_divisors(self.dim, {"guidance.heads": guidance.heads})
        if isinstance(guidance, Dynamic) and self.covariance > 0:
            raise ValueError("guidance 'g2' has no interests whose routing could be regularised: set covariance = 0")
        if isinstance(guidance, Both) and guidance.combine == "concat_k" and self.form == "per_interest":
            raise ValueError("form 'per_interest' needs one row of G for each interest, 'concat_k' has one more")
        return self


class ADIGRec(InterestConditioned):
    """Generates the next item under k interests and the state of a transformer.

    Initialisation: `InterestConditioned`; G1 as in `nn/interests.py`, G2 as in `nn/transformer.py`.
    """

    Config: ClassVar[type[ModelConfig]] = ADIGRecConfig

    def __init__(self, config: ADIGRecConfig, n_items: int) -> None:
        part = config.guidance
        rows, width = part.shape(config.dim)
        super().__init__(config, n_items, rows=rows, width=width, insertion=config.insertion)
        self.extract = None if isinstance(part, Dynamic) else SelfAttentiveInterests(config.dim, part.interests)
        self.dynamic = (
            None
            if isinstance(part, Interests)
            else TransformerEncoder(
                config.dim,
                layers=part.layers,
                heads=part.heads,
                hidden=part.expansion * config.dim,
                dropout=part.dropout,
            )
        )

    def guide(self, items: Tensor, mask: Tensor) -> InterestGuidance:
        """G1 = W^T E_S, G2 the newest state of the transformer, and G of both (Sec. 4.1)."""
        positioned = items + self.positions(mask)
        dynamic = None if self.dynamic is None else self.dynamic.last(positioned, causal_mask(mask))[:, None]
        if self.extract is None:
            assert dynamic is not None
            return InterestGuidance(dynamic)
        interests, routing = self.extract(items, positioned, mask)
        part = self.config.guidance
        rows = interests if dynamic is None else _COMBINED[part.combine](interests, dynamic)
        return InterestGuidance(rows, interests, routing)

    def loss(self, batch: Batch, noise: Noise) -> dict[str, Tensor]:
        """L_G1 + lambda_1 L_simple + lambda_2 L_ssm + L_reg (Alg. 1), and its parts, unweighted."""
        config, look = self.config, self.embed(batch, noise)
        guidance = self.guide(look.items, look.mask)
        interests = guidance.interests
        row = None if interests is None else index_of_best(interests, look.target)
        x0_hat, drawn = self.reconstruct(guidance, look.target, batch.key, noise, row)
        terms = {
            "reconstruction": F.mse_loss(x0_hat, drawn.x0),
            "retrieval": self.against_negatives(x0_hat, look),
        }
        loss = config.reconstruction * terms["reconstruction"] + config.retrieval * terms["retrieval"]
        if interests is not None:
            terms["interest"] = self.against_negatives(best_interest(interests, look.target), look)
            loss = loss + terms["interest"]
        if guidance.routing is not None and config.covariance > 0:
            terms["covariance"] = covariance_penalty(guidance.routing, look.mask)
            loss = loss + config.covariance * terms["covariance"]
        return {"loss": loss, **terms}


_COMBINED: dict[Combine, Callable[[Tensor, Tensor], Tensor]] = {
    "concat": lambda interests, dynamic: torch.cat([interests, dynamic.expand_as(interests)], dim=2),
    "add": lambda interests, dynamic: interests + dynamic,
    "multiply": lambda interests, dynamic: interests * dynamic,
    "concat_k": lambda interests, dynamic: torch.cat([interests, dynamic], dim=1),
}
"""G1 (B, K, D) and G2 (B, 1, D) -> G (B, M, W)."""
