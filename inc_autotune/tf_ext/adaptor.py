"""The adaptor of TensorFlow: the integer kernels of its stock CPU build."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import tensorflow as tf

from inc_autotune.core.adaptor import Adaptor, Half, UnitSpeed
from inc_autotune.core.analysis.gain import SupportsSize, SupportsTiming
from inc_autotune.core.analysis.sensitivity import SupportsHalves
from inc_autotune.core.analysis.smoothing_plan import SupportsSmoothing
from inc_autotune.core.analysis.timing import interleaved_seconds
from inc_autotune.core.analysis.unit_speed import SupportsUnitSpeeds
from inc_autotune.core.analysis.weight_shares import SupportsWeights, Weights
from inc_autotune.core.arrays import Array
from inc_autotune.core.errors import ArgumentError
from inc_autotune.core.op_config import OpConfig
from inc_autotune.core.quantization.smoothquant import InputGroup
from inc_autotune.core.quantization.split_statistics import Statistics
from inc_autotune.core.quantization.statistics import ActivationStatistics
from inc_autotune.core.space.capability import Capability, load_capability
from inc_autotune.core.space.units import Unit
from inc_autotune.graphs.calibration import Calibration, calibrate
from inc_autotune.graphs.digest import add_arrays
from inc_autotune.graphs.feed import Feed
from inc_autotune.graphs.padding import real_outputs, real_positions
from inc_autotune.tf_ext.calibration.analysis import Analysis
from inc_autotune.tf_ext.calibration.collect import runs, watching, with_tensors
from inc_autotune.tf_ext.calibration.plan import FRAMEWORK, KERNELS, GraphChoices, QuantizationPlan
from inc_autotune.tf_ext.calibration.ranges import group_weights, make_plan
from inc_autotune.tf_ext.calibration.recipe_entries import calibration_entries
from inc_autotune.tf_ext.data.feeds import feeds
from inc_autotune.tf_ext.data.signature_data import data_by_signature
from inc_autotune.tf_ext.emission.activation_grid import grid_of
from inc_autotune.tf_ext.emission.build import build_model
from inc_autotune.tf_ext.emission.routes import Primitive, Route, listed
from inc_autotune.tf_ext.emission.weight_width import with_reduced_weights
from inc_autotune.tf_ext.emission.weights import WeightCache
from inc_autotune.tf_ext.measurement.kernel_trial import KernelSupport, is_simulated, kernel_support
from inc_autotune.tf_ext.measurement.models import clock, measure_units, weight_bytes
from inc_autotune.tf_ext.model.candidate import Candidate

logger = logging.getLogger(__name__)

CAPABILITY_FOLDER = Path(__file__).parent / "capability"
MEASURED_SAMPLES = 8

_PROCESSOR = "this CPU has no VNNI, so weights use 7 bits"


class TensorFlowAdaptor(
    Adaptor, SupportsSmoothing, SupportsHalves, SupportsTiming, SupportsUnitSpeeds, SupportsSize, SupportsWeights
):
    """Quantizes TensorFlow graphs.

    The models it is given are `Candidate`s of a `SourceModel`; so are those it returns.

    Args:
        capability: the user's framework YAML or dict; None: the one shipped.
        signatures: names of the signatures to quantize; None: the first one. Others stay as they are.
        histogram: whether to collect histograms, which every calibration algorithm but minmax needs; off, an
            operator can only be calibrated by minmax.
        choices: how candidates are written.
        skipped: "first" and "last" operator, where they are to stay in fp32, with the reason.
        example_inputs: inputs for measuring the speed of the first of these signatures, in any form an item of the data
            may have; None: the first calibration samples.
    """

    framework = FRAMEWORK
    timed = "forward pass of a tf.function"

    def __init__(
        self,
        capability: Any = None,
        *,
        signatures: Sequence[str] | None = None,
        histogram: bool = False,
        choices: GraphChoices | None = None,
        skipped: Mapping[str, str] | None = None,
        example_inputs: Any = None,
    ) -> None:
        self.choices = GraphChoices() if choices is None else choices
        self.support: KernelSupport | None = None
        if self.choices.form == KERNELS:
            self.support = kernel_support()
            for note in self._missing_kernels():
                logger.warning(note)
        own = CAPABILITY_FOLDER / ("tensorflow.yaml" if self.choices.form == KERNELS else "itex.yaml")
        self.capability: Capability = load_capability(own, tf.__version__, capability)
        self._signatures, self._skipped = signatures, skipped
        self._histogram = histogram or self.capability.default_needs_histogram
        self._given_example = example_inputs
        self._example: Feed | None = None
        self._weights = WeightCache()
        self._analysis: Analysis | None = None
        self._calibrations: dict[str, Calibration] = {}

    # What the model is

    def query_fw_capability(self, model: Candidate) -> dict[str, Any]:
        opwise = {
            (name, each.type): [option.to_dict() for option in self.capability.options(each.type)]
            for name, each in self.analysis(model).operators.items()
        }
        return {
            "opwise": {operator: options for operator, options in opwise.items() if options},
            "optypewise": self.capability.optypewise(),
        }

    def known_types(self, model: Candidate) -> Collection[str]:
        return dir(tf.raw_ops)

    def groups(self, model: Candidate) -> Sequence[Sequence[str]]:
        return self.analysis(model).groups

    def skipped(self, model: Candidate) -> Mapping[str, str]:
        analysis = self.analysis(model)
        without = {
            name: f"no entry for {each.type} in the capability"
            for name, each in analysis.operators.items()
            if not self.capability.options(each.type)
        }
        return {**{name: reason for name, (_, reason) in analysis.skipped.items()}, **without}

    def operator_type(self, model: Candidate, name: str) -> str:
        analysis = self.analysis(model)
        return analysis.skipped[name][0] if name in analysis.skipped else analysis.operators[name].type

    def operator_weights(self, model: Candidate) -> Weights:
        return self.analysis(model).weights

    def is_simulated(self, name: str, config: OpConfig) -> bool:
        return is_simulated(self._known.operators[name].type, config, self.choices.form)

    def notes(self) -> Sequence[str]:
        if self.support is None:
            return (
                "written for Intel Extension for TensorFlow: not verified on hardware; stock TensorFlow computes it in "
                "float32, so no speed is measured",
            )
        notes = self._missing_kernels()
        if self.support.saturating:
            notes.append(f"{_PROCESSOR}: sums of products with 8 saturate in {listed(self.support.saturating)}")
        if self.support.halving:
            notes.append(f"{_PROCESSOR}: oneDNN halves those of 8 in {listed(self.support.halving)}")
        return notes + [note for each in self._calibrations.values() for note in each.held_out.notes]

    def _missing_kernels(self) -> list[str]:
        missing = () if self.support is None else self.support.missing
        return [
            f"this TensorFlow has no working kernel {each}: its operators are simulated in float32" for each in missing
        ]

    def fingerprint(self, model: Candidate) -> str:
        digest = hashlib.sha256()
        for name, signature in model.model.signatures.items():
            digest.update(name.encode())
            digest.update(signature.graph_def.SerializeToString(deterministic=True))
            add_arrays(digest, signature.weights)
        for calibration in self._calibrations.values():
            digest.update(calibration.digest.encode())
        if self.support is not None:  # the same configuration is another model where weights have 7 bits
            digest.update(listed(self.support.reduced).encode())
        if self._example is not None:  # gains are measured on it
            add_arrays(digest, self._example.inputs)
        return digest.hexdigest()

    # One pass over the data

    def calibrate(self, model: Candidate, dataloader: Any, sampling_sizes: Sequence[int], seed: int = 0) -> int:
        analysis = self.analysis(model)
        if self._given_example is not None:
            first = next(iter(analysis.graphs.values())).signature
            self._example = next(feeds([self._given_example], first, argument="example_inputs"))
        for name, data in data_by_signature(dataloader, model.model).items():
            signature = analysis.graphs[name].signature
            watched = analysis.watched(name, histogram=self._histogram)
            tensors = [each.name for each in watched]
            function = with_tensors(signature, tensors)
            given = feeds(data, signature, max(sampling_sizes), runs=partial(runs, function))
            run = watching(signature, function, tensors)
            self._calibrations[name] = calibrate(
                run, watched, given, sampling_sizes, seed=seed, argument="calib_dataset"
            )
        return max(each.samples for each in self._calibrations.values())

    def input_groups(self, units: Sequence[Unit], sampling_size: int) -> Sequence[InputGroup]:
        analysis = self._known
        statistics = self._statistics(sampling_size, without_held_out=True)
        return [
            InputGroup(
                name=unit.name,
                operators=unit.operator_names,
                statistics=statistics[analysis.operators[unit.name].input],
                folds=self._crossed(sampling_size, analysis.operators[unit.name].input),
                weights=partial(
                    group_weights, analysis.graph_of, [analysis.operators[name] for name in unit.operator_names]
                ),
                configs=(unit.options[0],) * len(unit.operators),
                reduce_range=self._reduces(unit, statistics[analysis.operators[unit.name].input]),
            )
            for unit in units
            if unit.options[0].approach == "static"
            and all(analysis.operators[name].is_linear for name in unit.operator_names)
        ]

    # Candidates

    def quantize(
        self,
        tune_cfg: Mapping[str, Any],
        model: Candidate,
        dataloader: Any,
        q_func: Callable[[Any], Any] | None = None,
    ) -> Candidate:
        if q_func is not None:
            raise ArgumentError("q_func: a frozen graph cannot be trained. Train the Keras model, then tune it.")
        analysis = self.analysis(model)
        if not self._calibrations:
            self.calibrate(model, dataloader, (tune_cfg["calib_iteration"],))
        return model.changed(build_model(analysis, self.plan(tune_cfg), self._weights))

    def half_quantized(self, tune_cfg: Mapping[str, Any], model: Candidate, half: Half) -> Candidate:
        return model.changed(build_model(self.analysis(model), self.plan(tune_cfg).only_half(half), self._weights))

    def to_recipe(self, tune_cfg: Mapping[str, Any], model: Candidate) -> tuple[dict[str, Any], dict[str, Any]]:
        plan = self.plan(tune_cfg)
        entries, arrays = calibration_entries(plan.configs, plan.calibrations, plan.choices)
        return dict(entries), dict(arrays)

    def plan(self, tune_cfg: Mapping[str, Any]) -> QuantizationPlan:
        """The numbers of one configuration.

        Raises:
            ArgumentError: `tune_cfg` names an operator that the model does not have.
        """
        analysis = self._known
        every = {name: OpConfig.from_dict(config) for (name, _), config in tune_cfg["op"].items()}
        for name, config in every.items():
            if name not in analysis.operators:
                known = ", ".join(map(repr, analysis.operators))
                raise ArgumentError(f"tune_cfg['op']: no operator is named {name!r}. Operators: {known}.")
            # An alpha of an operator that cannot be smoothed has no effect.
            if config.alpha is not None and not analysis.operators[name].is_linear:
                every[name] = config.with_alpha(None)
        plan = make_plan(
            analysis.graph_of,
            analysis.operators,
            {name: config for name, config in every.items() if config.dtype != "fp32"},
            self._statistics(tune_cfg["calib_iteration"], without_held_out=bool(tune_cfg.get("without_held_out"))),
            self.choices,
            self.is_simulated,
        )
        return plan if self.support is None else with_reduced_weights(analysis, plan, self.support.reduced)

    # Comparing candidates

    def reference_outputs(self) -> Sequence[Array]:
        return [output for each in self._calibrations.values() for output in each.held_out.outputs]

    def run(self, candidate: Candidate) -> Sequence[Array]:
        outputs: list[Array] = []
        for name, calibration in self._calibrations.items():
            function = candidate.callable.signatures[name]
            for feed in calibration.held_out.batches:
                values = [value.numpy() for value in function(**feed.inputs).values()]
                outputs += real_outputs(values, real_positions(feed))
        return outputs

    def measure(self, models: Sequence[Candidate]) -> Sequence[float] | None:
        if self.choices.form != KERNELS:
            return None
        name = next(iter(self._calibrations))
        inputs = {key: tf.constant(value) for key, value in self._measured_feed().inputs.items()}
        calls = [partial(model.callable.signatures[name], **inputs) for model in models]
        return interleaved_seconds(calls, clock())

    def unit_speeds(
        self, units: Sequence[Unit], expired: Callable[[], bool] = lambda: False
    ) -> Mapping[str, UnitSpeed]:
        if self.choices.form != KERNELS:
            return {}
        analysis = self._known
        graph = next(iter(analysis.graphs.values()))
        configs = {operator: unit.options[0].to_dict() for unit in units for operator in unit.operators}
        plan = self.plan({"op": configs, "calib_iteration": max(each.samples for each in self._calibrations.values())})
        return measure_units(units, graph, analysis.operators_of(graph), plan, self._measured_feed(), expired)

    def _measured_feed(self) -> Feed:
        """The user's example inputs, else the first samples held out."""
        if self._example is not None:
            return self._example
        return next(iter(self._calibrations.values())).held_out.first.take(MEASURED_SAMPLES)

    def model_size(self, model: Candidate) -> int:
        return weight_bytes(model.model)

    def analysis(self, model: Candidate) -> Analysis:
        """What the graphs of the model say, worked out once."""
        if self._analysis is None:
            self._analysis = Analysis(model.model, self._signatures, self._skipped)
        return self._analysis

    @property
    def _known(self) -> Analysis:
        if self._analysis is None:
            raise RuntimeError("the adaptor has not been given a model yet")
        return self._analysis

    def _reduces(self, unit: Unit, statistics: ActivationStatistics) -> bool:
        """Whether the weights of linear operators get 7 bits; smoothing, for which that counts, keeps signs."""
        config = unit.options[0]
        if self.support is None or self.is_simulated(unit.name, config):
            return False
        limits = float(statistics.channel_minimum.min()), float(statistics.channel_maximum.max())
        return Route(Primitive.MATMUL, grid_of(config.activation, limits).is_signed) in self.support.reduced

    def _statistics(self, size: int, *, without_held_out: bool) -> Statistics:
        if not self._calibrations:
            raise RuntimeError("the model has not been calibrated yet")
        snapshots = [each.snapshot(size) for each in self._calibrations.values()]
        return {
            name: statistics
            for each in snapshots
            for name, statistics in each.statistics(without_held_out=without_held_out).items()
        }

    def _crossed(self, size: int, tensor: str) -> tuple[ActivationStatistics, ...]:
        snapshots = [each.snapshot(size) for each in self._calibrations.values()]
        return next((each.crossed(tensor) for each in snapshots if tensor in each.every), ())
