"""From operators' configurations and calibration to prepared and quantized models."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from torch import nn

from inc_autotune.core.files import Arrays
from inc_autotune.core.op_config import OpConfig
from inc_autotune.torch_ext.calibration import OperatorCalibration
from inc_autotune.torch_ext.model import (
    convert_modules,
    expanded_copy,
    own_tensors,
    replace_modules,
    shared_copy,
)
from inc_autotune.torch_ext.modules.attention import without_bf16_attention
from inc_autotune.torch_ext.modules.prepared import PreparedOperator, make_plain
from inc_autotune.torch_ext.modules.registry import convert_module, is_prepared, prepare_module
from inc_autotune.torch_ext.modules.shared_rows import share_rows
from inc_autotune.torch_ext.modules.student import load_arrays, settle, trained_operators


def prepared_model(
    base: nn.Module,
    configs: Mapping[str, OpConfig],
    calibrations: Mapping[str, OperatorCalibration],
    *,
    reduced: Collection[str],
    trained: Arrays | None = None,
) -> nn.Module:
    """The fake-quantized model, with weights of its own and gradients.

    Args:
        base: the fp32 model, batch norms folded.
        configs: of the operators that leave fp32, by name, as in an expanded copy of `base`.
        calibrations: of the same.
        reduced: names of those whose weights get 7 bits.
        trained: what a training came to, see `model_arrays`.
    """
    # Hidden products are where they were in training, even if none of them is quantized here.
    copy = expanded_copy(base, configs if trained is None else {*configs, *trained_operators(trained)})
    replacements = {
        name: prepare_module(copy.get_submodule(name), config, calibrations[name], reduce_range=name in reduced)
        for name, config in configs.items()
    }
    model = own_tensors(replace_modules(copy, replacements))
    return model if trained is None else load_arrays(model, trained)


def converted_model(prepared: nn.Module) -> nn.Module:
    """A model with real integer kernels in place of the prepared modules; shares nothing with `prepared`."""
    converted = convert_modules(
        settle(shared_copy(prepared)), lambda module: convert_module(module) if is_prepared(module) else None
    )
    return own_tensors(share_rows(converted))


@torch.no_grad()
def plain_model(prepared: nn.Module) -> nn.Module:
    """The fp32 model with the weights of a prepared one; shares nothing with it."""
    copy = own_tensors(settle(shared_copy(prepared)))
    for module in copy.modules():
        if isinstance(module, PreparedOperator):
            make_plain(module)
    return without_bf16_attention(copy)
