"""DuoRec: Contrastive Learning for Representation Degeneration Problem in Sequential Recommendation (Qiu, Huang, Yin
and Wang, WSDM 2022, arXiv:2110.05730).

Idea       SASRec, regularised: the states of two sequences that were followed by the same item must know each other
           among those of the batch, which spreads the states, and with them the items, over the space. The encoder is
           what changes the sequences: each is encoded under dropout of its own.
Notation   paper -> code:  s -> history (B, L);  s_s -> same_target() (B, L);  h' -> a second pass of the history;
           h'_s -> state of s_s;  L_Rec -> recommendation;  L_Reg -> contrast;  lambda -> dropout_weight, target_weight;
           tau -> temperature
Order      prepare() -> same_target() -> contrast() -> recommendation() in `base.py` -> loss()
Facts      Authors' public code (RuihongQiu/DuoRec: duorec.py, sequential_dataloader.py, seq.yaml).
Rows       The paper learns the target of every prefix: train with `training_rows = "every_prefix"` or as sessions do.
Departs    1. Sequences with the same target are all positions of the training sequences that have a history, also where
              the protocol trains on the last item of each alone. In the public code they are the training rows, which
              are these in its protocol.
           2. They are found anew for each training; the public code keeps its index in a file, which outlives the data.
           3. A history without an item takes no part in the contrast, and is nobody's positive.
           4. Padding is no class of L_Rec.
           5. Dropout also of the hidden units of the position-wise networks; LayerNorm's epsilon is torch's.
Noted      Other rows of the batch with the same target are negatives of each other, in the paper and its code, although
           the same loss draws such rows together: `same_target_negatives = "left_out"` does not count them.
           A target with one training row has itself for a positive, apart from dropout.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from guiderec.data.batch import Batch
from guiderec.data.sequences import Rows, Sequences
from guiderec.models.base import ModelConfig, NextItemConfig, NextItemRecommender
from guiderec.nn.contrastive import Similarity, info_nce
from guiderec.nn.transformer import Norm
from guiderec.rng import Noise

Pairs = Literal["un", "su", "us", "us_x"]
"""What is contrasted, by the names of the public code. Every state is of a pass of its own, with its own dropout.

    un      the history that L_Rec reads, and the history again
    su      the history that L_Rec reads, and one with the same target
    us      both of these
    us_x    the history again, and one with the same target: the paper
"""


class DuoRecConfig(NextItemConfig):
    """Options of DuoRec. Defaults are those of the authors' code."""

    name: Literal["duorec"] = "duorec"
    dim: int = Field(64, ge=1)
    """Width D of items, positions and states."""
    dropout: float = Field(0.5, ge=0, lt=1)
    """Probability of dropping an entry of the input, of the attention weights and of each residual branch. It is what
    makes two states of one history."""
    norm: Norm = "post"
    """Layer norm after each residual sum, or before each part of a block."""
    predict: Literal["every_position", "last_position"] = "last_position"
    """Learn the item after every position of a row, or the row's target alone. The contrast is at the newest item."""
    pairs: Pairs = "us_x"
    """un: two passes of a history. su: the pass of L_Rec and a history with the same target. us: both. us_x: a second
    pass and a history with the same target, as in the paper."""
    dropout_weight: float = Field(0.1, ge=0)
    """lambda (`lmd`) of two passes of one history: un and us."""
    target_weight: float = Field(0.1, ge=0)
    """lambda (`lmd_sem`) of histories with the same target: su, us and us_x."""
    same_target_negatives: Literal["kept", "left_out"] = "kept"
    """What becomes of other rows of the batch with the same target: negatives, as published, or nothing."""
    temperature: float = Field(1.0, gt=0)
    """tau of the contrast."""
    similarity: Similarity = "dot"
    """What the contrast compares states by."""


class DuoRec(NextItemRecommender):
    """A causal transformer over the history whose states know those of histories with the same target.

    Inference is SASRec's. The contrast is within the batch; with several processes, within each share. What `prepare`
    finds serves the loss alone, and no training sequence travels with the weights.

    Initialisation: everything N(0, 0.02^2), biases 0, norms the identity.
    """

    Config: ClassVar[type[ModelConfig]] = DuoRecConfig

    events: Tensor
    """(N,) items of all training sequences, one after the other."""
    begin: Tensor
    """(R,) where the sequence of each training row begins in `events`; rows in order of their targets."""
    end: Tensor
    """(R,) where its target is."""
    first: Tensor
    """(I + 2,) rows with target i are first[i] .. first[i + 1] - 1."""
    row_keys: Tensor
    """(R,) keys of the rows, ascending."""
    row_of_key: Tensor
    """(R,) the row of each key."""

    def __init__(self, config: DuoRecConfig, n_items: int) -> None:
        super().__init__(config, n_items)
        for name in ("events", "begin", "end", "row_keys", "row_of_key"):
            self.register_buffer(name, torch.zeros(0, dtype=torch.int64), persistent=False)
        self.register_buffer("first", torch.zeros(n_items + 2, dtype=torch.int64), persistent=False)

    def prepare(self, train: Sequences) -> None:
        """Order all positions of the training sequences that have a history by their items."""
        rows = Rows.every_prefix(train)
        order = np.argsort(rows.targets(), kind="stable")
        rows = rows.take(order)
        keys = rows.keys()
        begin = train.offsets[rows.sequence]
        found = {
            "events": train.items,
            "begin": begin,
            "end": begin + rows.position,
            "first": np.searchsorted(rows.targets(), np.arange(self.n_items + 2)),
            "row_keys": np.sort(keys),
            "row_of_key": np.argsort(keys, kind="stable"),
        }
        for name, values in found.items():
            setattr(self, name, torch.from_numpy(np.ascontiguousarray(values)).to(self.first))

    # -------------------------------------------------------------------------------------------- loss

    def loss(self, batch: Batch, noise: Noise) -> dict[str, Tensor]:
        """L_Rec + L_Reg, and their parts without weights: of two passes, and of histories with the same target."""
        config: DuoRecConfig = self.config
        recommendation, newest = self.recommendation(batch, noise)
        dropout, target = self.contrast(batch, newest, noise)
        return {
            "loss": recommendation + config.dropout_weight * dropout + config.target_weight * target,
            "recommendation": recommendation,
            "dropout_contrast": dropout,
            "target_contrast": target,
        }

    def contrast(self, batch: Batch, newest: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
        """() of two passes and () of histories with the same target, 0 where `pairs` has none.

        `newest` (B, D) are the states of L_Rec's pass. Rows without an item take no part.
        """
        config: DuoRecConfig = self.config
        present = batch.mask.any(dim=1)
        batch, state = batch.rows(present), newest[present]
        dropout = target = newest.new_zeros(())
        if config.pairs != "su":
            again = self.newest_state(batch.history)
            if config.pairs == "us_x":
                state = again
            else:
                dropout = self._info_nce(state, again, batch.target)
        if config.pairs != "un":
            akin = self.newest_state(self.same_target(batch, noise))
            target = self._info_nce(state, akin, batch.target)
        return dropout, target

    def _info_nce(self, first: Tensor, second: Tensor, target: Tensor) -> Tensor:
        config: DuoRecConfig = self.config
        alike = target if config.same_target_negatives == "left_out" else None
        return info_nce(first, second, temperature=config.temperature, similarity=config.similarity, alike=alike)

    def same_target(self, batch: Batch, noise: Noise) -> Tensor:
        """(B, L) for each row the history of another training row with its target, all of them alike.

        A row that is the only one with its target has its own history.
        """
        length = self.config.max_length
        start, stop = self.first[batch.target], self.first[batch.target + 1]
        own, known = self._row(batch.key)
        known = known & (own >= start) & (own < stop)
        others = stop - start - known.long()
        row = start + noise.bits(batch.key, 1, "same target")[:, 0] % others.clamp(min=1)
        row = row + (known & (row >= own)).long()  # steps over the row itself
        row = torch.where(others > 0, row, 0)  # any row, whose history is not taken
        itself = F.pad(batch.history, (length, 0))[:, -length:]
        if not len(self.end):
            return itself
        place = self.end[row][:, None] + torch.arange(-length, 0, device=row.device)
        history = self.events[place.clamp(min=0)] * (place >= self.begin[row][:, None])
        return torch.where((others > 0)[:, None], history, itself)

    def _row(self, key: Tensor) -> tuple[Tensor, Tensor]:
        """(B,) the training row of each key, and whether there is one."""
        if not len(self.row_keys):
            return torch.zeros_like(key), torch.zeros_like(key, dtype=torch.bool)
        place = torch.searchsorted(self.row_keys, key.contiguous()).clamp(max=len(self.row_keys) - 1)
        return self.row_of_key[place], self.row_keys[place] == key
