"""From a Keras model and a plan to a student."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any

import keras
import numpy as np

from inc_autotune.core.errors import ArgumentError, ModelError
from inc_autotune.core.op_config import OpConfig
from inc_autotune.core.vocabulary import TrainedRanges
from inc_autotune.tf_ext.calibration import Analysis, QuantizationPlan
from inc_autotune.tf_ext.emission import InputRounding, IntegerChains, input_rounding, with_reduced_weights
from inc_autotune.tf_ext.measurement import kernel_support
from inc_autotune.tf_ext.model import KERAS_SUFFIXES, SourceModel, is_keras_model, load_source, read_keras_file
from inc_autotune.tf_ext.target import KERNEL_FORM
from inc_autotune.tf_ext.training.attachment import layers_of
from inc_autotune.tf_ext.training.forms import ActivationForm, OperatorForm
from inc_autotune.tf_ext.training.layer_operators import LayerCall, LayerOperator, match_operators, recorded_calls
from inc_autotune.tf_ext.training.student import Student

DEFAULT_RANGES: TrainedRanges = "learned"
"""Measured in benchmarks/tf/training.py."""

MIXED = "not trained: its layer is called on several tensors, which need integers of different kinds"
PER_TENSOR = "not trained: it asks for one scale for a weight that a BatchNorm is multiplied into; ask for per_channel"
AT_RUN_TIME = "not trained: its ranges are found whenever the model runs"


@dataclass(frozen=True)
class TracedCopy:
    """A copy of a Keras model, and what it is as a graph.

    Args:
        model: the copy, which layers may be changed of.
        layers: of the copy, see `layers_of`.
        calls: of the layers, in the trace.
        source: the graph.
    """

    model: Any
    layers: Sequence[Any]
    calls: Sequence[LayerCall]
    source: SourceModel


def may_be_trained(model: Any) -> bool:
    """Whether a model is one of Keras, or the path of one."""
    is_path = isinstance(model, str | PathLike) and Path(model).suffix in KERAS_SUFFIXES
    return is_path or is_keras_model(model)


def copied(model: Any) -> Any:
    """A Keras model of the same configuration and weights, which shares nothing with it.

    Raises:
        ModelError: it is no Keras model, has no weights yet, or cannot be built from its configuration.
    """
    if isinstance(model, str | PathLike) and Path(model).suffix in KERAS_SUFFIXES:
        model = _read(Path(model))
    if not is_keras_model(model):
        raise ModelError(
            f"model: a {type(model).__name__}, whose layers are not known. Training needs the Keras 3 model: give it, "
            "or its .keras file. A SavedModel or GraphDef can be tuned without training, by autotune()."
        )
    if isinstance(model, Student):
        raise ModelError("model: is a student already, which prepare() made. Train it, then convert() it.")
    if not model.built:
        raise ModelError("model: this Keras model has no weights yet. Call it once on data, or build it.")
    classes = {type(each).__name__: type(each) for each in layers_of(model)}
    try:
        with keras.saving.custom_object_scope({type(model).__name__: type(model), **classes}):
            made = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(model), safe_mode=False)
        made.set_weights(model.get_weights())
        for layer, original in zip(layers_of(made), layers_of(model), strict=True):
            layer._name = original.name  # Keras numbers unnamed ones through the process; operators are named by them
    except Exception as error:  # whatever a layer's constructor raises
        raise ModelError(
            f"model: Keras cannot make a copy of it ({type(error).__name__}: {error}). Give its class get_config() "
            "and, unless Keras can build it from an input shape, build_from_config(), as saving it as .keras needs too."
        ) from error
    return made


def _read(path: Path) -> Any:
    if not path.is_file():
        raise ArgumentError(f"model={str(path)!r}: no such file.")
    return read_keras_file(path)


def traced_copy(model: Any, signatures: Any = None) -> TracedCopy:
    """A copy of a Keras model with its graph, whose operators can be told by layer.

    Raises:
        ModelError: see `copied`, and `load_source`; or it computes in half precision.
    """
    own = copied(model)
    layers = layers_of(own)
    with recorded_calls(layers) as calls:
        source = load_source(own, signatures)
    half = next((each.half_type for each in source.signatures.values() if each.half_type is not None), None)
    if half is not None:
        raise ModelError(
            f"model: computes in {half}, and quantization-aware training takes float32. Build the model with the dtype "
            "policy 'float32' and give it these weights: other.set_weights(model.get_weights())."
        )
    return TracedCopy(own, layers, calls, source)


def uncorrected(plan: QuantizationPlan) -> QuantizationPlan:
    """A plan without what training makes up for: rounding, corrections, a clipped range of a weight."""

    def plain(config: OpConfig) -> OpConfig:
        weight = config.weight if config.weight.is_float else replace(config.weight, algorithm="minmax")
        return replace(config.with_corrections(()).with_rounding("nearest"), weight=weight)

    return replace(
        plan,
        configs={name: plain(config) for name, config in plan.configs.items()},
        calibrations={name: replace(each, input_means=None, steps=None) for name, each in plan.calibrations.items()},
    )


def student_of(
    copy: TracedCopy,
    plan: QuantizationPlan,
    *,
    reasons: Mapping[str, tuple[str, str]] | None = None,
    ranges: TrainedRanges = DEFAULT_RANGES,
    freeze_batch_norm: bool = False,
    keep_untrained: bool = False,
) -> Student:
    """The student that rounds as a plan says.

    Weights are rounded to nearest, in the range from smallest to largest, and no bias is corrected: training does what
    these are for. What no layer can round stays as it is.

    Args:
        copy: of the model; it belongs to the student from then on.
        plan: for the graph of the model.
        reasons: why operators stay in fp32, (type, reason) by name.
        ranges: what becomes of ranges in training.
        freeze_batch_norm: whether BatchNormalization keeps its running statistics in training.
        keep_untrained: whether what no layer can round becomes integers all the same, as the plan says.

    Raises:
        ModelError: nothing is left to be trained.
    """
    plan = uncorrected(plan)
    analysis = Analysis(copy.source, list(copy.source.signatures))
    matched, missed = match_operators(analysis, copy.calls, copy.layers)
    planned = {name: config for name, config in plan.configs.items() if config.is_quantized}
    missed = {name: reason for name, reason in missed.items() if name in planned}
    for name, config in planned.items():
        if name in matched and matched[name].is_folded and config.weight.granularity != "per_channel":
            missed[name] = PER_TENSOR
        elif config.approach == "dynamic":
            missed[name] = AT_RUN_TIME
    while True:  # where one operator returns float, others may read another grid
        rest = {name: config for name, config in plan.configs.items() if keep_untrained or name not in missed}
        remaining = replace(plan, configs=rest, calibrations={name: plan.calibration(name) for name in rest})
        if plan.choices.form == KERNEL_FORM:
            remaining = with_reduced_weights(analysis, remaining, kernel_support().reduced)
        forms = _forms(
            analysis, remaining, {name: matched[name] for name in planned if name not in missed}, copy.layers
        )
        if not forms.mixed:
            break
        missed |= dict.fromkeys(forms.mixed, MIXED)
    untrained = dict(reasons or {})
    untrained |= {name: (analysis.operators[name].type, reason) for name, reason in missed.items()}
    if not forms.operators:
        found = "; ".join(f"{name}: {reason}" for name, (_, reason) in untrained.items())
        raise ModelError(f"model: nothing in it can be trained in integers. {found or 'It has no operator for them.'}")
    student = Student(
        copy.model,
        forms.operators,
        forms.activations,
        ranges=ranges,
        freeze_batch_norm=freeze_batch_norm,
        choices=asdict(plan.choices),
        untrained=untrained,
        halves={name: each.to_dict() for name, each in rest.items() if not each.is_quantized},
    )
    for quantizer, scale in zip(student.operators, forms.smoothing, strict=True):
        if quantizer.smoothing is not None:
            quantizer.smoothing.assign(np.reshape(scale, quantizer.smoothing.shape))
    return student


@dataclass(frozen=True)
class _Forms:
    operators: list[OperatorForm]
    activations: list[ActivationForm]
    smoothing: list[Any]
    mixed: list[str]


def _forms(
    analysis: Analysis, plan: QuantizationPlan, matched: Mapping[str, LayerOperator], layers: Sequence[Any]
) -> _Forms:
    """What each weight of a layer is rounded to, and each activation once for all that read it."""
    roundings: dict[str, InputRounding | None] = {}
    for graph in analysis.bodies:
        operators = analysis.operators_of(graph)
        chains = IntegerChains(graph, operators, plan)
        for name, operator in operators.items():
            if name in matched:
                roundings[name] = input_rounding(graph, operator, plan, chains)
    by_weight: dict[tuple[int, str], list[str]] = {}
    for name in roundings:
        by_weight.setdefault((matched[name].layer, matched[name].role), []).append(name)
    shared = _shared(analysis, plan, roundings, by_weight)
    forms = _Forms([], [], [], [])
    positions: dict[int, int] = {}
    for (position, _), names in by_weight.items():
        first = matched[names[0]]
        together = shared[names[0]]
        found = {(each.quant_min, each.quant_max, each.scheme) for each in map(roundings.get, together) if each}
        configs = {plan.configs[name] for name in names}
        if len(found) > 1 or len(configs) > 1 or len({roundings[name] is None for name in names}) > 1:
            forms.mixed.extend(names)
            continue
        activation = None
        if roundings[names[0]] is not None:
            key = id(together)
            if key not in positions:
                positions[key] = len(forms.activations)
                forms.activations.append(_activation([each for each in map(roundings.get, together) if each]))
            activation = positions[key]
        calibration = plan.calibration(names[0])
        layer = layers[position]
        forms.smoothing.append(calibration.smoothing)
        forms.operators.append(
            OperatorForm(
                position,
                type(layer).__name__,
                first.role,
                first.layout,
                first.features,
                analysis.operators[names[0]].type,
                plan.configs[names[0]],
                any(plan.calibration(name).reduce_range for name in names),
                activation,
                _smoothed_shape(calibration.smoothing, layer),
                calibration.output_range,
                tuple(names),
            )
        )
    return forms


def _shared(
    analysis: Analysis,
    plan: QuantizationPlan,
    roundings: Mapping[str, InputRounding | None],
    by_weight: Mapping[tuple[int, str], Sequence[str]],
) -> dict[str, list[str]]:
    """The operators that round their input by one range, by each of their names: those that read one tensor, tensors of
    one range class, or belong to one layer."""
    groups = {name: [name] for name in roundings}

    def join(one: str, other: str) -> None:
        if groups[one] is not groups[other]:
            groups[one].extend(groups[other])
            groups.update(dict.fromkeys(groups[other], groups[one]))

    first: dict[Any, str] = {}
    for name, rounding in roundings.items():
        if rounding is None:
            continue
        kind = (rounding.quant_min, rounding.quant_max, rounding.scheme)
        own = (analysis.operators[name].input, rounding.limits, kind)
        key = ("chained", rounding.limits) if rounding.chained else own
        join(first.setdefault(key, name), name)
    for names in by_weight.values():
        for name in names[1:]:
            join(names[0], name)
    return groups


def _activation(roundings: Sequence[InputRounding]) -> ActivationForm:
    """One form for several operators, whose range holds the range of each."""
    first = roundings[0]
    minimum = min(0.0, *(float(each.limits[0]) for each in roundings))
    maximum = max(0.0, *(float(each.limits[1]) for each in roundings))
    if first.scheme == "sym":
        minimum, maximum = (-max(-minimum, maximum), max(-minimum, maximum)) if first.quant_min < 0 else (0.0, maximum)
    is_fixed = any(each.is_fixed for each in roundings)
    return ActivationForm(first.quant_min, first.quant_max, first.scheme, minimum, maximum, is_fixed)


def _smoothed_shape(scale: Any, layer: Any) -> tuple[int, ...] | None:
    """Sizes of the last axes of a layer's input, over which its smoothing scale runs."""
    if scale is None:
        return None
    sizes: list[int] = []
    for size in layer.kernel.shape:
        if int(np.prod(sizes, dtype=np.int64)) == scale.size and sizes:
            break
        sizes.append(int(size))
    return tuple(sizes) if int(np.prod(sizes, dtype=np.int64)) == scale.size else (int(scale.size),)
