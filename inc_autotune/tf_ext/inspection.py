"""The verb that tells what a model's operators could become."""

from __future__ import annotations

from typing import Any

from inc_autotune.core.analysis import Inspection, inspect_model
from inc_autotune.tf_ext.adaptor import TensorFlowAdaptor
from inc_autotune.tf_ext.model import Candidate, Signatures, load_source


def inspect(model: Any, *, signatures: Signatures | None = None) -> Inspection:
    """What each operator of a TensorFlow model could become, without data: types, shares of the weights, reasons.

    Args:
        model: the fp32 model, see `autotune`. It is not changed and does not run.
        signatures: see `autotune`.

    Raises:
        ArgumentError, ModelError: it is no fp32 model.
    """
    source = load_source(model, signatures)
    return inspect_model(TensorFlowAdaptor(signatures=list(source.signatures)), Candidate(source))
