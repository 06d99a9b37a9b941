"""A transformer encoder over padded histories. Shapes: B batch, L history length, D width, H heads."""

from __future__ import annotations

from typing import Literal, cast

from torch import Tensor, nn

from guiderec.nn.attention import SelfAttention
from guiderec.nn.dropout import Dropout
from guiderec.nn.feedforward import FeedForward

Norm = Literal["pre", "post"]
"""Where a block normalises: before each part, leaving the residual stream untouched, or after each sum."""


class _Block(nn.Module):
    """What blocks consist of. `dropout` is also that of attention weights and hidden units, where these are None."""

    def __init__(
        self,
        dim: int,
        heads: int,
        hidden: int,
        dropout: float = 0.0,
        *,
        hidden_dropout: float | None = None,
        attention_dropout: float | None = None,
    ) -> None:
        super().__init__()
        self.attention = SelfAttention(dim, heads, dropout if attention_dropout is None else attention_dropout)
        self.feedforward = FeedForward(dim, hidden, dropout if hidden_dropout is None else hidden_dropout)
        self.attention_norm = nn.LayerNorm(dim)
        self.feedforward_norm = nn.LayerNorm(dim)
        self.dropout = Dropout(dropout)


class PreNormBlock(_Block):
    """`x + attention(norm(x))`, then `x + feedforward(norm(x))` (Xiong et al. 2020)."""

    def forward(self, x: Tensor, visible: Tensor) -> Tensor:
        """(B, L, D) -> (B, L, D), for `visible` (B, 1, L, L), True where a query may look at a key."""
        x = x + self.dropout(self.attention(self.attention_norm(x), visible))
        return x + self.dropout(self.feedforward(self.feedforward_norm(x)))

    def last(self, x: Tensor, visible: Tensor) -> Tensor:
        """The newest position of `forward` alone: (B, D)."""
        newest = x[:, -1] + self.dropout(self.attention.last(self.attention_norm(x), visible))
        return newest + self.dropout(self.feedforward(self.feedforward_norm(newest)))


class PostNormBlock(_Block):
    """`norm(x + attention(x))`, then `norm(x + feedforward(x))` (Vaswani et al. 2017)."""

    def forward(self, x: Tensor, visible: Tensor) -> Tensor:
        """(B, L, D) -> (B, L, D), for `visible` (B, 1, L, L), True where a query may look at a key."""
        x = self.attention_norm(x + self.dropout(self.attention(x, visible)))
        return self.feedforward_norm(x + self.dropout(self.feedforward(x)))

    def last(self, x: Tensor, visible: Tensor) -> Tensor:
        """The newest position of `forward` alone: (B, D)."""
        newest = self.attention_norm(x[:, -1] + self.dropout(self.attention.last(x, visible)))
        return self.feedforward_norm(newest + self.dropout(self.feedforward(newest)))


class TransformerEncoder(nn.Module):
    """A stack of blocks, normalised at both ends where the blocks do not do it themselves.

    `dropout` is that of the input, the residual branches and, unless `attention_dropout` and `hidden_dropout` say
    otherwise, the attention weights and the hidden units of the position-wise networks.

    Weights of all linear maps are drawn from N(0, std^2), biases are 0, norms are the identity.
    """

    def __init__(
        self,
        dim: int,
        *,
        layers: int,
        heads: int,
        hidden: int,
        dropout: float,
        hidden_dropout: float | None = None,
        attention_dropout: float | None = None,
        norm: Norm = "pre",
        std: float = 0.02,
    ) -> None:
        super().__init__()
        block = {"pre": PreNormBlock, "post": PostNormBlock}[norm]
        self.entry = nn.LayerNorm(dim) if norm == "post" else nn.Identity()
        self.input_dropout = Dropout(dropout)
        self.blocks = nn.ModuleList(
            block(dim, heads, hidden, dropout, hidden_dropout=hidden_dropout, attention_dropout=attention_dropout)
            for _ in range(layers)
        )
        self.exit = nn.LayerNorm(dim) if norm == "pre" else nn.Identity()
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=std)
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor, visible: Tensor) -> Tensor:
        """(B, L, D) -> (B, L, D), for `visible` (B, 1, L, L), True where a query may look at a key."""
        x = self.input_dropout(self.entry(x))
        for block in self.blocks:
            x = block(x, visible)
        return self.exit(x)

    def last(self, x: Tensor, visible: Tensor) -> Tensor:
        """The newest position of `forward` alone, (B, D): the last block computes nothing else."""
        x = self.input_dropout(self.entry(x))
        for block in self.blocks[:-1]:
            x = block(x, visible)
        return self.exit(cast(PreNormBlock, self.blocks[-1]).last(x, visible) if self.blocks else x[:, -1])
