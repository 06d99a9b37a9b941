"""Energy functions over vectors: low where vectors are like real targets. Their gradient S corrects predictions.

    S(x) = grad_x E(x)        x <- x - Omega S(x)

Convention   S points up the energy, so a correction goes down it. An energy is known up to a constant, and no network
             here has a bias at its output. Activations are smooth: what trains S is a gradient of a gradient.

Legend   x0_hat the prediction, x0 the target, y_s the target noised at the step of its row with weaker noise:
         y_s = sqrt(alpha_bar'_s) x0 + sigma_s eps, sigma_s^2 = 1 - alpha_bar'_s, beta' = gamma beta.
         eta weighs the objective, Omega is the size of a correction step, K their number.

The parts `ScoreMatching`, `GradientPenalty` and `Adversarial` train an energy, each in its own way; `NoEnergy` is none.

Shapes   x, x0, x0_hat, S (B, D); energies (B,); t (B,); key (B,). Every row by itself.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from guiderec.config import Part
from guiderec.diffusion.guidance import Denoiser
from guiderec.diffusion.objectives import Draw
from guiderec.diffusion.process import q_sample
from guiderec.diffusion.schedule import Schedule
from guiderec.nn.dropout import Dropout
from guiderec.nn.transformer import PreNormBlock
from guiderec.rng import Noise

Potential = Callable[[Tensor], Tensor]
"""x (B, D) -> energies (B,), each of its own row alone."""


def gradient(potential: Potential, x: Tensor) -> Tensor:
    """grad_x E(x), (B, D), in the dtype of x, by automatic differentiation.

    Can itself be differentiated where the caller records gradients. Where it does not, also in inference mode, which is
    left for the moment, nothing of the graph outlives the call. Autocast is off: half precision leaves two digits of a
    gradient of a gradient, and the network is a small part of all work.
    """
    recording = torch.is_grad_enabled()
    with torch.inference_mode(False), torch.enable_grad(), torch.autocast(x.device.type, enabled=False):
        # Inference tensors cannot enter a graph, but a clone made outside of inference mode is an ordinary tensor.
        point = x if recording and x.requires_grad else x.detach().clone().requires_grad_()
        (slope,) = torch.autograd.grad(potential(point).sum(), point, create_graph=recording)
    return slope


# ---------------------------------------------------------------------------------------------------- the networks


class MLPEnergy(nn.Module):
    """Linear(D, 2D), ELU, dropout, then Linear(2D, 2D), GELU for every further hidden layer, then Linear(2D, 1).

    Initialisation: Xavier-uniform, biases 0.
    """

    def __init__(self, dim: int, *, layers: int, dropout: float) -> None:
        super().__init__()
        width = 2 * dim
        further = [module for _ in range(layers - 1) for module in (nn.Linear(width, width), nn.GELU())]
        self.hidden = nn.Sequential(nn.Linear(dim, width), nn.ELU(), Dropout(dropout), *further)
        self.output = nn.Linear(width, 1, bias=False)
        _xavier(self)

    def forward(self, x: Tensor) -> Tensor:
        """(B, D) -> (B,)."""
        return self.output(self.hidden(x.to(self.output.weight.dtype)))[:, 0]


class TransformerEnergy(nn.Module):
    """The vector cut into `tokens` pieces of D / tokens numbers, pre-norm blocks over them, the mean, Linear(D, 1).

    With the whole vector as one token, attention would be a linear map, and queries and keys idle.

    Initialisation: places N(0, 0.02^2), the rest Xavier-uniform with biases 0.
    """

    def __init__(self, dim: int, *, layers: int, tokens: int, heads: int, dropout: float) -> None:
        super().__init__()
        if dim % tokens:
            raise ValueError(f"a width of {dim} cannot be cut into {tokens} tokens.")
        self.tokens = tokens
        self.entry = nn.Linear(dim // tokens, dim)
        self.places = nn.Parameter(0.02 * torch.randn(tokens, dim))
        self.blocks = nn.ModuleList(PreNormBlock(dim, heads, 2 * dim, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(dim, bias=False)  # a bias here would add a constant to the energy
        self.output = nn.Linear(dim, 1, bias=False)
        _xavier(self)

    def forward(self, x: Tensor) -> Tensor:
        """(B, D) -> (B,)."""
        pieces = x.to(self.output.weight.dtype).view(len(x), self.tokens, -1)
        states = self.entry(pieces) + self.places
        everything = torch.ones(1, 1, self.tokens, self.tokens, dtype=torch.bool, device=x.device)
        with sdpa_kernel(SDPBackend.MATH):  # the fused kernels have no second derivative
            for block in self.blocks:
                states = block(states, everything)
        return self.output(self.norm(states.mean(dim=1)))[:, 0]


def _xavier(module: nn.Module) -> None:
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


class MLPNetwork(Part):
    """A multilayer perceptron, see `MLPEnergy`."""

    name: Literal["mlp"] = "mlp"
    layers: int = Field(3, ge=1)
    """Hidden layers."""
    dropout: float = Field(0.3, ge=0, lt=1)
    """Dropout after the first hidden layer."""

    def build(self, dim: int) -> nn.Module:
        """The network for vectors of width D."""
        return MLPEnergy(dim, layers=self.layers, dropout=self.dropout)


class TransformerNetwork(Part):
    """A transformer over pieces of the vector, see `TransformerEnergy`."""

    name: Literal["transformer"] = "transformer"
    layers: int = Field(1, ge=1)
    """Blocks."""
    tokens: int = Field(4, ge=2)
    """Pieces that the vector is cut into; divides its width."""
    heads: int = Field(4, ge=1)
    """Attention heads; divides the width."""
    dropout: float = Field(0.1, ge=0, lt=1)
    """Dropout of attention weights, feed-forward layers and residual branches."""

    def build(self, dim: int) -> nn.Module:
        """The network for vectors of width D."""
        return TransformerEnergy(dim, layers=self.layers, tokens=self.tokens, heads=self.heads, dropout=self.dropout)


EnergyNetwork = Annotated[MLPNetwork | TransformerNetwork, Field(discriminator="name")]

# ---------------------------------------------------------------------------------------------------- correction


class Correction(Part):
    """Predictions moved down the energy: K times x <- x - Omega S(x)."""

    step_size: float = Field(0.1, ge=0)
    """Omega. 0.1 as in the authors' code; the paper's text calls 0.01 best, and 0.1 to 1 its range."""
    steps: int = Field(1, ge=0)
    """K; 0 corrects nothing."""
    where: Literal["every_step", "end"] = "every_step"
    """every_step: every prediction of the chain, before it enters the posterior. end: the last alone."""

    def __call__(self, score: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """(B, D) -> (B, D) down the field `score`, S (B, D) -> (B, D)."""
        if self.step_size > 0:
            for _ in range(self.steps):
                x = x - self.step_size * score(x)
        return x


# ---------------------------------------------------------------------------------------------------- objectives


class _Trained(Part):
    """What every way to train an energy has."""

    weight: float = Field(0.01, ge=0)
    """eta, relative to the reconstruction loss. Not how to be without an energy: 0 corrects along an untrained one."""
    gamma: float = Field(0.05, gt=0, le=1)
    """gamma (nu in the experiments): the noise of y_s, as a fraction of every beta of the process."""
    network: EnergyNetwork = MLPNetwork()
    """The energy."""
    correction: Correction = Correction()
    """How predictions are corrected at inference."""

    def build(self, dim: int) -> nn.Module:
        """The energy of vectors of width D."""
        return self.network.build(dim)

    def noised(self, drawn: Draw, process: Schedule, noise: Noise, key: Tensor) -> tuple[Draw, Tensor]:
        """Another draw of the same targets at the same steps, with the weaker noise, and sigma_s^2 (B, 1)."""
        x0, t = drawn.x0, drawn.t
        weaker = Schedule(self.gamma * process.betas)
        eps = noise.normal(key, x0.shape[1], "energy/eps", x0.dtype)
        variance = weaker.b(t).square().to(x0.dtype)[:, None]
        return Draw(x0, t, eps, q_sample(x0, t, eps, weaker)), variance

    def potential(self, energy: nn.Module) -> Potential:
        """What corrections go down."""
        return energy

    def score(self, energy: nn.Module) -> Callable[[Tensor], Tensor]:
        """S."""
        return lambda x: gradient(self.potential(energy), x)

    def every_step(self, denoise: Denoiser, energy: nn.Module) -> Denoiser:
        """The denoiser with its predictions corrected, if they are to be at every step."""
        if self.correction.where == "end":
            return denoise
        return lambda x_t, t: self.correction(self.score(energy), denoise(x_t, t))

    def at_end(self, x0_hat: Tensor, energy: nn.Module) -> Tensor:
        """The end of the chain (B, D), corrected if it is to be there alone."""
        return x0_hat if self.correction.where == "every_step" else self.correction(self.score(energy), x0_hat)

    @abstractmethod
    def __call__(
        self, energy: nn.Module, x0_hat: Tensor, drawn: Draw, process: Schedule, noise: Noise, key: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted loss () and its named terms without their weights, averaged over rows."""


class ScoreMatching(_Trained):
    """|| S - target ||^2, summed over columns, with a target in which the paper, its code and reason disagree.

        signfix   S(x0_hat):  (x0_hat - y_s) + sigma^2 S(x0_hat)      so that S = (x0_hat - y_s) / (1 - sigma^2)
        code      S(x0_hat):  (y_s - x0_hat) + sigma^2 S(x0_hat)      so that S = (y_s - x0_hat) / (1 - sigma^2)
        printed   S(x0_hat):  (S(y_s) - S(x0_hat)) / sigma^2 + sigma^2 S(x0_hat)        Eq. 13; S = 0 is a minimum
        dsm       S(y_s):     (y_s - sqrt(alpha_bar'_s) x0) / sigma^2, weighted by sigma^2        (Vincent 2011)

    A correction subtracts S. With `signfix` it moves predictions to the noised targets, with `code` away from them.
    `dsm` never looks at predictions: S becomes minus the score of the distribution of noised targets.

    x0_hat is held fixed in the target, but not as the argument of S: there the gradient reaches the denoiser. S in the
    target is not held fixed either, nor is x0 in y_s.
    """

    name: Literal["score_matching"] = "score_matching"
    target: Literal["signfix", "code", "printed", "dsm"] = "signfix"
    """What S is compared with."""

    def __call__(
        self, energy: nn.Module, x0_hat: Tensor, drawn: Draw, process: Schedule, noise: Noise, key: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """L_DSM times eta, and `{"score_matching"}`."""
        target, variance = self.noised(drawn, process, noise, key)
        error = _RESIDUALS[self.target](self.score(energy), x0_hat, target, variance)
        matching = error.square().sum(dim=1).mean()
        return self.weight * matching, {"score_matching": matching}


def _towards_target(score: Callable[[Tensor], Tensor], x0_hat: Tensor, y: Draw, variance: Tensor) -> Tensor:
    return (1 - variance) * score(x0_hat) - (x0_hat.detach() - y.x_t)


def _away_from_target(score: Callable[[Tensor], Tensor], x0_hat: Tensor, y: Draw, variance: Tensor) -> Tensor:
    return (1 - variance) * score(x0_hat) - (y.x_t - x0_hat.detach())


def _as_printed(score: Callable[[Tensor], Tensor], x0_hat: Tensor, y: Draw, variance: Tensor) -> Tensor:
    here, there = score(x0_hat), score(y.x_t)
    return here - ((there - here) / variance + variance * here)


def _denoising(score: Callable[[Tensor], Tensor], x0_hat: Tensor, y: Draw, variance: Tensor) -> Tensor:
    return variance.sqrt() * score(y.x_t) - y.eps


_RESIDUALS = {"signfix": _towards_target, "code": _away_from_target, "printed": _as_printed, "dsm": _denoising}
"""S minus its target, (B, D); `dsm` times sigma."""


class GradientPenalty(_Trained):
    """E(y_s) - E(x0_hat) + penalty (||S(mix)|| - 1)^2: a critic with slope 1 (Gulrajani et al. 2017), low at targets.

    mix = u y_s + (1 - u) x0_hat, u uniform in [0, 1) for each row. Trains the energy alone: predictions and targets are
    held fixed. The paper compares with "GAD-GP" (Table 7) and does not define it.
    """

    name: Literal["gradient_penalty"] = "gradient_penalty"
    penalty: float = Field(10.0, ge=0)
    """Weight of the penalty within the objective."""

    def __call__(
        self, energy: nn.Module, x0_hat: Tensor, drawn: Draw, process: Schedule, noise: Noise, key: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The objective times eta, and `{"critic", "penalty"}`."""
        real, made = self.noised(drawn, process, noise, key)[0].x_t.detach(), x0_hat.detach()
        u = noise.uniform(key, 1, "energy/mix").to(real.dtype)
        slope = self.score(energy)(u * real + (1 - u) * made).norm(dim=1)
        critic = _precisely(energy, real).mean() - _precisely(energy, made).mean()
        penalty = (slope - 1).square().mean()
        return self.weight * (critic + self.penalty * penalty), {"critic": critic, "penalty": penalty}


class Adversarial(_Trained):
    """A discriminator D = sigmoid(-E) of y_s against x0_hat, and predictions that are to be taken for targets.

        discriminator   -log D(y_s) - log(1 - D(x0_hat)), x0_hat held fixed       trains the energy alone
        generator       -log D(x0_hat), weighted by eta                           trains the denoiser alone
        correction      S = grad -log D

    The paper compares with "GAD-Adv" (Table 7) and does not define it.
    """

    name: Literal["adversarial"] = "adversarial"

    def potential(self, energy: nn.Module) -> Potential:
        """-log D = softplus(E)."""
        return lambda x: F.softplus(energy(x))

    def __call__(
        self, energy: nn.Module, x0_hat: Tensor, drawn: Draw, process: Schedule, noise: Noise, key: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The discriminator's loss plus eta times the generator's, and `{"discriminator", "generator"}`."""
        real = self.noised(drawn, process, noise, key)[0].x_t.detach()
        discriminator = (
            F.softplus(_precisely(energy, real)).mean() + F.softplus(-_precisely(energy, x0_hat.detach())).mean()
        )
        fixed = {name: weight.detach() for name, weight in energy.named_parameters()}
        generator = F.softplus(_precisely(lambda x: torch.func.functional_call(energy, fixed, (x,)), x0_hat)).mean()
        return discriminator + self.weight * generator, {"discriminator": discriminator, "generator": generator}


def _precisely(energy: Potential, x: Tensor) -> Tensor:
    """Energies (B,) without autocast, as `gradient` takes them."""
    with torch.autocast(x.device.type, enabled=False):
        return energy(x)


class NoEnergy(Part):
    """No energy is trained, nothing is corrected: the ablation "w/o EN"."""

    name: Literal["none"] = "none"

    def build(self, dim: int) -> nn.Module:
        """A module without weights."""
        return nn.Identity()

    def every_step(self, denoise: Denoiser, energy: nn.Module) -> Denoiser:
        """The denoiser as it is."""
        return denoise

    def at_end(self, x0_hat: Tensor, energy: nn.Module) -> Tensor:
        """The end of the chain as it is."""
        return x0_hat

    def __call__(
        self, energy: nn.Module, x0_hat: Tensor, drawn: Draw, process: Schedule, noise: Noise, key: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """0, and no terms."""
        return x0_hat.new_zeros(()), {}


EnergyConfig = Annotated[ScoreMatching | GradientPenalty | Adversarial | NoEnergy, Field(discriminator="name")]
