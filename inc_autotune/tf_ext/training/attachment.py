"""Layers of a Keras model that round what they read and what they multiply by, and otherwise compute as they are.

A layer's `call` is replaced on the instance, as Keras itself does with `build`: the model stays of the same classes and
has the same variables, whatever layers it is made of and however deep they lie. While the layer's own `call` runs,
Keras reads the rounded weight for the variable, by `keras.StatelessScope`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import Any

import keras
import tensorflow as tf

from inc_autotune.core.errors import ModelError
from inc_autotune.tf_ext.training.forms import Role
from inc_autotune.tf_ext.training.quantizers import ActivationQuantizer, OperatorQuantizer

_L = keras.layers

SEPARABLE = (_L.SeparableConv1D, _L.SeparableConv2D)

ROLES: Mapping[type, tuple[Role, ...]] = {
    _L.Dense: ("kernel",),
    _L.EinsumDense: ("kernel",),
    _L.Conv1D: ("kernel",),
    _L.Conv2D: ("kernel",),
    _L.Conv3D: ("kernel",),
    _L.DepthwiseConv1D: ("kernel",),
    _L.DepthwiseConv2D: ("kernel",),
    **dict.fromkeys(SEPARABLE, ("depthwise_kernel", "pointwise_kernel")),
    _L.Embedding: ("embeddings",),
}
"""The weights of layers that can round, by class; those of subclasses that keep the class's `call` too."""


def layers_of(model: Any) -> list[Any]:
    """All layers of a model, however deep, in an order that a model rebuilt from its configuration has too."""
    return list(model._flatten_layers(include_self=False))


def roles_of(layer: Any) -> tuple[Role, ...]:
    """The weights of a layer that can be rounded; none where it computes in another way than its class."""
    for kind, roles in ROLES.items():
        if isinstance(layer, kind) and type(layer).call is kind.call and layer.quantization_mode is None:  # type: ignore[attr-defined]
            return roles
    return ()


def freeze_normalization(layers: Sequence[Any]) -> None:
    """Let BatchNormalization layers compute with their running statistics in training too, and leave these alone."""
    for layer in layers:
        if isinstance(layer, _L.BatchNormalization):
            layer.call = _frozen(own_call(layer))


def _frozen(own: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(own)
    def call(inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        return own(inputs, training=False, mask=mask)

    return call


def own_call(layer: Any) -> Callable[..., Any]:
    """What a layer computes by itself."""
    return type(layer).call.__get__(layer)  # type: ignore[no-any-return]


def attach(
    layers: Sequence[Any], operators: Sequence[OperatorQuantizer], activations: Sequence[ActivationQuantizer]
) -> None:
    """Let the layers of a model round.

    Args:
        layers: of the model, see `layers_of`.
        operators: what is rounded.
        activations: what rounds the activations, by the positions that the operators know.

    Raises:
        ModelError: the model has other layers than the one that the operators are of.
    """
    by_layer: dict[int, dict[Role, OperatorQuantizer]] = {}
    for each in operators:
        form = each.form
        fits = form.layer < len(layers) and type(layers[form.layer]).__name__ == form.layer_class
        if not fits or form.role not in roles_of(layers[form.layer]):
            raise ModelError(
                f"student: the model has no {form.layer_class} at position {form.layer} of its layers, but its file "
                "says that it rounds one. Was a layer changed since it was saved? Prepare the model again."
            )
        by_layer.setdefault(form.layer, {})[form.role] = each
    for position, roles in by_layer.items():
        layer = layers[position]
        make = _separable if isinstance(layer, SEPARABLE) else _simple
        layer.call = make(layer, roles, activations)


def _simple(
    layer: Any, roles: Mapping[Role, OperatorQuantizer], activations: Sequence[ActivationQuantizer]
) -> Callable[..., Any]:
    ((role, operator),) = roles.items()
    own = own_call(layer)

    @wraps(own)
    def call(inputs: Any, *arguments: Any, **options: Any) -> Any:
        inputs = _rounded(inputs, operator, activations)
        variable = getattr(layer, role)
        weight = operator.weight(tf.convert_to_tensor(variable))
        with keras.StatelessScope(state_mapping=[(variable, weight)]):
            return own(inputs, *arguments, **options)

    return call


def _separable(
    layer: Any, roles: Mapping[Role, OperatorQuantizer], activations: Sequence[ActivationQuantizer]
) -> Callable[..., Any]:
    own = own_call(layer)
    options = {"padding": layer.padding, "data_format": layer.data_format}

    @wraps(own)
    def call(inputs: Any) -> Any:
        def operands(role: Role, source: Any) -> tuple[Any, Any]:
            variable = tf.convert_to_tensor(getattr(layer, role))
            if role not in roles:
                return source, variable
            return _rounded(source, roles[role], activations), roles[role].weight(variable)

        steps = {"strides": layer.strides, "dilation_rate": layer.dilation_rate}
        outputs = keras.ops.depthwise_conv(*operands("depthwise_kernel", inputs), **steps, **options)
        pointwise = {"strides": 1, "padding": "valid", "data_format": layer.data_format}
        outputs = keras.ops.conv(*operands("pointwise_kernel", outputs), **pointwise)
        if layer.use_bias:
            ones = (1,) * layer.rank
            shape = (1, *ones, -1) if layer.data_format == "channels_last" else (1, -1, *ones)
            outputs = keras.ops.add(outputs, keras.ops.reshape(layer.bias, shape))
        return outputs if layer.activation is None else layer.activation(outputs)

    return call


def _rounded(inputs: Any, operator: OperatorQuantizer, activations: Sequence[ActivationQuantizer]) -> Any:
    if operator.smoothing is not None:
        inputs = inputs / tf.cast(tf.convert_to_tensor(operator.smoothing), inputs.dtype)
    position = operator.form.activation
    return inputs if position is None else activations[position](inputs)
