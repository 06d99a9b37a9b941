"""A transformer over the history as denoiser: the noised target is mixed into every position (DiffuRec, Sec. 4.2).

    z_i     = e_i (1 + c) + lambda_i * (x_t + time(t)),    lambda_i ~ N(delta, delta), for every position and column
    x0_hat  = LN(Dropout(Blocks(z)_newest))

c is what the denoiser is conditioned on besides the history: nothing in DiffuRec, a guidance vector in AlignDiff.
Nothing here is affine in x_t, so chains are stepped; what does not depend on the step is computed once, in `on`.

Departs    from the public code of DiffuRec, which that of AlignDiff repeats:
           1. The state is dropped out once, after the last block; there after every block as well.
           2. GELU is exact, there in its tanh form. Layer norms have torch's epsilon of 1e-5, there 1e-12.
           3. Biases of feed-forward layers and attention outputs begin at 0, there as torch's layers do.
           4. Frequencies of the time embedding are those of `nn/time.py`.

Shapes   B batch, L history length, D width; x_t, x0_hat (B, D); t (B,); conditions (B, D).
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from guiderec.nn.dropout import Dropout
from guiderec.nn.time import TimeEmbedding
from guiderec.nn.transformer import PreNormBlock
from guiderec.rng import Noise, subkeys


class SequenceDenoiser(nn.Module):
    """The network; `on` binds it to histories.

    The bound denoiser does not apply the final norm, since AlignDiff normalises after guidance: whoever asks for
    predictions calls `norm`.

    Initialisation: feed-forward layers and attention outputs Xavier-normal, biases 0, the rest as torch does.
    """

    def __init__(
        self, dim: int, *, layers: int, heads: int, dropout: float, total_steps: int, mixing: float, expansion: int = 4
    ) -> None:
        super().__init__()
        self.total_steps = total_steps
        self.mixing = mixing
        self.time = TimeEmbedding(dim, expansion=4, activation=F.silu)
        self.blocks = nn.ModuleList(PreNormBlock(dim, heads, expansion * dim, dropout) for _ in range(layers))
        self.dropout = Dropout(dropout)
        self.norm = nn.LayerNorm(dim)
        for name, layer in self.blocks.named_modules():
            if isinstance(layer, nn.Linear) and not name.endswith("query_key_value"):
                nn.init.xavier_normal_(layer.weight)
                nn.init.zeros_(layer.bias)

    def on(self, items: Tensor, visible: Tensor, key: Tensor, noise: Noise) -> BoundSequenceDenoiser:
        """The denoiser for histories (B, L, D), newest last, with `visible` as in `nn/attention.py`."""
        return BoundSequenceDenoiser(self, items, visible, key, noise)

    def newest(self, z: Tensor, visible: Tensor) -> Tensor:
        """(B, L, D) -> (B, D), before the final norm. The last block computes only what is asked for."""
        for block in self.blocks[:-1]:
            z = block(z, visible)
        last = cast(PreNormBlock, self.blocks[-1])
        newest: Tensor = self.dropout(last.last(z, visible))
        return newest

    def time_term(self, t: Tensor) -> Tensor:
        """time(t) (B, D), computed once per distinct step; steps count as if there were 1000 of them."""
        distinct, place = torch.unique(t, return_inverse=True)
        term: Tensor = self.time(distinct.double() * (1000.0 / self.total_steps)).index_select(0, place)
        return term


class BoundSequenceDenoiser:
    """D(x_t, t, c) for the histories of one batch, before the final norm."""

    def __init__(self, network: SequenceDenoiser, items: Tensor, visible: Tensor, key: Tensor, noise: Noise) -> None:
        self.network = network
        self.items = items
        self.visible = visible
        self.key = key
        self.noise = noise
        self.newest_first = torch.arange(items.shape[1] - 1, -1, -1, device=items.device)
        self._gated: list[tuple[Tensor, Tensor]] = []
        self._repeated: dict[int, Tensor] = {}

    def __call__(self, x_t: Tensor, t: Tensor, condition: Tensor | None = None) -> Tensor:
        """(B, D) x_t at steps t (B,), under the condition (B, D) or none."""
        return self.network.newest(self._history(condition) + self._mixed(x_t, t), self.visible)

    def under_each(self, x_t: Tensor, t: Tensor, conditions: list[Tensor]) -> list[Tensor]:
        """The predictions (B, D) for the same x_t, t and lambda under several conditions, as one batch."""
        n = len(conditions)
        mixed = self._mixed(x_t, t)
        z = torch.cat([self._history(condition) + mixed for condition in conditions])
        if n not in self._repeated:  # a chain asks for as many conditions at every step
            self._repeated[n] = self.visible.repeat(n, 1, 1, 1)
        return list(self.network.newest(z, self._repeated[n]).chunk(n))

    def _mixed(self, x_t: Tensor, t: Tensor) -> Tensor:
        """Lambda * (x_t + time(t)): (B, L, D)."""
        return self._lambda(t, x_t.dtype) * (x_t + self.network.time_term(t))[:, None]

    def _lambda(self, t: Tensor, dtype: torch.dtype) -> Tensor:
        """(B, L, D) from N(mixing, mixing^2), named by row, step and position from the newest."""
        mixing = self.network.mixing
        batch, length, dim = self.items.shape
        keys = subkeys(subkeys(self.key, t)[:, None], self.newest_first)
        drawn = self.noise.normal(keys.flatten(), dim, "lambda", dtype).view(batch, length, dim)
        return mixing + mixing * drawn

    def _history(self, condition: Tensor | None) -> Tensor:
        """E (1 + c): (B, L, D); remembered for each condition, since a chain asks for the same ones at every step."""
        if condition is None:
            return self.items
        for known, gated in self._gated:
            if known is condition:
                return gated
        gated = self.items * (1 + condition[:, None])
        self._gated.append((condition, gated))
        return gated
