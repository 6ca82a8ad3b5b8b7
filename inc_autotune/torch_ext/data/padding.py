"""Which positions of a batch are real, and which are padding, where outputs are never read."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from inc_autotune.torch_ext.data.batch import Batch, called_module
from inc_autotune.torch_ext.data.outputs import compared_tensors
from inc_autotune.torch_ext.data.readings import forward_signature


def real_positions(model: nn.Module, batch: Batch) -> Tensor | None:
    """A bool tensor [batch, sequence], true at real tokens; None where the model takes no padding mask.

    Two conventions are known: `attention_mask` (transformers: 1 is real) and `*key_padding_mask` (torch: True is
    padding).
    """
    for name, value in _named_inputs(model, batch).items():
        if not isinstance(value, Tensor) or value.dim() != 2:
            continue
        if name == "attention_mask" and bool(((value == 0) | (value == 1)).all()):
            return value.bool()
        if name.endswith("key_padding_mask") and value.dtype == torch.bool:
            return ~value
    return None


def comparable_outputs(model: nn.Module, batch: Batch, output: Any) -> list[Tensor]:
    """The outputs of one run in which a candidate is compared with the fp32 model, as float32.

    Args:
        model: its signature says which input is the padding mask.
        batch: inputs.
        output: what the model returned for them.
    """
    return [tensor.detach().float() for tensor in real_outputs(output, real_positions(model, batch))]


def real_outputs(output: Any, real: Tensor | None, last: Sequence[Tensor] = ()) -> Sequence[Tensor]:
    """The floating-point tensors of a model's output, without the rows of padded positions.

    Outputs at padding are never read, and the errors there are erratic enough to drown the errors at real positions.

    Args:
        output: of the model.
        real: see `real_positions`.
        last: what is compared where the output has no such tensors, see `compared_tensors`.
    """
    tensors = compared_tensors(output, last)
    if real is None or not bool(real.any()):
        return tensors
    return [tensor[real] if tensor.shape[:2] == real.shape else tensor for tensor in tensors]


def _named_inputs(model: nn.Module, batch: Batch) -> dict[str, Any]:
    signature = forward_signature(called_module(model, batch))
    if signature is None:
        return dict(batch.kwargs)
    bound = signature.bind_partial(*batch.args, **batch.kwargs).arguments
    for name, parameter in signature.parameters.items():
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            bound = {**bound, **bound.get(name, {})}
    return dict(bound)
