"""Two adaptors for the tiny framework: a minimal one, and one with most optional methods."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from inc_autotune.core.adaptor import Adaptor
from inc_autotune.core.analysis.gain import SupportsFootprint, SupportsSize
from inc_autotune.core.analysis.output_error import SupportsComparison
from inc_autotune.core.analysis.smoothing_plan import SupportsSmoothing
from inc_autotune.core.analysis.training import TRAINED, StudentState, SupportsTraining
from inc_autotune.core.analysis.weight_shares import SupportsWeights, Weights
from inc_autotune.core.arrays import FloatArray
from inc_autotune.core.data.loaders import no_sample
from inc_autotune.core.errors import ArgumentError, TrainingError
from inc_autotune.core.op_config import OpConfig
from inc_autotune.core.quantization.affine import fake_quantize, quantization_parameters
from inc_autotune.core.quantization.smoothing_scale import group_scale
from inc_autotune.core.quantization.smoothquant import InputGroup, smoothed_range
from inc_autotune.core.quantization.statistics import ActivationStatistics
from inc_autotune.core.quantization.weight_grid import weight_parameters
from inc_autotune.core.space.capability import Capability, load_capability
from inc_autotune.core.space.units import Unit
from inc_autotune.testing.numpy_framework import Dense, NumpyModel, with_arrays

CAPABILITY = Path(__file__).parent / "numpy.yaml"


class MinimalNumpyAdaptor(Adaptor):
    """Only the two methods that every adaptor must have."""

    framework = "pytorch"

    def __init__(self, capability: Mapping[str, Any] | None = None) -> None:
        self.capability: Capability = load_capability(CAPABILITY, "1", capability)

    def query_fw_capability(self, model: NumpyModel) -> dict[str, Any]:
        options = [option.to_dict() for option in self.capability.options("Dense")]
        return {
            "opwise": {(layer.name, "Dense"): options for layer in model.layers},
            "optypewise": self.capability.optypewise(),
        }

    def quantize(
        self,
        tune_cfg: Mapping[str, Any],
        model: NumpyModel,
        dataloader: Any,
        q_func: Callable[[Any], Any] | None = None,
    ) -> NumpyModel:
        inputs = model.inputs_of_layers(_samples(dataloader, tune_cfg["calib_iteration"]))
        statistics = {}
        for name, values in inputs.items():
            statistics[name] = ActivationStatistics(name)
            statistics[name].update(values)
        quantized = quantized_model(tune_cfg, model, statistics)
        if q_func is not None:
            q_func(quantized)
        return quantized


class NumpyAdaptor(
    MinimalNumpyAdaptor,
    SupportsSmoothing,
    SupportsComparison,
    SupportsSize,
    SupportsFootprint,
    SupportsWeights,
    SupportsTraining,
):
    """Most optional methods too: one calibration pass, smoothing, output errors, sizes, resuming, training."""

    def __init__(self, capability: Mapping[str, Any] | None = None) -> None:
        super().__init__(capability)
        self._snapshots: dict[int, dict[str, ActivationStatistics]] = {}
        self._held_out = np.zeros((0, 0), np.float32)
        self._reference = self._held_out
        self._model = NumpyModel(())

    def calibrate(self, model: NumpyModel, dataloader: Any, sampling_sizes: Sequence[int], seed: int = 0) -> int:
        samples = _samples(dataloader, max(sampling_sizes))
        held_out = len(samples) // 4
        self._model, self._held_out = model, samples[:held_out]
        self._reference = model(self._held_out)
        statistics = {layer.name: ActivationStatistics(layer.name, rows=64, seed=seed) for layer in model.layers}
        bounds = sorted({0, held_out, len(samples), *(size for size in sampling_sizes if size < len(samples))})
        for start, stop in pairwise(bounds):
            for name, values in model.inputs_of_layers(samples[start:stop]).items():
                statistics[name].update(values, keep_rows=start >= held_out)
            self._snapshots[stop] = {name: layer.copy() for name, layer in statistics.items()}
        return len(samples)

    def quantize(
        self,
        tune_cfg: Mapping[str, Any],
        model: NumpyModel,
        dataloader: Any,
        q_func: Callable[[Any], Any] | None = None,
    ) -> NumpyModel:
        if not self._snapshots:
            self.calibrate(model, dataloader, (tune_cfg["calib_iteration"],))
        size = min(tune_cfg["calib_iteration"], max(self._snapshots))
        model = with_arrays(model, tune_cfg.get(TRAINED, {}))
        quantized = quantized_model(tune_cfg, model, self._snapshots[size])
        if q_func is not None:
            q_func(quantized)
        return quantized

    def student(self, tune_cfg: Mapping[str, Any], model: NumpyModel) -> NumpyModel:
        """A model that rounds activations; its weights are to be changed in place."""
        model = with_arrays(model, tune_cfg.get(TRAINED, {}))
        rounded = {layer.name: layer for layer in self.quantize(tune_cfg, model, None).layers}
        return model.with_layers([replace(layer, transform=rounded[layer.name].transform) for layer in model.layers])

    def student_state(self, student: NumpyModel, returned: Any = None) -> StudentState:
        if returned is not None and not isinstance(returned, NumpyModel):
            raise TrainingError(f"train_func returned a {type(returned).__name__}. Allowed: None or a NumpyModel.")
        trained = student if returned is None else returned
        arrays: dict[str, FloatArray] = {}
        operators: dict[str, tuple[str, ...]] = {}
        for layer in trained.layers:
            arrays |= {f"{layer.name}.weight": layer.weight.copy(), f"{layer.name}.bias": layer.bias.copy()}
            operators[layer.name] = (f"{layer.name}.weight", f"{layer.name}.bias")
        return StudentState(arrays, operators)

    def input_groups(self, units: Sequence[Unit], sampling_size: int) -> Sequence[InputGroup]:
        layers = {layer.name: layer for layer in self._model.layers}
        return [
            InputGroup(
                name=unit.name,
                operators=unit.operator_names,
                statistics=self._snapshots[sampling_size][unit.name],
                weights=partial(_weights, [layers[name] for name in unit.operator_names]),
                configs=(unit.options[0],) * len(unit.operators),
            )
            for unit in units
        ]

    def reference_outputs(self) -> Sequence[FloatArray]:
        return [self._reference]

    def run(self, candidate: NumpyModel) -> Sequence[FloatArray]:
        return [candidate(self._held_out)]

    def model_size(self, model: NumpyModel) -> int:
        return sum(layer.weight.size * (4 if layer.transform.__name__ == "identity" else 1) for layer in model.layers)

    def operator_weights(self, model: NumpyModel) -> Weights:
        return {layer.name: {id(layer.weight): layer.weight.size} for layer in model.layers}

    def footprint(self, models: Sequence[NumpyModel]) -> Sequence[int]:
        features = [layer.weight.shape for layer in self._model.layers]
        activations = max(4 * len(self._held_out) * (inputs + outputs) for outputs, inputs in features)
        return [self.model_size(model) + activations for model in models]

    def fingerprint(self, model: NumpyModel) -> str:
        digest = hashlib.sha256()
        for layer in model.layers:
            digest.update(layer.name.encode() + layer.weight.tobytes() + layer.bias.tobytes())
        digest.update(self._held_out.tobytes())
        return digest.hexdigest()


def quantized_model(
    tune_cfg: Mapping[str, Any], model: NumpyModel, statistics: Mapping[str, ActivationStatistics]
) -> NumpyModel:
    """The model with weights and activations rounded as the configuration says.

    Raises:
        ArgumentError: the configuration names an operator that the model does not have.
    """
    layers = {layer.name: layer for layer in model.layers}
    unknown = [name for name, _ in tune_cfg["op"] if name not in layers]
    if unknown:
        raise ArgumentError(f"tune_cfg['op']: no operator named {unknown[0]!r}. Operators: {', '.join(layers)}.")
    quantized = []
    for (name, _), entry in tune_cfg["op"].items():
        config = OpConfig.from_dict(entry)
        if config.is_quantized:
            quantized.append(_quantized_layer(layers[name], config, statistics[name]))
    return model.with_layers(quantized)


def _quantized_layer(layer: Dense, config: OpConfig, statistics: ActivationStatistics) -> Dense:
    scale = None
    if config.alpha is not None:
        scale = group_scale(statistics.channel_absmax, [layer.weight], config.alpha, config.form)
    minimum, maximum = smoothed_range(statistics, scale, config.activation)
    activation = quantization_parameters(
        np.float32(minimum), np.float32(maximum), dtype=config.activation.dtype, scheme=str(config.activation.scheme)
    )
    factor = np.ones(layer.weight.shape[1], np.float32) if scale is None else scale
    smoothed = layer.weight * factor
    weight = fake_quantize(smoothed, weight_parameters(smoothed, config.weight), axis=0)

    def rounded(values: FloatArray) -> FloatArray:
        result: FloatArray = fake_quantize(values / factor, activation)
        return result

    return Dense(layer.name, weight.astype(np.float32), layer.bias, rounded)


def _weights(layers: Sequence[Dense]) -> list[FloatArray]:
    return [layer.weight for layer in layers]


def _samples(dataloader: Iterable[Any] | None, limit: int) -> FloatArray:
    """The first `limit` samples of an iterable of arrays [batch, features]."""
    batches: list[FloatArray] = []
    for batch in dataloader or ():
        batches.append(np.asarray(batch, np.float32))
        if sum(map(len, batches)) >= limit:
            break
    if not batches:
        raise no_sample("calib_dataloader")
    return np.concatenate(batches)[:limit]
