"""Sequences without their padding: rows of a batch, and back."""

from __future__ import annotations

from torch import Tensor


def kept_rows(left_out: Tensor) -> Tensor:
    """Indices [position] into the rows of a batch, of those that are not left out."""
    return left_out.logical_not().flatten().nonzero().squeeze(1)


def put_back(x: Tensor, rows: Tensor, like: Tensor) -> Tensor:
    """Rows [position, features] in their places [batch, sequence, features] of `like`, with zeros between them."""
    places = like.new_zeros((like.shape[0] * like.shape[1], x.shape[-1]))
    return places.index_copy(0, rows, x).view(like.shape[0], like.shape[1], -1)
