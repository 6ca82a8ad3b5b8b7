"""Sequences without their padding: rows of a batch, and back."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

_PACKING = "_packing"


@dataclass(frozen=True)
class Packing:
    """Which positions of a batch of sequences are rows.

    Args:
        rows: [row], the index of each row's position among all positions.
        places: [position], the row of each position; of one that is left out any row.
        mask: [batch, 1, 1, sequence], added to the scores of attention; -inf where a position is left out.
    """

    rows: Tensor
    places: Tensor
    mask: Tensor

    def unpacked(self, x: Tensor) -> Tensor:
        """Rows [row, features] as [batch, sequence, features], with some row where a position is left out."""
        return x.index_select(0, self.places).view(self.mask.shape[0], -1, x.shape[-1])

    def packed(self, x: Tensor) -> Tensor:
        """The rows of [batch, sequence, features]."""
        return x.flatten(0, 1).index_select(0, self.rows)

    def padded(self, x: Tensor, like: Tensor) -> Tensor:
        """Rows [row, features] as [batch, sequence, features] of `like`, with zeros where a position is left out."""
        return torch.zeros_like(like).flatten(0, 1).index_copy(0, self.rows, x).view_as(like)


def packing_of(padding: Tensor, left_out: Tensor) -> Packing:
    """How to pack a batch.

    Args:
        padding: [batch, sequence], floats that are added to the scores.
        left_out: bool [batch, sequence].
    """
    kept = left_out.logical_not().flatten()
    mask = padding.masked_fill(left_out, -torch.inf)[:, None, None]
    return Packing(kept.nonzero().squeeze(1), (kept.cumsum(0) - 1).clamp(min=0), mask)


def mark(mask: Tensor, packing: Packing) -> Tensor:
    """The mask, which tells attention behind code of torch's how its input is packed."""
    setattr(mask, _PACKING, packing)
    return mask


def marked(mask: Tensor | None) -> Packing | None:
    """What `mark` wrote on a mask."""
    return getattr(mask, _PACKING, None)
