"""What a model computes on one batch, without leaving a trace on either."""

from __future__ import annotations

from torch import Tensor, nn

from inc_autotune.torch_ext.data import Batch, call, output_tensors
from inc_autotune.torch_ext.model.untouched import untouched


def untouched_outputs(model: nn.Module, batch: Batch, *, fast_path: bool = False) -> list[Tensor]:
    """The tensors that a model returns for a copy of a batch.

    Args:
        model: stays as it is.
        batch: inputs; stay as they are.
        fast_path: leave torch's switch of fused attention as it is, for a model without hooks.
    """
    inputs = batch.copy()
    with untouched(model, fast_path=fast_path):
        return output_tensors(call(model, inputs))
