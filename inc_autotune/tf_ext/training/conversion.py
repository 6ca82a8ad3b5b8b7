"""From a trained student to the fp32 model and the plan that make its integer form."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from inc_autotune.core.errors import ModelError
from inc_autotune.graphs import OperatorCalibration
from inc_autotune.tf_ext.calibration import Analysis, QuantizationPlan
from inc_autotune.tf_ext.measurement import is_simulated
from inc_autotune.tf_ext.model import SourceModel, load_source
from inc_autotune.tf_ext.training.attachment import layers_of
from inc_autotune.tf_ext.training.layer_operators import match_operators, recorded_calls
from inc_autotune.tf_ext.training.student import Student


@dataclass(frozen=True)
class Trained:
    """What a student has become.

    Args:
        source: the fp32 model with the trained weights.
        plan: how it is quantized.
        reasons: why operators stay as they are, (type, reason) by name.
    """

    source: SourceModel
    plan: QuantizationPlan
    reasons: Mapping[str, tuple[str, str]]


def trained(student: Student, signatures: Any = None, base: QuantizationPlan | None = None) -> Trained:
    """The fp32 model of a student, and the plan by which emission makes of it what the student computes.

    Args:
        student: which may have been trained.
        signatures: see `load_source`.
        base: says what becomes of operators that the student does not round; None: they stay in fp32.

    Raises:
        ModelError: a weight is NaN or infinite, or training changed what the layers compute.
    """
    check_weights(student)
    layers = layers_of(student.model)
    with recorded_calls(layers) as calls:
        source = load_source(student.model, signatures)
    analysis = Analysis(source, list(source.signatures))
    matched, _ = match_operators(analysis, calls, layers)
    by_weight = {(each.form.layer, each.form.role): each for each in student.operators}
    configs = {} if base is None else {name: each for name, each in base.configs.items() if name in analysis.operators}
    calibrations = {name: base.calibration(name) for name in configs if base is not None}
    found: set[tuple[int, str]] = set()
    for name, match in matched.items():
        quantizer = by_weight.get((match.layer, match.role))
        if quantizer is None:
            continue
        found.add((match.layer, match.role))
        form = quantizer.form
        limits = None if form.activation is None else student.activations[form.activation].limits
        smoothing = None if quantizer.smoothing is None else np.asarray(quantizer.smoothing).reshape(-1)
        configs[name] = form.config
        calibrations[name] = OperatorCalibration(limits, smoothing, form.output_range, form.reduce_range)
    lost = [key for key in by_weight if key not in found]
    if lost:
        position, role = lost[0]
        raise ModelError(
            f"student: the {role} of layer {layers[position].name!r} is no operator of the traced model any more. "
            "Training may change weights, not what layers compute: prepare the model again."
        )
    choices = student.choices
    simulated = frozenset(
        name for name, each in configs.items() if is_simulated(analysis.operators[name], each, choices.form)
    )
    configs |= {name: each for name, each in student.halves.items() if name in analysis.operators}
    return Trained(source, QuantizationPlan(configs, calibrations, simulated, choices), student.untrained)


def check_weights(student: Student) -> None:
    """Refuse weights that are no numbers.

    Raises:
        ModelError: one is NaN or infinite; the message names it.
    """
    for variable in student.variables:
        value = np.asarray(tf.convert_to_tensor(variable))
        if np.issubdtype(value.dtype, np.floating) and not np.isfinite(value).all():
            raise ModelError(
                f"student: {variable.path} holds NaN or infinity after training. Lower the learning rate or clip "
                "gradients, and train again from prepare(); the fp32 model is as it was."
            )
