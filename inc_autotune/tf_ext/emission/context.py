"""The graph under construction and its quantized tensors, which the emitters of all operator types share."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import tensorflow as tf

from inc_autotune.core.arrays import Array, FloatArray
from inc_autotune.core.errors import QuantizationError
from inc_autotune.core.op_config import OpConfig, TensorConfig
from inc_autotune.graphs import Kept, QuantizedWeight, WeightCache, content, corrected_bias, quantize_weight
from inc_autotune.tf_ext.calibration import FRAMEWORK, QuantizationPlan, can_correct
from inc_autotune.tf_ext.emission.activation_grid import (
    LARGEST_INT8,
    MIN_FIRST,
    Grid,
    Range,
    activation_parameters,
)
from inc_autotune.tf_ext.graph import Graph, GraphBuilder, reshape, shape_like
from inc_autotune.tf_ext.operators import DEPTHWISE, TRANSPOSED_TYPES, Operator, geometry_of, kernel_weight


@dataclass(frozen=True)
class QuantizedTensor:
    """An activation in integers.

    Args:
        values: the tensor with the integers.
        minimum: the tensor with the real value of the smallest integer.
        maximum: the tensor with the real value of the largest integer.
        grid: what the integers mean.
    """

    values: str
    minimum: str
    maximum: str
    grid: Grid

    def reshaped(self, values: str) -> QuantizedTensor:
        """The same integers in another tensor."""
        return replace(self, values=values)


@dataclass(frozen=True)
class QuantizedRows:
    """A matrix in integers, each of whose rows has a range of its own, found while the model runs.

    Args:
        values: integers that stand for -1 to 1, or for 0 to 1.
        size: the tensor with the real value of 1 in each row, [rows, 1].
        low: the tensor with the real value of 0, [rows, 1]; None: 0.
    """

    values: QuantizedTensor
    size: str
    low: str | None


class Emission:
    """A graph under construction.

    Args:
        graph: the fp32 signature.
        plan: configurations and calibrations of operators.
        weights: quantized weights of earlier models.

    Attributes:
        rows: what `quantized_rows` has written, by its arguments.
    """

    def __init__(self, graph: Graph, plan: QuantizationPlan, weights: WeightCache) -> None:
        self.graph = graph
        self.plan = plan
        self.builder = GraphBuilder(graph)
        self._weights = weights
        self._quantized: dict[tuple[str, Grid], QuantizedTensor] = {}
        self.rows: dict[tuple[str, int | None, str | None], QuantizedRows] = {}
        self._integers: dict[str, QuantizedTensor] = {}
        self._floats: dict[str, str] = {}
        self._constants: dict[str, str] = {}
        self._kernels: dict[int, tuple[QuantizedWeight, str]] = {}

    def quantized(self, tensor: str, grid: Grid, limits: Range) -> QuantizedTensor:
        """The tensor in integers, quantized once for all operators with the same grid.

        Args:
            tensor: a float tensor of the new graph.
            grid: on which it is quantized, if no operator returns it as integers.
            limits: smallest and largest value of the tensor.

        Raises:
            QuantizationError: an operator returns the tensor as integers that end before these limits.
        """
        made = self._integers.get(tensor)
        if made is not None:
            if not made.grid.covers(limits):
                ends = f"{made.grid.minimum:.4g} to {made.grid.maximum:.4g}"
                raise QuantizationError(
                    f"{tensor}: its integers stand for {ends}, but one reader takes {limits[0]:.4g} to {limits[1]:.4g}."
                )
            return made
        if (tensor, grid) not in self._quantized:
            self._quantized[tensor, grid] = self.quantize(tensor, grid)
        return self._quantized[tensor, grid]

    def integers(self, tensor: str) -> QuantizedTensor | None:
        """The integers that an operator returns as this tensor; None for a float tensor."""
        return self._integers.get(tensor)

    def make_integers(self, tensor: str, quantized: QuantizedTensor) -> None:
        """Let integer operators that read `tensor` read these integers, and other operators their float values."""
        self._integers[tensor] = quantized
        self._dequantize(quantized, tensor)

    def dequantized(self, quantized: QuantizedTensor) -> str:
        """A float tensor with the values that integers stand for, made once."""
        if quantized.values not in self._floats:
            self._floats[quantized.values] = self._dequantize(
                quantized, self.builder.new(f"{quantized.values}/dequantized")
            )
        return self._floats[quantized.values]

    def weight(
        self,
        operator: Operator,
        config: OpConfig,
        factor: FloatArray | None = None,
        *,
        even: bool = False,
        as_matrix: bool = False,
    ) -> QuantizedWeight:
        """An operator's weight for its integer kernel, int8.

        Args:
            operator: of any type.
            config: how it is quantized.
            factor: what the inputs of a linear operator are multiplied by; None: 1.
            even: write 7 bits as even integers of 8, for a kernel that halves them.
            as_matrix: in the shape [inputs, features], of a pointwise convolution.
        """
        calibration = self.plan.calibration(operator.name)
        reduce_range, steps = calibration.reduce_range, calibration.steps
        # A unit asks for what any of its operators can have.
        corrected = self.plan.corrects_weight(operator.name) and can_correct(operator, config, self.plan.choices)

        def make() -> QuantizedWeight:
            value = kernel_weight(self.graph, operator)
            if factor is not None:
                value = value * factor[:, None]
            shape = value.shape[-2:] if as_matrix else value.shape
            if operator.type == DEPTHWISE:
                value = value.reshape(*shape[:2], operator.features)
            made = quantize_weight(
                value,
                config.weight,
                axis=value.ndim - 1,
                framework=FRAMEWORK,
                reduce_range=reduce_range,
                corrected=corrected,
                steps=steps,
            )
            if reduce_range and even:
                made = made.doubled()
            return QuantizedWeight(made.values.reshape(shape), made.scale, made.zero_point)

        changes = (content(operator.epilogue.multiplier), content(factor), content(steps))
        return self.kept(operator, ("kernel", config.weight, *changes, reduce_range, corrected, even, as_matrix), make)

    def corrected(self, operator: Operator, config: OpConfig, factor: FloatArray | None) -> Operator:
        """The operator with the bias that the plan corrects, for its integer kernel.

        Args:
            operator: linear, Conv2D or depthwise.
            config: how it is quantized.
            factor: what the inputs of a linear operator are multiplied by; None: 1.
        """
        means = self.plan.calibration(operator.name).input_means
        if means is None:
            return operator
        value, made = kernel_weight(self.graph, operator), self.weight(operator, config, factor)
        if factor is not None:
            value = value * factor[:, None]

        def by_features(weight: Array) -> Array:
            """[features, inputs of a group, *kernel]"""
            if operator.type == DEPTHWISE:
                weight = weight.reshape(*weight.shape[:2], 1, operator.features)
            return np.moveaxis(weight, -1, 0) if weight.ndim == 2 else weight.transpose(3, 2, 0, 1)

        bias = operator.epilogue.bias
        shifted = corrected_bias(bias, by_features(value), replace(made, values=by_features(made.values)), means)
        return replace(operator, epilogue=replace(operator.epilogue, bias=shifted))

    def kept(self, operator: Operator, changes: Hashable, make: Callable[[], Kept]) -> Kept:
        """What becomes of an operator's weight: the same object wherever the same is made of an equal weight.

        Args:
            operator: of any type.
            changes: says all that is done to the weight.
            make: does it.
        """
        steps = geometry_of(self.graph, operator).steps if operator.type in TRANSPOSED_TYPES else None
        layout = (operator.type == DEPTHWISE, operator.transposed, steps)
        return self._weights.get(operator.name, (self.graph.origin(operator.weight), layout, changes), make)

    def weight_parts(self, name: str, weight: QuantizedWeight, divisor: FloatArray | None) -> tuple[str, str, str]:
        """The weight as the tensors that integer kernels take: qint8 values, and the range of each feature.

        Args:
            name: prefix of their names.
            weight: int8.
            divisor: what each feature is divided by; None: 1.
        """
        values = self.quantized_constant(name, weight)
        step = np.broadcast_to(weight.scale, weight.values.shape[-1:] if weight.scale.ndim == 0 else weight.scale.shape)
        largest = np.asarray(step * np.float32(LARGEST_INT8) / (1 if divisor is None else divisor), np.float32)
        return (
            values,
            self.constant(f"{name}/weight/minimum", -largest),
            self.constant(f"{name}/weight/maximum", largest),
        )

    def quantized_constant(self, name: str, weight: QuantizedWeight) -> str:
        """The integers of a weight as a qint8 tensor, written once for all operators that share them.

        Args:
            name: prefix of its name, where it is not written yet.
            weight: int8.
        """
        key = id(weight)
        if key not in self._kernels:
            raw = self.builder.constant(f"{name}/weight", weight.values)
            values = self.builder.compute("Bitcast", [raw], f"{name}/weight/quantized", T=tf.int8, type=tf.qint8)
            self._kernels[key] = (weight, values)  # held, so that no other weight gets its address
        return self._kernels[key][1]

    def constant(self, name: str, value: Array) -> str:
        """A small constant, written once for all that are equal.

        Args:
            name: for it, where it is not written yet.
            value: of any type.
        """
        key = content(value)
        if key not in self._constants:
            self._constants[key] = self.builder.constant(name, value)
        return self._constants[key]

    def bias(self, name: str, operator: Operator, divisor: FloatArray | None) -> str:
        """The bias of an operator, which kernels always want."""
        bias = operator.epilogue.bias
        value = np.zeros(operator.features, np.float32) if bias is None else bias
        return self.constant(f"{name}/bias", np.asarray(value if divisor is None else value / divisor, np.float32))

    def integer_matrix(self, quantized: QuantizedTensor, columns: int, name: str) -> QuantizedTensor:
        """The same integers as [rows, columns]."""
        shape = self.constant(f"{name}/rows", np.array([-1, columns], np.int32))
        return quantized.reshaped(
            reshape(self.builder, quantized.values, shape, f"{name}/matrix", quantized.grid.dtype)
        )

    def output_shape(self, operator: Operator) -> str | None:
        """The tensor with the shape of what a linear operator makes; None: it is a matrix already."""
        if operator.epilogue.shape is not None or operator.node.op == "MatMul":
            return operator.epilogue.shape
        return self.shape_like(operator.input_of_product, operator.features, operator.name)

    def shape_like(self, tensor: str, features: int, name: str) -> str:
        """The shape of a float tensor with another number of features, see `shapes.shape_like`."""
        return shape_like(self.graph, self.builder, tensor, [features], name)

    def quantize(self, tensor: str, grid: Grid) -> QuantizedTensor:
        """A float tensor of the new graph in integers."""
        name = self.builder.new(f"{tensor.replace(':', '_')}/quantized")
        if grid.shift:  # a QuantizeV2 with a zero point of its own takes several times longer
            middle = self.builder.scalar(f"{name}/middle", -grid.shift * grid.scale)
            tensor = self.builder.compute("Sub", [tensor, middle], f"{name}/shifted", T=tf.float32)
        bounds = [
            self.builder.scalar(f"{name}/minimum", grid.minimum),
            self.builder.scalar(f"{name}/maximum", grid.maximum),
        ]
        values = self.builder.make(
            "QuantizeV2",
            [tensor, *bounds],
            name,
            T=grid.dtype,
            mode=grid.mode,
            round_mode="HALF_AWAY_FROM_ZERO" if grid.mode == MIN_FIRST else "HALF_TO_EVEN",
            narrow_range=grid.dtype == tf.qint8,
            axis=-1,
            ensure_minimum_range=1e-6,
        )
        return QuantizedTensor(values, f"{name}:1", f"{name}:2", grid)

    def fake_quantized(self, tensor: str, config: TensorConfig, limits: Range | None, name: str) -> str:
        """The tensor rounded to the values that integers of a type could have.

        Args:
            tensor: float.
            config: dtype and scheme.
            limits: smallest and largest value it takes; None: found whenever the model runs.
            name: prefix of new names.

        Raises:
            QuantizationError: the type has one bit, which TensorFlow cannot simulate.
        """
        parameters = activation_parameters(config, limits or (-1.0, 1.0))
        levels = parameters.quant_max - parameters.quant_min + 1
        bits = (levels - 1).bit_length()
        if bits < 2:
            raise QuantizationError(f"{name}: TensorFlow simulates 2 to 8 bits, not {config.dtype}.")
        if limits is None:
            bounds = self._limits(tensor, config, name)
        else:
            ends = (parameters.quant_min, parameters.quant_max)
            values = ((end - int(parameters.zero_point)) * float(parameters.scale) for end in ends)
            bounds = [self.builder.scalar(f"{name}/limit", value) for value in values]
        return self.builder.compute(
            "FakeQuantWithMinMaxVars",
            [tensor, *bounds],
            f"{name}/rounded",
            num_bits=bits,
            narrow_range=levels < 1 << bits,
        )

    def _limits(self, tensor: str, config: TensorConfig, name: str) -> list[str]:
        """Smallest and largest value of a tensor with zero between them; of equal size for a symmetric type."""

        def compute(op: str, *inputs: str, **attributes: Any) -> str:
            return self.builder.compute(op, inputs, f"{name}/{op}", T=tf.float32, **attributes)

        flat = reshape(self.builder, tensor, self.builder.constant(f"{name}/flat", np.array([-1], np.int32)), name)
        axis = self.builder.constant(f"{name}/axis", np.array(0, np.int32))
        if config.scheme == "sym":
            largest = compute("Max", compute("Abs", flat), axis, Tidx=tf.int32, keep_dims=False)
            return [compute("Neg", largest), largest]
        zero = self.builder.scalar(f"{name}/zero", 0.0)
        ends = [compute(op, flat, axis, Tidx=tf.int32, keep_dims=False) for op in ("Min", "Max")]
        return [compute("Minimum", ends[0], zero), compute("Maximum", ends[1], zero)]

    def _dequantize(self, quantized: QuantizedTensor, name: str) -> str:
        return self.builder.make(
            "Dequantize",
            [quantized.values, quantized.minimum, quantized.maximum],
            name,
            T=quantized.grid.dtype,
            dtype=tf.float32,
            mode=quantized.grid.mode,
            narrow_range=quantized.grid.dtype == tf.qint8,
            axis=-1,
        )
