"""The verb that tells what a model's operators could become."""

from __future__ import annotations

from typing import Any

from inc_autotune.core.analysis import Inspection, inspect_model
from inc_autotune.ort_ext.adaptor import OrtAdaptor
from inc_autotune.ort_ext.model import load_source


def inspect(model: Any) -> Inspection:
    """What each operator of an ONNX model could become, without data: types, shares of the weights, reasons.

    Args:
        model: the fp32 model, see `autotune`. It is not changed and does not run.

    Raises:
        ArgumentError, ModelError: it is no fp32 ONNX model.
    """
    adaptor = OrtAdaptor()
    return inspect_model(adaptor, adaptor.candidate(load_source(model)))
