"""Torch's fused transformer kernels read Linear weights directly; a model with replaced Linears must not take them."""

from __future__ import annotations

from torch import nn


def disable_fast_paths(model: nn.Module) -> None:
    """Make every TransformerEncoder and TransformerEncoderLayer of `model` call its Linear modules.

    In evaluation mode without gradients `nn.TransformerEncoderLayer` hands `linear1.weight` and `linear2.weight` to one
    fused fp32 kernel, so modules put in their place are never called, or their int8 weights are read as fp32.
    `nn.TransformerEncoder` turns a padded batch into a nested tensor for the same kernel, which no other path
    accepts. Both are switched off by attributes, so that copies and pickles of the model keep the choice.
    Self-attention keeps its own fast path: `in_proj` and `out_proj` are never replaced.

    One difference is visible: rows of padding are no longer zeroed in the encoder's output, as is the case with
    gradients enabled; the other rows are the same.

    Args:
        model: changed in place; call it on a copy of the user's model.
    """
    for module in model.modules():
        if isinstance(module, nn.TransformerEncoderLayer):
            module.activation_relu_or_gelu = 0
        elif isinstance(module, nn.TransformerEncoder):
            module.use_nested_tensor = False
