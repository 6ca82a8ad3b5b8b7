"""Builds the quantized model from the fp32 model and a plan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import tensorflow as tf
from tensorflow.core.framework.node_def_pb2 import NodeDef

from inc_autotune.graphs import WeightCache, content
from inc_autotune.tf_ext.calibration import Analysis, QuantizationPlan
from inc_autotune.tf_ext.emission.activation_grid import CONVOLVED, grid_of
from inc_autotune.tf_ext.emission.calls import emit_call
from inc_autotune.tf_ext.emission.chains import IntegerChains
from inc_autotune.tf_ext.emission.context import Emission
from inc_autotune.tf_ext.emission.convolution import Total, emit_convolution
from inc_autotune.tf_ext.emission.float_kernels import emit_bfloat16, emit_qdq, emit_simulated, emit_smoothed
from inc_autotune.tf_ext.emission.linear import emit_dynamic, emit_linear
from inc_autotune.tf_ext.emission.lookup import emit_lookup
from inc_autotune.tf_ext.emission.on_integers import emit_on_integers
from inc_autotune.tf_ext.emission.rearranged import emit_transposed, emit_volume
from inc_autotune.tf_ext.emission.smoothing import place_smoothing
from inc_autotune.tf_ext.graph import Body, Graph, GraphModel, SignatureGraph, tensor_name
from inc_autotune.tf_ext.operators import LOOKUP, TRANSPOSED_TYPES, VOLUME, Operator
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
        made = _built(analysis, graph, plan, weights)
        if made is not None:
            signatures[name] = made
    return GraphModel(signatures)


def _built(analysis: Analysis, graph: Graph, plan: QuantizationPlan, weights: WeightCache) -> SignatureGraph | None:
    """The quantized form of a signature or of a function in it; None where the plan leaves it as it is."""
    operators = analysis.operators_of(graph)
    calls = [(body, _built(analysis, body.graph, plan, weights)) for body in analysis.bodies[graph]]
    changed = {body.caller for body, form in calls if form is not None}
    if not changed and not any(name in plan.configs or name in plan.calibrations for name in operators):
        return None
    return build_signature(graph, operators, plan, weights, [each for each in calls if each[0].caller in changed])


def build_signature(
    graph: Graph,
    operators: Mapping[str, Operator],
    plan: QuantizationPlan,
    weights: WeightCache,
    calls: Sequence[tuple[Body, SignatureGraph | None]] = (),
) -> SignatureGraph:
    """Build the quantized form of one signature, node by node.

    Args:
        graph: the fp32 signature.
        operators: of that graph, by name.
        plan: configurations and calibrations of operators.
        weights: quantized weights, kept for the next call.
        calls: all functions of the nodes that call quantized ones, with their new forms; None: stays as it is.
    """
    return _Build(graph, operators, plan, weights, calls).run()


class _Build:
    def __init__(
        self,
        graph: Graph,
        operators: Mapping[str, Operator],
        plan: QuantizationPlan,
        weights: WeightCache,
        calls: Sequence[tuple[Body, SignatureGraph | None]],
    ) -> None:
        self.graph, self.operators, self.plan = graph, operators, plan
        self.emission = Emission(graph, plan, weights)
        self.chains = IntegerChains(graph, operators, plan)
        self.placement = place_smoothing(graph, operators, plan)
        self._multiplied: dict[tuple[str, str], str] = {}
        self._calls: dict[str, list[tuple[Body, SignatureGraph | None]]] = {}
        for call in calls:
            self._calls.setdefault(call[0].caller, []).append(call)

    def run(self) -> SignatureGraph:
        last_nodes: dict[str, Operator] = {}
        replaced: set[str] = set()
        for operator in map(self._written, self.operators.values()):
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

    def _written(self, operator: Operator) -> Operator:
        """What of an operator is written anew, if it is."""
        return operator.without_function if self.plan.is_dynamic(operator.name) else operator

    def _emit(self, operator: Operator) -> None:
        name = operator.name
        config, calibration = self.plan.configs.get(name), self.plan.calibration(name)
        source = self._smoothed_input(operator)
        if config is not None and self.plan.is_integer(name):
            operator = self.emission.corrected(operator, config, calibration.smoothing)
        if config is None:
            assert calibration.smoothing is not None
            emit_smoothed(self.emission, operator, source, calibration.smoothing)
        elif name in self.plan.simulated:
            emit_simulated(self.emission, operator, source, config, calibration.range, calibration.smoothing)
        elif operator.type == LOOKUP:
            emit_lookup(self.emission, operator, config)
        elif not config.is_quantized:
            emit_bfloat16(self.emission, operator)
        elif self.plan.choices.form == QDQ_FORM:
            assert calibration.range is not None
            emit_qdq(self.emission, operator, source, config, calibration.range, calibration.smoothing)
        elif config.approach == "dynamic":
            divisor = self.placement.operators.get(name)
            emit_dynamic(self.emission, operator, source, config, calibration.smoothing, divisor)
        elif operator.is_linear:
            assert calibration.range is not None
            divisor = self.placement.operators.get(name)
            emit_linear(self.emission, operator, source, config, calibration.range, calibration.smoothing, divisor)
        else:
            assert calibration.range is not None
            output_range = self.chains.output_range(operator)
            if operator.type in TRANSPOSED_TYPES:
                emit_transposed(self.emission, operator, config, calibration.range, output_range)
            else:
                emit = emit_volume if operator.type == VOLUME else emit_convolution
                emit(self.emission, operator, config, calibration.range, output_range, self._total(name))

    def _total(self, name: str) -> Total | None:
        """The residual sum that is fused with a convolution; None if there is none."""
        residual = self.chains.residuals.get(name)
        if residual is None:
            return None
        limits = self.chains.required_range(residual.addend)
        assert limits is not None
        return Total(residual, self.emission.quantized(residual.addend, grid_of(CONVOLVED, limits), limits))

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
        if node.name in self._calls:
            emit_call(self.emission, node, self._calls[node.name])
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
