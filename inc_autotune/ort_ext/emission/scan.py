"""GRU and RNN, which have no integer kernel: their steps, with integer products, as the body of a Scan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import onnx
from onnx import TensorProto, helper

from inc_autotune.core.arrays import FloatArray
from inc_autotune.core.op_config import OpConfig
from inc_autotune.graphs import QuantizedWeight
from inc_autotune.ort_ext.emission.context import Emission, QuantizedNames
from inc_autotune.ort_ext.emission.recurrent_weights import recurrent_version, recurrent_weight
from inc_autotune.ort_ext.graph import CONTRIB_DOMAIN, attributes, given_input
from inc_autotune.ort_ext.operators import (
    Factor,
    Operator,
    RecurrentProduct,
    activations,
    directions,
    recurrent_products,
)

_STATE, _BIAS, _LENGTHS, _FIRST = 2, 3, 4, 5
"""Places among the inputs: the weight of the states, the bias, the lengths of sequences, the first state."""


def emit_scan(emission: Emission, operator: Operator, config: OpConfig) -> None:
    """Write a GRU or RNN as one integer product for the whole input, and a Scan for each direction.

    Args:
        emission: the model under construction.
        operator: a GRU or RNN.
        config: dynamic.
    """
    _Recurrence(emission, operator, config).write()


@dataclass(frozen=True)
class _Recurrence:
    emission: Emission
    operator: Operator
    config: OpConfig

    @cached_property
    def node(self) -> onnx.NodeProto:
        return self.emission.graph.by_name[self.operator.name]

    @cached_property
    def hidden(self) -> int:
        return int((self.emission.graph.shape(self.node.input[_STATE]) or (0,))[-1])

    @cached_property
    def _products(self) -> list[RecurrentProduct]:
        return recurrent_products(self.emission.graph, self.node)

    @cached_property
    def _mask(self) -> str | None:
        """bool [steps, batch, 1]: where sequences have not ended; None where all have the same length."""
        lengths = given_input(self.node, _LENGTHS)
        if not lengths:
            return None
        builder, name = self.emission.builder, self.operator.name
        shape = builder.compute("Shape", [self.node.input[0]], f"{name}.shape")
        count = builder.compute("Gather", [shape, self._integers("first", 0)], f"{name}.count", axis=0)
        one = self._integers("one", 1)
        steps = builder.compute("Range", [self._integers("first", 0), count, one], f"{name}.steps")
        steps = builder.compute("Unsqueeze", [steps, self._integers("last", [1])], f"{name}.steps.column")
        ends = builder.compute("Cast", [lengths], f"{name}.ends", to=TensorProto.INT64)
        inside = builder.compute("Less", [steps, ends], f"{name}.inside")
        return builder.compute("Unsqueeze", [inside, self._integers("last", [2])], f"{name}.mask")

    def write(self) -> None:
        """All directions, and the outputs made of theirs."""
        builder, name = self.emission.builder, self.operator.name
        found = [self._direction(place, direction) for place, direction in enumerate(directions(self.node))]
        for index, axis in ((0, 1), (1, 0)):  # all states, [steps, directions, batch, hidden], and the last ones
            output = self.node.output[index] if len(self.node.output) > index else ""
            if not output:
                continue
            axes = self._integers("axis", [axis])
            parts = [builder.compute("Unsqueeze", [each[index], axes], f"{output}.part") for each in found]
            node = name if index == 0 or not self.node.output[0] else builder.new_node(f"{name}.last")
            builder.produce("Concat", parts, [output], node, axis=axis)

    def _direction(self, place: int, direction: str) -> tuple[str, str]:
        """Names of all states of a direction, [steps, batch, hidden], and of the last one, [batch, hidden]."""
        builder, name = self.emission.builder, f"{self.operator.name}.{direction}"
        into_product, into_state = self._biases(place)
        projected = self._product(self.operator.input, self._weight("input", place), into_product, f"{name}.projected")
        turned = direction == "reverse"
        lengths = given_input(self.node, _LENGTHS)
        if turned and lengths:  # each sequence from its own end
            projected = self._turned(projected, lengths, f"{name}.turned")
        state = self._first(place, name)
        masks = [] if self._mask is None else [self._mask]
        body = self._body(place, name, into_state)
        outputs = [builder.new(f"{name}.last"), builder.new(f"{name}.states")]
        backwards = [int(turned and not lengths)]
        builder.produce(
            "Scan",
            [state, projected, *masks],
            outputs,
            builder.new_node(f"{name}.Scan"),
            body=body,
            num_scan_inputs=1 + len(masks),
            scan_input_directions=backwards * (1 + len(masks)),
            scan_output_directions=backwards,
        )
        last, states = outputs
        return (self._turned(states, lengths, f"{name}.back") if turned and lengths else states), last

    def _body(self, place: int, name: str, bias: FloatArray | None) -> onnx.GraphProto:
        """One step: from the state, the projected input and perhaps the mask to the next state, and what is put out."""
        builder, masked = self.emission.builder, self._mask is not None
        state, projected, mask = (builder.new(f"{name}.{part}") for part in ("state", "step", "inside"))
        results = [builder.new(f"{name}.{part}") for part in ("next", "out")]
        step = self._gru_step if self.operator.type == "GRU" else self._rnn_step

        def write() -> None:
            following = step(place, name, state, projected, bias)
            made = [following, following]
            if masked:
                zero = builder.constant(f"{name}.zero", np.zeros((), np.float32))
                made = [builder.compute("Where", [mask, following, other], f"{name}.kept") for other in (state, zero)]
            for value, result in zip(made, results, strict=True):
                builder.produce("Identity", [value], [result], builder.new_node(f"{result}.Identity"))

        nodes = builder.collect(write)
        read = {state: TensorProto.FLOAT, projected: TensorProto.FLOAT, **({mask: TensorProto.BOOL} if masked else {})}
        inputs = [helper.make_tensor_value_info(each, kind, None) for each, kind in read.items()]
        outputs = [helper.make_tensor_value_info(result, TensorProto.FLOAT, None) for result in results]
        return helper.make_graph(nodes, f"{name}.body", inputs, outputs)

    def _gru_step(self, place: int, name: str, state: str, projected: str, bias: FloatArray | None) -> str:
        builder, hidden = self.emission.builder, self.hidden
        gate, candidate = activations(self.node)[place]
        gates, new = self._split(projected, f"{name}.input", 2 * hidden, hidden)
        if attributes(self.node).get("linear_before_reset", 0):
            product = self._product(state, self._weight("state", place), bias, f"{name}.product")
            from_state, new_from_state = self._split(product, f"{name}.product", 2 * hidden, hidden)
        else:
            from_state, new_from_state = self._product(state, self._weight("state", place), None, f"{name}.product"), ""
        opened = builder.compute(gate, [builder.compute("Add", [gates, from_state], f"{name}.sum")], f"{name}.gates")
        update, reset = self._split(opened, f"{name}.gate", hidden, hidden)
        if new_from_state:
            part = builder.compute("Mul", [reset, new_from_state], f"{name}.reset")
        else:
            weight = self._weight("reset state", place)
            part = self._product(builder.compute("Mul", [reset, state], f"{name}.reset"), weight, None, f"{name}.part")
        new = builder.compute(candidate, [builder.compute("Add", [new, part], f"{name}.new.sum")], f"{name}.new")
        change = builder.compute("Sub", [state, new], f"{name}.change")  # (1 - z) new + z state
        return builder.compute("Add", [new, builder.compute("Mul", [update, change], f"{name}.old")], f"{name}.sum")

    def _rnn_step(self, place: int, name: str, state: str, projected: str, bias: FloatArray | None) -> str:
        product = self._product(state, self._weight("state", place), bias, f"{name}.product")
        total = self.emission.builder.compute("Add", [projected, product], f"{name}.sum")
        return self.emission.builder.compute(activations(self.node)[place][0], [total], f"{name}.new")

    def _product(self, tensor: str, weight: QuantizedNames, bias: FloatArray | None, name: str) -> str:
        """Integers of a float tensor times a weight, plus a bias, as floats."""
        builder, x = self.emission.builder, self.emission.dynamically_quantized(tensor)
        added = [] if bias is None else [builder.constant(f"{name}.bias", bias)]
        if self.emission.form.contrib_operators:
            inputs = [x.values, weight.values, x.scale, weight.scale, x.zero_point, weight.zero_point, *added]
            return builder.compute("MatMulIntegerToFloat", inputs, name, domain=CONTRIB_DOMAIN)
        inputs = [x.values, weight.values, x.zero_point, weight.zero_point]
        integers = builder.compute("MatMulInteger", inputs, f"{name}.integers")
        as_float = builder.compute("Cast", [integers], f"{name}.float", to=TensorProto.FLOAT)
        scale = builder.compute("Mul", [x.scale, weight.scale], f"{name}.scale")
        product = builder.compute("Mul", [as_float, scale], name)
        return builder.compute("Add", [product, *added], f"{name}.biased") if added else product

    def _weight(self, factor: Factor, place: int) -> QuantizedNames:
        """The matrix of one of the products of a direction, in the layout of MatMul."""
        emission = self.emission
        (product,) = (each for each in self._products if each.factor == factor and each.place == place)

        def make() -> QuantizedWeight:
            weight = recurrent_weight(emission, self.operator, self.config.weight, product)
            return QuantizedWeight(np.ascontiguousarray(weight.values.T), weight.scale, weight.zero_point)

        made_of = recurrent_version(emission, self.operator, self.config.weight)
        version = ("step", emission.graph.origin(product.weight), place, product.start, product.stop, made_of)
        weight = emission.weights.get((self.operator.name, factor, place), version, make)
        return emission.weight(product.weight, version, weight)

    def _biases(self, place: int) -> tuple[FloatArray | None, FloatArray | None]:
        """What is added to the product with the input, and to that with the state.

        One suffices, but where the reset gate multiplies the biased product with the state.
        """
        name = given_input(self.node, _BIAS)
        if not name:
            return None, None
        of_input, of_state = np.split(self.emission.graph.constant(name)[place], 2)
        if self.operator.type != "GRU" or not attributes(self.node).get("linear_before_reset", 0):
            return of_input + of_state, None
        is_gate = np.arange(of_state.size) < 2 * self.hidden
        return of_input + np.where(is_gate, of_state, 0), np.where(is_gate, 0, of_state).astype(np.float32)

    def _first(self, place: int, name: str) -> str:
        """The first state of a direction, [batch, hidden]."""
        builder, given = self.emission.builder, given_input(self.node, _FIRST)
        if given:
            return builder.compute("Gather", [given, self._integers("place", place)], f"{name}.first", axis=0)
        shape = builder.compute("Shape", [self.node.input[0]], f"{name}.shape")
        batch = builder.compute("Gather", [shape, self._integers("batch", [1])], f"{name}.batch", axis=0)
        shape = builder.compute(
            "Concat", [batch, self._integers("hidden", [self.hidden])], f"{name}.first.shape", axis=0
        )
        return builder.compute("ConstantOfShape", [shape], f"{name}.first")

    def _turned(self, tensor: str, lengths: str, name: str) -> str:
        """Each sequence of [steps, batch, features] from its end to its beginning; what lies behind stays there."""
        ends = self.emission.builder.compute("Cast", [lengths], f"{name}.ends", to=TensorProto.INT64)
        return self.emission.builder.compute("ReverseSequence", [tensor, ends], name, time_axis=0, batch_axis=1)

    def _split(self, tensor: str, name: str, *sizes: int) -> list[str]:
        builder = self.emission.builder
        parts = [builder.new(f"{name}.{index}") for index in range(len(sizes))]
        given = self._integers("sizes", sizes)
        builder.produce("Split", [tensor, given], parts, builder.new_node(f"{name}.Split"), axis=-1)
        return parts

    def _integers(self, what: str, value: int | Sequence[int]) -> str:
        return self.emission.builder.constant(f"{self.operator.name}.{what}", np.asarray(value, np.int64))
