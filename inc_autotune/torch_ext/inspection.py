"""The verb that tells what a model's operators could become."""

from __future__ import annotations

from torch import nn

from inc_autotune.core.analysis import Inspection, inspect_model
from inc_autotune.torch_ext.adaptor import TorchAdaptor
from inc_autotune.torch_ext.ipex.models import fp32_form
from inc_autotune.torch_ext.model_check import check_model


def inspect(model: nn.Module) -> Inspection:
    """What each operator of a model could become, without data: types, shares of the weights, reasons.

    The model does not run, so products with a parameter that is no module's weight (`x @ self.weight`) are listed as
    what they may be; tuning finds out.

    Args:
        model: the fp32 model, see `autotune`. It is not changed.

    Raises:
        ArgumentError, ModelError: it is no fp32 model in eval mode.
    """
    return inspect_model(TorchAdaptor(), check_model(fp32_form(model)))
