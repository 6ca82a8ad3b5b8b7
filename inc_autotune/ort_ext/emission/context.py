"""The model under construction and its quantized tensors, which the emitters of all operator types share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable
from dataclasses import dataclass

import numpy as np

from inc_autotune.core.arrays import FloatArray
from inc_autotune.core.op_config import TensorConfig
from inc_autotune.core.quantization import QuantizationParameters, integer_type, quantization_parameters, quantize
from inc_autotune.graphs import QuantizedWeight, Steps, WeightCache, content, quantize_weight
from inc_autotune.ort_ext.calibration import FRAMEWORK, QuantizationPlan
from inc_autotune.ort_ext.graph import Graph, GraphBuilder
from inc_autotune.ort_ext.target import GraphForm


@dataclass(frozen=True)
class QuantizedNames:
    """Names of the three tensors that a quantized activation or weight consists of."""

    values: str
    scale: str
    zero_point: str

    @property
    def parts(self) -> list[str]:
        """The inputs of a DequantizeLinear."""
        return [self.values, self.scale, self.zero_point]


@dataclass(frozen=True)
class QuantizedTensor(QuantizedNames):
    """A quantized activation; `step` is the value of its scale, NaN if that is known at run time only."""

    step: float


@dataclass(frozen=True, eq=False)
class WeightRounding:
    """How the weight of one operator is rounded, beside its dtype.

    Args:
        framework: whose formulas give the scales.
        reduce_range: one bit less.
        corrected: integers and scales are changed so that each channel keeps its mean and its norm.
        steps: how far integers are from the nearest ones; None: they are these.
    """

    framework: str
    reduce_range: bool
    corrected: bool
    steps: Steps | None

    @property
    def version(self) -> Hashable:
        """The same for weights that are rounded alike."""
        return self.framework, self.reduce_range, self.corrected, content(self.steps)

    def quantized(self, weight: FloatArray, config: TensorConfig) -> QuantizedWeight:
        """The weight [out, ...] in integers."""
        return quantize_weight(
            weight,
            config,
            axis=0,
            framework=self.framework,
            reduce_range=self.reduce_range,
            corrected=self.corrected,
            steps=self.steps,
        )


class Emission:
    """A model under construction.

    Args:
        graph: the fp32 model.
        plan: configurations and calibrations of operators.
        form: what may stand in the quantized graph.
        weights: quantized weights of earlier models.
    """

    def __init__(self, graph: Graph, plan: QuantizationPlan, form: GraphForm, weights: WeightCache) -> None:
        self.graph = graph
        self.plan = plan
        self.form = form
        self.weights = weights
        self.builder = GraphBuilder(graph)
        self._versions: Counter[tuple[str, str]] = Counter()
        self._quantized: dict[tuple[str, TensorConfig, tuple[float, float]], QuantizedTensor] = {}
        self._dynamic: dict[str, QuantizedTensor] = {}
        self._grid: dict[str, QuantizedTensor] = {}
        self._dequantized: dict[str, str] = {}
        self._stored: dict[Hashable, QuantizedNames] = {}
        self._float_weights: dict[Hashable, str] = {}

    def rounding(self, operator: str) -> WeightRounding:
        """How the plan rounds the weight of an operator."""
        calibration = self.plan.calibration(operator)
        return WeightRounding(
            calibration.weight_framework or FRAMEWORK,
            calibration.reduce_range,
            self.plan.corrects_weight(operator),
            calibration.steps,
        )

    def prefix(self, kind: str, base: str) -> str:
        """The prefix for the names of a new version of a tensor: `base`, then `base.2`, `base.3` and so on.

        Args:
            kind: of the version, such as "weight" or "smoothed"; versions of different kinds are counted apart.
            base: name of the tensor that the versions are made from.
        """
        self._versions[kind, base] += 1
        number = self._versions[kind, base]
        return base if number == 1 else f"{base}.{number}"

    def quantized(self, tensor: str, config: TensorConfig, limits: tuple[float, float]) -> QuantizedTensor:
        """The tensor in integers, quantized once for all operators with the same type and range.

        Args:
            tensor: a float tensor of the new model.
            config: dtype and scheme.
            limits: smallest and largest value of the tensor.
        """
        if tensor in self._grid:
            return self._grid[tensor]
        key = (tensor, config, limits)
        if key not in self._quantized:
            self._quantized[key] = self._quantize(tensor, self.prefix("activation", tensor), config, limits)
        return self._quantized[key]

    def dynamically_quantized(self, tensor: str) -> QuantizedTensor:
        """The tensor in uint8, with scale and zero point computed when the model runs, once for all readers."""
        if tensor not in self._dynamic:
            name = f"{tensor}.dynamic"
            outputs = [self.builder.new(f"{name}.{part}") for part in ("quantized", "scale", "zero_point")]
            node = self.builder.new_node(f"{name}.QuantizeLinear")
            self.builder.produce("DynamicQuantizeLinear", [tensor], outputs, node)
            values, scale, zero_point = outputs
            self._dynamic[tensor] = QuantizedTensor(values, scale, zero_point, float("nan"))
        return self._dynamic[tensor]

    def dequantized(self, tensor: str, quantized: QuantizedTensor) -> str:
        """The float tensor with the values that `quantized` holds."""
        if tensor in self._grid:
            return tensor
        return self._dequantize(quantized)

    def put_on_grid(self, tensor: str, real: str, config: TensorConfig, limits: tuple[float, float]) -> None:
        """Let every reader of `tensor` read integers made of the float tensor `real`."""
        self._put(tensor, self._quantize(real, tensor, config, limits))

    def put_on_same_grid(self, tensor: str, real: str, like: str) -> None:
        """`put_on_grid` with the scale and zero point of the tensor `like`, which is on a grid."""
        grid = self._grid[like]
        values = self.builder.compute("QuantizeLinear", [real, grid.scale, grid.zero_point], f"{tensor}.quantized")
        self._put(tensor, QuantizedTensor(values, grid.scale, grid.zero_point, grid.step))

    def constant_on_grid(self, name: str, config: TensorConfig) -> str:
        """Quantize a float constant of the fp32 model to 8 bits, with the range of its values.

        Returns:
            Name of the dequantized constant.
        """
        value = self.graph.constant(name)
        parameters = quantization_parameters(
            np.float32(value.min()),
            np.float32(value.max()),
            dtype=config.dtype,
            scheme=config.scheme or "asym",
            framework=FRAMEWORK,
        )
        dtype = np.int8 if integer_type(config.dtype).signed else np.uint8
        quantized = QuantizedWeight(
            quantize(value, parameters, None).astype(dtype),
            np.asarray(parameters.scale, np.float32),
            np.asarray(parameters.zero_point, dtype),
        )
        names = self.weight(name, ("on grid", name, config), quantized)
        return self._dequantize(names)

    def weight(self, name: str, version: Hashable, weight: QuantizedWeight) -> QuantizedNames:
        """The constants of a quantized weight, written once for all operators that share a version of it.

        Args:
            name: of the float weight.
            version: cache key: the weight, and everything that its integers depend on.
            weight: that version of the weight.
        """
        if version not in self._stored:
            prefix = self.prefix("weight", name)
            self._stored[version] = QuantizedNames(
                self.builder.constant(f"{prefix}.quantized", weight.values),
                self.builder.constant(f"{prefix}.scale", weight.scale),
                self.builder.constant(f"{prefix}.zero_point", weight.zero_point),
            )
        return self._stored[version]

    def float_weight(self, name: str, version: Hashable, make: Callable[[], FloatArray]) -> str:
        """A changed weight in fp32, written once for all operators that share a version of it.

        Args:
            name: of the weight in the fp32 model.
            version: cache key: the weight, and everything that its values depend on.
            make: computes the changed weight.
        """
        if version not in self._float_weights:
            self._float_weights[version] = self.builder.constant(f"{self.prefix('smoothed', name)}.smoothed", make())
        return self._float_weights[version]

    def _put(self, tensor: str, quantized: QuantizedTensor) -> None:
        node = self.builder.new_node(f"{tensor}.DequantizeLinear")
        self.builder.produce("DequantizeLinear", quantized.parts, [tensor], node)
        self._grid[tensor] = quantized

    def _dequantize(self, quantized: QuantizedNames) -> str:
        name = quantized.values
        if name not in self._dequantized:
            self._dequantized[name] = self.builder.compute("DequantizeLinear", quantized.parts, f"{name}.dequantized")
        return self._dequantized[name]

    def _quantize(self, real: str, name: str, config: TensorConfig, limits: tuple[float, float]) -> QuantizedTensor:
        parameters = quantization_parameters(
            np.float32(limits[0]),
            np.float32(limits[1]),
            dtype=config.dtype,
            scheme=config.scheme or "asym",
            framework=FRAMEWORK,
        )
        kind = integer_type(config.dtype)
        scale = self.builder.constant(f"{name}.scale", np.asarray(parameters.scale, np.float32))
        dtype = np.int8 if kind.signed else np.uint8
        zero_point = self.builder.constant(f"{name}.zero_point", np.asarray(parameters.zero_point, dtype))
        if kind.bits < 8:
            real = self._clipped(real, name, parameters)
        values = self.builder.compute("QuantizeLinear", [real, scale, zero_point], f"{name}.quantized")
        return QuantizedTensor(values, scale, zero_point, float(parameters.scale))

    def _clipped(self, real: str, name: str, parameters: QuantizationParameters) -> str:
        """Clip a tensor to the range of a narrow type: its integers live in 8 bits, which QuantizeLinear would fill."""
        bounds = [
            self.builder.constant(
                f"{name}.{side}", np.asarray((limit - parameters.zero_point) * parameters.scale, np.float32)
            )
            for side, limit in (("lowest", parameters.quant_min), ("highest", parameters.quant_max))
        ]
        return self.builder.compute("Clip", [real, *bounds], f"{name}.clipped")
