"""The token ids that blocks are calibrated on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from hashlib import sha256
from typing import Any

import torch
from torch import Tensor

from inc_autotune.core.data import describe, no_item
from inc_autotune.core.errors import ArgumentError, DataError
from inc_autotune.torch_ext.data import iterable_loader
from inc_autotune.torch_ext.data.items import check_item, to_torch

_ARGUMENT = "calib_dataloader"
_ALLOWED = (
    "token ids [batch, tokens] as a tensor or array, (token ids, labels), or a dict with 'input_ids' and perhaps "
    "'attention_mask', as tokenizers of transformers return"
)


def token_sequences(dataloader: Any, limit: int, words: int, positions: int | None) -> list[Tensor]:
    """Sequences of int64 [1, tokens], without padding: a position that is masked is left out.

    Args:
        dataloader: yields what `_ALLOWED` says; read once, and no further than needed.
        limit: sequences at most.
        words: rows of the model's table of tokens.
        positions: the longest sequence that the model takes; None: any.

    Raises:
        ArgumentError: it is no loader.
        DataError: it is empty, yields something else, or ids or lengths that the model does not have.
    """
    if dataloader is None:
        raise ArgumentError(
            f"{_ARGUMENT} is None. Give calibration texts: batches of token ids, or dicts with 'input_ids', such as "
            "tokenizer(texts, return_tensors='pt', padding=True) returns."
        )
    sequences: list[Tensor] = []
    for item in iterable_loader(dataloader, _ARGUMENT):
        check_item(item, _ARGUMENT)
        sequences += _real(to_torch(item, torch.device("cpu")))
        if len(sequences) >= limit:
            break
    sequences = [each for each in sequences[:limit] if each.shape[1]]
    if not sequences:
        raise no_item(_ARGUMENT)
    for sequence in sequences:
        lowest, highest = int(sequence.min()), int(sequence.max())
        if lowest < 0 or highest >= words:
            raise DataError(
                f"{_ARGUMENT} yields the token {highest if highest >= words else lowest}, and the model has tokens "
                f"from 0 to {words - 1}. Is it the tokenizer of this model?"
            )
        if positions is not None and sequence.shape[1] > positions:
            raise DataError(
                f"{_ARGUMENT} yields a sequence of {sequence.shape[1]} tokens, and the model takes at most {positions} "
                "(max_position_embeddings). Cut the texts: tokenizer(..., truncation=True, max_length=...)."
            )
    return sequences


def digest_of_sequences(sequences: list[Tensor]) -> str:
    """Of all tokens."""
    digest = sha256()
    for sequence in sequences:
        digest.update(str(tuple(sequence.shape)).encode())
        digest.update(sequence.contiguous().numpy().tobytes())
    return digest.hexdigest()


def _real(item: Any) -> Iterator[Tensor]:
    mask = None
    if isinstance(item, (tuple, list)):
        item = item[0]
    if isinstance(item, Mapping):
        mask, item = item.get("attention_mask"), item.get("input_ids")
    if not isinstance(item, Tensor) or item.is_floating_point() or item.is_complex() or item.dim() not in (1, 2):
        raise DataError(f"{_ARGUMENT} yields {describe(item)} where token ids are expected. Allowed: {_ALLOWED}.")
    if mask is not None and (not isinstance(mask, Tensor) or mask.shape != item.shape):
        raise DataError(
            f"{_ARGUMENT} yields an attention_mask that is {describe(mask)} beside input_ids that are {describe(item)}"
            ". Allowed: 1 at tokens and 0 at padding, of the same shape."
        )
    rows = item if item.dim() == 2 else item.unsqueeze(0)
    for row, real in zip(rows, [None] * len(rows) if mask is None else mask.reshape(rows.shape), strict=True):
        yield (row if real is None else row[real.bool()]).long().unsqueeze(0)
