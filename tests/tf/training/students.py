"""Students of small Keras models with every operator at its default, without timing anything."""

from __future__ import annotations

import numpy as np

from inc_autotune.core.op_config import OpConfig
from inc_autotune.tf_ext.adaptor import TensorFlowAdaptor
from inc_autotune.tf_ext.model.candidate import Candidate
from inc_autotune.tf_ext.training.build import student_of, traced_copy


def student(model, data, change=lambda name, config: config, capability=None, **options):
    """A student.

    Args:
        change: takes an operator's type and its first configuration, and returns the one to use.
    """
    copy = traced_copy(model)
    adaptor = TensorFlowAdaptor(capability)
    candidate = Candidate(copy.source)
    adaptor.calibrate(candidate, data, (100,))
    chosen = {
        (name, kind): change(kind, OpConfig.from_dict(each[0])).to_dict()
        for (name, kind), each in adaptor.query_fw_capability(candidate)["opwise"].items()
    }
    return student_of(copy, adaptor.plan({"op": chosen, "calib_iteration": 100}), **options)


def decibels(expected, outputs):
    """Signal to noise of outputs, one array or several."""
    pairs = zip(as_arrays(expected), as_arrays(outputs), strict=True)
    return min(10 * np.log10((one**2).sum() / max(((one - other) ** 2).sum(), 1e-30)) for one, other in pairs)


def as_arrays(outputs):
    if isinstance(outputs, dict):
        return [np.asarray(outputs[key]) for key in sorted(outputs)]
    return [np.asarray(each) for each in (outputs if isinstance(outputs, list | tuple) else [outputs])]
