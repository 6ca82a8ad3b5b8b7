"""Builds the quantized model from the fp32 model and a plan."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx

from inc_autotune.core.arrays import FloatArray
from inc_autotune.core.errors import QuantizationError
from inc_autotune.graphs import WeightCache
from inc_autotune.ort_ext.calibration import GridTensor, QuantizationPlan, constants_on_grid, find_grid
from inc_autotune.ort_ext.emission.context import Emission
from inc_autotune.ort_ext.emission.convolution import emit_convolution
from inc_autotune.ort_ext.emission.covered_bounds import without_covered_bounds
from inc_autotune.ort_ext.emission.gather import emit_gather
from inc_autotune.ort_ext.emission.linear import emit_linear
from inc_autotune.ort_ext.emission.lstm import emit_lstm
from inc_autotune.ort_ext.emission.qdq_pairs import dedicated_pairs, weight_pairs
from inc_autotune.ort_ext.emission.scan import emit_scan
from inc_autotune.ort_ext.emission.smoothing import Placement, divided_inputs, place_smoothing
from inc_autotune.ort_ext.emission.stack import emit_left, emit_stack
from inc_autotune.ort_ext.emission.transposed_convolution import emit_transposed_convolution
from inc_autotune.ort_ext.graph import Graph, GraphModel, with_inputs
from inc_autotune.ort_ext.operators import SCANNED_TYPES, Operator, Operators, after_activation, missing_kernel
from inc_autotune.ort_ext.target import GraphForm


def build_model(
    graph: Graph, operators: Operators, plan: QuantizationPlan, form: GraphForm, weights: WeightCache
) -> GraphModel:
    """Build the quantized form of a model, node by node.

    Args:
        graph: the fp32 model.
        operators: of that graph.
        plan: configurations and calibrations of operators.
        form: what may stand in the quantized graph.
        weights: quantized weights, kept for the next call.
    """
    built = _Build(graph, operators, plan, form, weights).run()
    if form.weight_pairs:
        built = weight_pairs(built)
    return dedicated_pairs(built) if form.dedicated_pairs else built


class _Build:
    def __init__(
        self, graph: Graph, operators: Operators, plan: QuantizationPlan, form: GraphForm, weights: WeightCache
    ) -> None:
        self.graph, self.operators, self.plan = graph, operators.found, plan
        self.emission = Emission(graph, plan, form, weights)
        self.placement: Placement = place_smoothing(graph, self.operators, plan)
        static = [self.operators[name] for name in plan.static]
        self.grid: dict[str, GridTensor] = find_grid(graph, static, form, plan.output_ranges)
        self._multiplied: dict[tuple[str, int], str] = {}
        self._reals: dict[str, str] = {}

    def run(self) -> GraphModel:
        rewritten = {
            name: operator
            for name, operator in self.operators.items()
            if name in self.plan.configs
            or self.plan.calibration(name).smoothing is not None
            or name in self.placement.operator_divisors
        }
        bias_nodes = {operator.bias_node for operator in rewritten.values()}
        for node in self.graph.nodes:
            if node.name in rewritten:
                self._emit(rewritten[node.name])
            elif node.name in self.placement.node_divisors:
                self._emit_divided(node, self.placement.node_divisors[node.name])
            elif node.name not in bias_nodes:
                self._keep(node)
            for tensor in node.output:
                if tensor in self.grid:
                    self._put_on_grid(tensor)
        return without_covered_bounds(Graph(self.emission.builder.build()), self._reals.values()).model

    def _emit(self, operator: Operator) -> None:
        config = self.plan.configs.get(operator.name)
        missing = None if config is None else missing_kernel(operator.type, config, operator.layout)
        if missing is not None:
            raise QuantizationError(f"{operator.name}: {missing}. Change its rule or its entry in the capability.")
        calibration = self.plan.calibration(operator.name)
        if operator.is_linear:
            divisor = self.placement.operator_divisors.get(operator.name)
            written = replace(operator, output=self._real(operator.output))
            emit_linear(self.emission, written, self._smoothed_input(operator), config, calibration, divisor)
            return
        assert config is not None
        if operator.layout != "right":
            write = emit_left if operator.layout == "left" else emit_stack
            write(self.emission, replace(operator, output=self._real(operator.output)), config, calibration)
            return
        if operator.type == "Gather":
            emit_gather(self.emission, operator, config)
            return
        if operator.type == "LSTM":
            emit_lstm(self.emission, operator, config)
            return
        if operator.type in SCANNED_TYPES:
            emit_scan(self.emission, operator, config)
            return
        assert calibration.range is not None
        if operator.type == "ConvTranspose":
            limits = self.plan.output_ranges.get(after_activation(self.graph, operator.output))
            emit_transposed_convolution(
                self.emission, operator, config, calibration.range, self._real(operator.output), limits
            )
            return
        emit_convolution(self.emission, operator, config, calibration.range, self._real(operator.output))

    def _smoothed_input(self, operator: Operator) -> str:
        """The operator's input, times the reciprocal smoothing scale unless that is folded into an earlier node."""
        scale = self.placement.multiplied.get(operator.name)
        if scale is None:
            return operator.input
        key = (operator.input, id(scale))
        if key not in self._multiplied:
            builder = self.emission.builder
            name = self.emission.prefix("smoothed", f"{operator.input}.smoothed")
            factor = builder.constant(f"{name}.factor", 1 / scale)
            self._multiplied[key] = builder.compute("Mul", [operator.input, factor], name)
        return self._multiplied[key]

    def _emit_divided(self, node: onnx.NodeProto, scale: FloatArray) -> None:
        """Keep a normalization or Mul, with its constants divided by a smoothing scale."""
        inputs = {}
        for index in divided_inputs(self.graph, node):
            value = np.asarray(self.graph.constant(node.input[index]) / scale, np.float32)
            inputs[index] = self.emission.builder.constant(f"{node.name}.input_{index}", value)
        self.emission.builder.keep(with_inputs(node, inputs))

    def _keep(self, node: onnx.NodeProto) -> None:
        constants = constants_on_grid(self.graph, node, self.grid)
        if not constants and not any(tensor in self.grid for tensor in node.output):
            self.emission.builder.keep(node)
            return
        inputs = {}
        for index in constants:
            owner = self.grid[after_activation(self.graph, node.output[0])].owner
            activation = self.plan.configs[owner].activation
            inputs[index] = self.emission.constant_on_grid(node.input[index], activation)
        changed = with_inputs(node, inputs)
        changed.output[:] = [self._real(tensor) for tensor in node.output]
        self.emission.builder.keep(changed)

    def _real(self, tensor: str) -> str:
        """The name that a tensor has before it is quantized: another one if the tensor is on a grid."""
        if tensor not in self.grid:
            return tensor
        if tensor not in self._reals:
            self._reals[tensor] = self.emission.builder.new(f"{tensor}.real")
        return self._reals[tensor]

    def _put_on_grid(self, tensor: str) -> None:
        place = self.grid[tensor]
        if place.same_as is not None:
            self.emission.put_on_same_grid(tensor, self._real(tensor), place.same_as)
            return
        activation = self.plan.configs[place.owner].activation
        self.emission.put_on_grid(tensor, self._real(tensor), activation, self.plan.output_ranges[tensor])
