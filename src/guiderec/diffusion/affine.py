"""The whole guided DDIM chain of an affine denoiser as one affine map, exact for any number of steps.

Let D(x, t, c) = W x + W_c c + tau_t. Guidance combines two conditions with factors that sum to 1, so the guided
denoiser is W x + W_c g + tau_t with g = (1 + w) toward - w away. A step x_s = keep x_t + move x0_hat is then
(keep + move W) x_t + move (W_c g + tau_t), and the whole chain is

    x0_hat = A x_T + G g + d,    A = P(W),    G = N(W) W_c,    d = sum_j N_j(W) tau_j,    N = sum_j N_j,

with polynomials P and N_j: products of the factors keep + move W. The mean over x_T ~ N(0, I) is G g + d.

How the polynomials are evaluated. Their degree is the number of steps, up to thousands, but their coefficients are
not negative, so with ||W|| <= eta the norms of the terms of P are bounded by the terms of prod (keep + move eta z) at
z = 1. Divided by their sum, these are the distribution of a sum of independent coin tosses: its mean is at most
log kappa = sum log(1 + eta move / keep), and its tail is thinner than a Poisson's. The steps are cut into segments with
log kappa <= 4. In each, 40 terms leave out less than 1e-20 of the sum (Chernoff), and the sum is at most e^4 = 55
times the term of W^0, so that little can cancel. Each polynomial is evaluated with shared powers (Paterson and
Stockmeyer 1973), in some 2 sqrt(40) products at most and not in thousands.

Shapes   W (D, D); W_c (D, C); tau_t, d (D,); A (D, D); G (D, C); g (B, C); x_T, x0_hat (B, D).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from guiderec.diffusion.samplers import Step, ddim_steps
from guiderec.diffusion.schedule import Schedule
from guiderec.errors import TrainingError
from guiderec.rng import Noise

_LOG_KAPPA = 4.0
_DEGREE = 40
_NEGLIGIBLE = 2.0**-64  # of the sum: 11 bits below the rounding of float64, for the amplification


@runtime_checkable
class AffineDenoiser(Protocol):
    """A denoiser that is affine in x_t and in the condition, with matrices that do not depend on t."""

    @property
    def from_state(self) -> nn.Linear:
        """W."""
        ...

    @property
    def from_condition(self) -> nn.Linear:
        """W_c."""
        ...

    def time_term(self, t: Tensor) -> Tensor:
        """tau_t (B, D) for t (B,), without the biases of the two layers above."""
        ...


@dataclass(frozen=True, eq=False)
class AffineChain:
    """x0_hat = A x_T + G g + d, in the dtype of the denoiser's weights."""

    G: Tensor
    """(D, C)."""
    d: Tensor
    """(D,)."""
    _weight: Tensor
    _steps: Sequence[Step]

    @cached_property
    def A(self) -> Tensor:
        """(D, D). Composed when first asked for: the mean does not need it."""
        segments, powers = _prepare(self._weight, self._steps)
        A = powers[0]
        for i, segment in enumerate(segments):
            P = _polynomial(segment.state, powers)
            A = P @ A if i else P
        return A.to(self._weight.dtype)

    def __call__(self, x_T: Tensor, g: Tensor) -> Tensor:
        """x0_hat (B, D) at the end of the chain that starts from x_T (B, D), under the condition g (B, C)."""
        return self.mean(g) + x_T @ self.A.T

    def mean(self, g: Tensor) -> Tensor:
        """The mean of x0_hat over x_T ~ N(0, I), (B, D), under the condition g (B, C)."""
        return torch.addmm(self.d, g, self.G.T)


@torch.no_grad()
def compose(denoiser: AffineDenoiser, schedule: Schedule, steps: int) -> AffineChain:
    """The chain of `ddim(denoiser, ..., schedule, steps)` as one affine map. Done once for given weights.

    Composed in float64, kept in the dtype of the weights. Later changes of the weights do not reach the chain.
    Raises TrainingError for weights that are not finite.
    """
    return compose_steps(denoiser, ddim_steps(schedule, steps))


@torch.no_grad()
def compose_steps(denoiser: AffineDenoiser, steps: Sequence[Step]) -> AffineChain:
    """The mean of a chain of any steps, for example of `ddpm_steps(schedule)`: their noise is left out."""
    weight = denoiser.from_state.weight.detach().clone()
    segments, powers = _prepare(weight, steps)
    t = torch.tensor([step.t for step in steps], device=weight.device)
    tau = torch.split(denoiser.time_term(t).double(), [segment.inputs.shape[1] for segment in segments])
    N, d = torch.zeros_like(powers[0]), torch.zeros_like(powers[0][0])
    for i, segment in enumerate(segments):
        arriving = _polynomial(segment.state, powers) @ N if i else N
        N = arriving + _polynomial(segment.inputs.sum(dim=1), powers)
        d = _carry(segment, powers[1], d, tau[i])
    G = N @ denoiser.from_condition.weight.double()
    return AffineChain(G.to(weight.dtype), d.to(weight.dtype), weight, tuple(steps))


class _Segment(NamedTuple):
    """Coefficients of the polynomials of consecutive steps, in V = W / eta. Column j belongs to step j."""

    state: Tensor
    """(m + 1,) of P: what becomes of the x that enters."""
    inputs: Tensor
    """(m + 1, n) of N_j: what becomes of W_c g + tau_j."""


def _prepare(weight: Tensor, steps: Sequence[Step]) -> tuple[list[_Segment], list[Tensor]]:
    """The segments of a chain, and the powers I, V, ..., V^s (D, D) that their polynomials share."""
    W = weight.double()
    eta = _norm_bound(W)
    segments = [_expand(part, eta, W.device) for part in _cut(steps, eta)]
    degree = max(len(segment.state) - 1 for segment in segments)
    powers = [torch.eye(len(W), dtype=W.dtype, device=W.device), W / eta]
    while len(powers) <= math.isqrt(degree - 1) + 1:  # s = ceil(sqrt(degree)) makes the fewest products
        powers.append(powers[-1] @ powers[1])
    return segments, powers


def _cut(steps: Sequence[Step], eta: float) -> Iterator[list[Step]]:
    """Runs of consecutive steps with sum log(1 + eta move / keep) <= 4, or of one step where that alone is more."""
    run: list[Step] = []
    total = 0.0
    for step in steps:
        # The last step, keep = 0, is a product with W: it adds a factor z, which amplifies nothing.
        log_kappa = math.log1p(eta * step.move / step.keep) if step.keep > 0 else 0.0
        if run and total + log_kappa > _LOG_KAPPA:
            yield run
            run, total = [], 0.0
        run.append(step)
        total += log_kappa
    yield run


def _expand(run: Sequence[Step], eta: float, device: torch.device) -> _Segment:
    """The polynomials of a run of steps, without the terms that cannot be seen in float64."""
    degree = min(len(run), _DEGREE)
    rest = np.zeros(degree + 1)  # prod (keep + move eta z) over the steps still to come
    rest[0] = 1.0
    inputs = np.empty((degree + 1, len(run)))
    for j, step in reversed(list(enumerate(run))):
        inputs[:, j] = step.move * rest
        raised = np.concatenate([[0.0], rest[:-1]])
        rest = step.keep * rest + step.move * eta * raised
    size = max(_significant(rest), _significant(inputs.sum(axis=1)), 2)
    return _Segment(torch.from_numpy(rest[:size]).to(device), torch.from_numpy(inputs[:size]).to(device))


def _significant(terms: NDArray[np.float64]) -> int:
    """How many leading terms leave out less than a negligible share of their sum."""
    left_out = np.cumsum(terms[::-1])[::-1]
    return int((left_out > _NEGLIGIBLE * left_out[0]).sum())


def _polynomial(coefficients: Tensor, powers: Sequence[Tensor]) -> Tensor:
    """sum_i coefficients[i] V^i (D, D), by Horner's rule in V^s (Paterson and Stockmeyer 1973)."""
    s, degree = len(powers) - 1, len(coefficients) - 1
    starts = range(0, degree, s)
    total = torch.zeros_like(powers[0])
    for start in reversed(starts):
        last = start == starts[-1]
        block = coefficients[start:] if last else coefficients[start : start + s]
        if not last:
            total = total @ powers[s]
        for coefficient, power in zip(block, powers, strict=False):
            total = torch.addcmul(total, coefficient, power)
    return total


def _carry(segment: _Segment, V: Tensor, d: Tensor, tau: Tensor) -> Tensor:
    """P(W) d + sum_j N_j(W) tau_j, (D,), by Horner's rule on vectors; tau (n, D)."""
    terms = segment.state[:, None] * d + segment.inputs @ tau  # (m + 1, D)
    total = torch.zeros_like(d)
    for term in terms.flip(0):
        total = V @ total + term
    return total


def _norm_bound(W: Tensor, *, powers: int = 20, probes: int = 10) -> float:
    """An upper bound of ||W||_2, at most some 10 percent too large; not one with probability 10^-10.

    Lemma 4.1 of Halko, Martinsson and Tropp 2011: ||B|| <= 10 sqrt(2/pi) max ||B omega||, here for
    B = (W^T W)^20, so that the factor becomes its 40th root. The probes are fixed, so the bound is too.
    """
    omega = Noise(0).normal(torch.arange(probes, device=W.device), W.shape[1], "norm bound", W.dtype).T  # (D, probes)
    log_scale = 0.0
    for _ in range(powers):
        omega = W.T @ (W @ omega)
        largest = float(omega.norm(dim=0).max())
        if not math.isfinite(largest):
            raise TrainingError("The weights of the denoiser are not finite, so no chain can be composed from them.")
        if largest == 0:
            return 1.0  # W = 0: every bound holds
        omega = omega / largest
        log_scale += math.log(largest)
    return math.exp((math.log(10 * math.sqrt(2 / math.pi)) + log_scale) / (2 * powers))
