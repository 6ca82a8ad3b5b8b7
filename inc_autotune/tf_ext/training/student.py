"""The model that is trained: a Keras model of the user's architecture whose layers round."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import keras

from inc_autotune.core.errors import ModelError
from inc_autotune.core.op_config import OpConfig
from inc_autotune.core.vocabulary import TrainedRanges
from inc_autotune.tf_ext.target import GraphChoices
from inc_autotune.tf_ext.training.attachment import attach, freeze_normalization, layers_of
from inc_autotune.tf_ext.training.forms import ActivationForm, OperatorForm
from inc_autotune.tf_ext.training.quantizers import PACKAGE, ActivationQuantizer, OperatorQuantizer


@keras.saving.register_keras_serializable(package=PACKAGE)
class Student(keras.Model):  # type: ignore[misc]
    """A Keras model for `compile` and `fit` that rounds as its integer form will; what `prepare` returns.

    `save("student.keras")` and `keras.saving.load_model` work as for any model, in a process that has imported
    `inc_autotune.tf_ext`.

    Args:
        model: a model of the user's architecture that belongs to the student.
        operators: what is rounded.
        activations: the activations that these operators read.
        ranges: what becomes of ranges in training.
        freeze_batch_norm: whether BatchNormalization keeps its running statistics in training.
        choices: how its integer form is written, as a dict of `GraphChoices`.
        untrained: why other operators stay as they are, (type, reason) by their name in the graph.
        halves: configurations of those that become bf16, by their name in the graph.

    Attributes:
        model: the layers themselves; their variables are the float weights that are trained.
    """

    untunable: ClassVar[str] = (
        "is a student, which prepare() returned. Train it, then convert() it; to tune anew, give its `model`, in fp32"
    )

    def __init__(
        self,
        model: Any,
        operators: Sequence[OperatorForm],
        activations: Sequence[ActivationForm],
        *,
        ranges: TrainedRanges,
        freeze_batch_norm: bool,
        choices: Mapping[str, Any] | None = None,
        untrained: Mapping[str, tuple[str, str]] | None = None,
        halves: Mapping[str, Mapping[str, Any]] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.model = model
        self.activations = [
            ActivationQuantizer(form, ranges, name=f"activation_{index}") for index, form in enumerate(activations)
        ]
        self.operators = [OperatorQuantizer(form, name=f"operator_{index}") for index, form in enumerate(operators)]
        self.ranges, self.freeze_batch_norm = ranges, freeze_batch_norm
        self._reasons = [[name, kind, reason] for name, (kind, reason) in (untrained or {}).items()]
        self._plain: dict[str, Any] = {
            "choices": dict(choices or {}),
            "halves": [[name, each] for name, each in (halves or {}).items()],
        }
        layers = layers_of(model)
        attach(layers, self.operators, self.activations)
        if freeze_batch_norm:
            freeze_normalization(layers)
        if hasattr(model, "output_names"):
            self.output_names = list(model.output_names)  # losses and metrics are given by these
        self.built = True

    @property
    def untrained(self) -> dict[str, tuple[str, str]]:
        """(type, reason) of the operators that stay as they are, by their name in the graph."""
        return {name: (kind, reason) for name, kind, reason in self._reasons}

    @property
    def choices(self) -> GraphChoices:
        """How its integer form is written."""
        return GraphChoices(**self._plain["choices"])

    @property
    def halves(self) -> dict[str, OpConfig]:
        """Configurations of the operators that become bf16, by their name in the graph."""
        return {name: OpConfig.from_dict(each) for name, each in self._plain["halves"]}

    def build(self, input_shape: Any = None) -> None:
        """The model inside is built already."""

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        return self.model(inputs, training=training)

    def compute_output_shape(self, input_shape: Any) -> Any:
        return self.model.compute_output_shape(input_shape)

    def get_config(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "trainable": self.trainable,
            "model": keras.saving.serialize_keras_object(self.model),
            "operators": [each.form.to_dict() for each in self.operators],
            "activations": [vars(each.form) for each in self.activations],
            "ranges": self.ranges,
            "freeze_batch_norm": self.freeze_batch_norm,
            "untrained": [list(each) for each in self._reasons],
            **self._plain,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Mapping[str, Any] | None = None) -> Student:
        model = keras.saving.deserialize_keras_object(config["model"], custom_objects=custom_objects)
        if not model.built:
            raise ModelError(
                "student: the model inside cannot be rebuilt, since it has no weights before it is called. Give its "
                "class get_build_config() and build_from_config(), or build it of Keras's functional API."
            )
        return cls(
            model,
            [OperatorForm.from_dict(each) for each in config["operators"]],
            [ActivationForm(**each) for each in config["activations"]],
            ranges=config["ranges"],
            freeze_batch_norm=config["freeze_batch_norm"],
            untrained={name: (kind, reason) for name, kind, reason in config["untrained"]},
            choices=config["choices"],
            halves=dict(config["halves"]),
            name=config["name"],
            trainable=config["trainable"],
        )
