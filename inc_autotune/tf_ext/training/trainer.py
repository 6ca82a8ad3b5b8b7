"""Students for a tuning run: made of a plan and of what was trained before, and taken apart into arrays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from inc_autotune.core.analysis import StudentState
from inc_autotune.core.arrays import Array
from inc_autotune.core.errors import TrainingError
from inc_autotune.core.vocabulary import TrainedRanges
from inc_autotune.tf_ext.calibration import QuantizationPlan
from inc_autotune.tf_ext.training.build import DEFAULT_RANGES, TracedCopy, student_of, traced_copy, uncorrected
from inc_autotune.tf_ext.training.conversion import Trained, trained
from inc_autotune.tf_ext.training.forms import OperatorForm
from inc_autotune.tf_ext.training.student import Student


@dataclass(frozen=True, eq=False)
class Trainer:
    """Makes students of one Keras model.

    Args:
        copy: of the user's model, whose graph is tuned; it is not changed.
        signatures: which the graph has, see `load_source`.
        ranges: what training does to ranges.
    """

    copy: TracedCopy
    signatures: Any = None
    ranges: TrainedRanges = DEFAULT_RANGES

    def student(self, plan: QuantizationPlan, arrays: Mapping[str, Array] | None = None) -> Student:
        """A student for a plan, with weights of its own.

        Args:
            plan: for the graph of the copy.
            arrays: what it starts from, as in `StudentState`; what it has not, or in another shape, is ignored.
        """
        copy = traced_copy(self.copy.model, self.signatures)
        student = student_of(copy, plan, ranges=self.ranges, keep_untrained=True)
        arrays = arrays or {}
        for name, variable in self._weights(student).items():
            if name in arrays and arrays[name].shape == tuple(variable.shape):
                variable.assign(arrays[name])
        for operator in student.operators:
            position, name = operator.form.activation, _range_name(operator.form, copy.layers)
            if position is not None and name in arrays:
                student.activations[position].assign(*map(float, arrays[name]))
        return student

    def state(self, student: Student, returned: Any) -> StudentState:
        """See `SupportsTraining`."""
        notes: tuple[str, ...] = ()
        if isinstance(returned, Student):
            student = returned
        elif isinstance(returned, keras.Model):
            raise TrainingError(
                f"train_func returned a {type(returned).__name__}. Allowed: the model that it was given, a copy of it "
                "that keras.saving.load_model read, or nothing."
            )
        elif returned is not None:
            what = type(returned).__name__
            notes = (f"train_func returned a {what}, which is ignored: the model that it was given counts",)
        weights = self._weights(student)
        arrays: dict[str, Array] = {name: _value(each) for name, each in weights.items()}
        names = {id(each): name for name, each in weights.items()}
        layers = list(student.model._flatten_layers(include_self=False))
        operators: dict[str, tuple[str, ...]] = {}
        for operator in student.operators:
            form = operator.form
            own = [names[id(each)] for each in layers[form.layer].weights if id(each) in names]
            if form.activation is not None:
                own.append(_range_name(form, layers))
                arrays[own[-1]] = np.asarray(student.activations[form.activation].limits, np.float32)
            operators |= dict.fromkeys(form.names, tuple(own))
        return StudentState(arrays, operators, notes)

    def trained(self, plan: QuantizationPlan, arrays: Mapping[str, Array]) -> Trained:
        """The fp32 model with trained weights, and its plan."""
        return trained(self.student(plan, arrays), self.signatures, uncorrected(plan))

    def _weights(self, student: Student) -> dict[str, Any]:
        """Variables of the model inside by the names that they have in the copy, which are those of its layers."""
        paths = [each.path for each in self.copy.model.weights]
        variables = student.model.weights
        if len(paths) != len(variables):
            raise TrainingError(
                f"train_func left a model with {len(variables)} weights instead of {len(paths)}. Allowed: the model it "
                "was given, trained in place; add and remove nothing."
            )
        return {f"{index}/{path}": each for index, (path, each) in enumerate(zip(paths, variables, strict=True))}


def _range_name(form: OperatorForm, layers: Any) -> str:
    return f"{form.layer}/{layers[form.layer].name}/{form.role}/range"


def _value(variable: Any) -> Array:
    return np.array(tf.convert_to_tensor(variable))
