"""Torch's fused transformer kernels read Linear weights directly; a model with replaced Linears must not take them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from torch import Tensor, nn

LEFT_OUT_PADDING = "_left_out_padding"
"""Attribute of an encoder that used nested tensors, before these were switched off."""


def disable_fast_paths(model: nn.Module, replaced: Collection[nn.Module] | None = None) -> None:
    """Make the TransformerEncoders and TransformerEncoderLayers of `model` call their Linear modules.

    In evaluation mode without gradients `nn.TransformerEncoderLayer` hands `linear1.weight` and `linear2.weight` to one
    fused fp32 kernel, so modules put in their place are never called, or their int8 weights are read as fp32.
    `nn.TransformerEncoder` turns a padded batch into a nested tensor for the same kernel, which no other path
    accepts. Both are switched off by attributes, so that copies and pickles of the model keep the choice.
    Attention keeps its own fast path unless it is expanded.

    A nested tensor holds no padding: outputs of the encoder are zero there, and a model may sum over all positions. So
    an encoder that would have used nested tensors gets a hook that writes these zeros. The hook writes them with
    gradients enabled too, when torch does not use nested tensors. `PackedEncoder` takes the place of nested tensors.

    Args:
        model: changed in place; call it on a copy of the user's model.
        replaced: modules that are replaced or expanded: encoders and layers without any of them keep their fast paths;
            None: all give them up.
    """
    ids = None if replaced is None else {id(module) for module in replaced}

    def concerned(kind: type[nn.Module]) -> list[nn.Module]:
        return [
            module
            for module in model.modules()
            if isinstance(module, kind) and (ids is None or any(id(part) in ids for part in module.modules()))
        ]

    encoders: list[Any] = concerned(nn.TransformerEncoder)
    for module in encoders:
        if getattr(module, "use_nested_tensor", False):
            module.use_nested_tensor = False
            module.__dict__[LEFT_OUT_PADDING] = True
            # Not on the encoder: the norm of the encoder comes after the zeros.
            module.layers[-1].register_forward_hook(_zero_padding, with_kwargs=True)
    layers = [layer for encoder in encoders for layer in encoder.layers]
    for module in (*layers, *concerned(nn.TransformerEncoderLayer)):
        if isinstance(module, nn.TransformerEncoderLayer):
            module.activation_relu_or_gelu = 0


def _zero_padding(module: nn.Module, args: Any, kwargs: Mapping[str, Any], output: Tensor) -> Tensor:
    """The last layer's output [batch, sequence, features] as an encoder that uses nested tensors returns it."""
    padding_mask = kwargs.get("src_key_padding_mask")
    if padding_mask is None or kwargs.get("src_mask") is not None or output.dim() != 3:
        return output
    padding = padding_mask.logical_not().logical_not()  # the encoder turned the mask into floats: -inf is padding
    # A nested tensor is made only if all sequences begin at the left. A mask, since tracing would not keep an `if`.
    from_the_left = (padding[:, :-1] <= padding[:, 1:]).all()
    return output.masked_fill((padding & from_the_left).unsqueeze(-1), 0.0)
