"""From operators' configurations and calibration to prepared and quantized models."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from torch import nn

from inc_autotune.core.op_config import OpConfig
from inc_autotune.torch_ext.calibration import OperatorCalibration
from inc_autotune.torch_ext.model import (
    convert_modules,
    expanded_copy,
    own_tensors,
    replace_modules,
    shared_copy,
)
from inc_autotune.torch_ext.modules.registry import convert_module, is_prepared, prepare_module


def prepared_model(
    base: nn.Module,
    configs: Mapping[str, OpConfig],
    calibrations: Mapping[str, OperatorCalibration],
    *,
    reduced: Collection[str],
) -> nn.Module:
    """The fake-quantized model, with weights of its own and gradients.

    Args:
        base: the fp32 model, batch norms folded.
        configs: of the operators that leave fp32, by name, as in an expanded copy of `base`.
        calibrations: of the same.
        reduced: names of those whose weights get 7 bits.
    """
    copy = expanded_copy(base, configs)
    replacements = {
        name: prepare_module(copy.get_submodule(name), config, calibrations[name], reduce_range=name in reduced)
        for name, config in configs.items()
    }
    return own_tensors(replace_modules(copy, replacements))


def converted_model(prepared: nn.Module) -> nn.Module:
    """A model with real integer kernels in place of the prepared modules; shares nothing with `prepared`."""
    return own_tensors(
        convert_modules(shared_copy(prepared), lambda module: convert_module(module) if is_prepared(module) else None)
    )
