"""Builds the quantized model from the fp32 model and a plan."""

from __future__ import annotations

from collections.abc import Mapping

import tensorflow as tf
from tensorflow.core.framework.node_def_pb2 import NodeDef

from inc_autotune.core.op_config import OpConfig
from inc_autotune.graphs import WeightCache, content
from inc_autotune.tf_ext.calibration import Analysis, QuantizationPlan
from inc_autotune.tf_ext.emission.chains import IntegerChains
from inc_autotune.tf_ext.emission.context import Emission
from inc_autotune.tf_ext.emission.convolution import Total, emit_convolution
from inc_autotune.tf_ext.emission.float_kernels import emit_bfloat16, emit_qdq, emit_simulated, emit_smoothed
from inc_autotune.tf_ext.emission.linear import emit_linear
from inc_autotune.tf_ext.emission.on_integers import emit_on_integers
from inc_autotune.tf_ext.emission.smoothing import place_smoothing
from inc_autotune.tf_ext.graph import Graph, GraphModel, SignatureGraph, tensor_name
from inc_autotune.tf_ext.operators import Operator
from inc_autotune.tf_ext.target import QDQ_FORM


def build_model(analysis: Analysis, plan: QuantizationPlan, weights: WeightCache) -> GraphModel:
    """The model with its signatures quantized as the plan says; signatures without planned operators stay as they are.

    Args:
        analysis: of the fp32 model.
        plan: configurations and calibrations of operators.
        weights: quantized weights, kept for the next call.
    """
    signatures = dict(analysis.model.signatures)
    for name, graph in analysis.graphs.items():
        operators = analysis.operators_of(graph)
        if any(operator in plan.configs or operator in plan.calibrations for operator in operators):
            signatures[name] = build_signature(graph, operators, plan, weights)
    return GraphModel(signatures)


def build_signature(
    graph: Graph, operators: Mapping[str, Operator], plan: QuantizationPlan, weights: WeightCache
) -> SignatureGraph:
    """Build the quantized form of one signature, node by node.

    Args:
        graph: the fp32 signature.
        operators: of that graph, by name.
        plan: configurations and calibrations of operators.
        weights: quantized weights, kept for the next call.
    """
    return _Build(graph, operators, plan, weights).run()


class _Build:
    def __init__(
        self, graph: Graph, operators: Mapping[str, Operator], plan: QuantizationPlan, weights: WeightCache
    ) -> None:
        self.graph, self.operators, self.plan = graph, operators, plan
        self.emission = Emission(graph, plan, weights)
        self.chains = IntegerChains(graph, operators, plan)
        self.placement = place_smoothing(graph, operators, plan)
        self._multiplied: dict[tuple[str, str], str] = {}

    def run(self) -> SignatureGraph:
        last_nodes: dict[str, Operator] = {}
        replaced: set[str] = set()
        for operator in self.operators.values():
            name = operator.name
            if self.plan.is_integer(name):
                residual = self.chains.residuals.get(name)
                nodes, output = operator.nodes, operator.output
                if residual is not None:
                    nodes, output = (*nodes, *residual.nodes), residual.output
                last_nodes[output] = operator
                replaced |= set(nodes) - {output}
            elif name in self.plan.configs or self.plan.calibration(name).smoothing is not None:
                last_nodes[operator.node.name] = operator
        for node in self.graph.nodes:
            if node.name in last_nodes:
                self._emit(last_nodes[node.name])
            elif node.name not in replaced:
                self._keep(node)
        return self.emission.builder.build()

    def _emit(self, operator: Operator) -> None:
        name = operator.name
        config, calibration = self.plan.configs.get(name), self.plan.calibration(name)
        source = self._smoothed_input(operator)
        if config is None:
            assert calibration.smoothing is not None
            emit_smoothed(self.emission, operator, source, calibration.smoothing)
        elif name in self.plan.simulated:
            emit_simulated(self.emission, operator, source, config, calibration.range, calibration.smoothing)
        elif not config.is_quantized:
            emit_bfloat16(self.emission, operator)
        elif self.plan.choices.form == QDQ_FORM:
            assert calibration.range is not None
            emit_qdq(self.emission, operator, source, config, calibration.range, calibration.smoothing)
        elif operator.is_linear:
            assert calibration.range is not None
            divisor = self.placement.operators.get(name)
            emit_linear(self.emission, operator, source, config, calibration.range, calibration.smoothing, divisor)
        else:
            assert calibration.range is not None
            total = self._total(name, config)
            output_range = self.chains.output_range(operator)
            emit_convolution(self.emission, operator, config, calibration.range, output_range, total)

    def _total(self, name: str, config: OpConfig) -> Total | None:
        """The residual sum that is fused with a convolution; None if there is none."""
        residual = self.chains.residuals.get(name)
        if residual is None:
            return None
        limits = self.chains.required_range(residual.addend)
        assert limits is not None
        return Total(residual, self.emission.quantized(residual.addend, config.activation, limits))

    def _smoothed_input(self, operator: Operator) -> str:
        """The operator's input, times the reciprocal smoothing scale unless that is folded into an earlier node."""
        scale = self.placement.multiplied.get(operator.name)
        if scale is None:
            return operator.input
        key = (operator.input, content(scale))
        if key not in self._multiplied:
            builder = self.emission.builder
            factor = builder.constant(f"{operator.name}/smoothing", 1 / scale)
            self._multiplied[key] = builder.compute(
                "Mul", [operator.input, factor], f"{operator.name}/smoothed", T=tf.float32
            )
        return self._multiplied[key]

    def _keep(self, node: NodeDef) -> None:
        if self.chains.contains(node):
            emit_on_integers(self.emission, node)
            return
        divided = [index for index in range(len(node.input)) if (node.name, index) in self.placement.constants]
        if not divided:
            self.emission.builder.keep(node)
            return
        changed = NodeDef()
        changed.CopyFrom(node)
        for index in divided:
            value = self.graph.constant(tensor_name(node.input[index]))
            assert value is not None
            scale = self.placement.constants[node.name, index]
            changed.input[index] = self.emission.builder.constant(f"{node.name}/divided", value / scale)
        self.emission.builder.keep(changed)
