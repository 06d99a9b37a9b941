"""The position-wise network of a transformer block."""

from __future__ import annotations

from torch import Tensor, nn

from guiderec.nn.dropout import Dropout


class FeedForward(nn.Module):
    """`W_2 gelu(W_1 x)`, the same for every position: (..., D) -> (..., D)."""

    def __init__(self, dim: int, hidden: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.expand = nn.Linear(dim, hidden)
        self.contract = nn.Linear(hidden, dim)
        self.activation = nn.GELU()
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., D)."""
        return self.contract(self.dropout(self.activation(self.expand(x))))
