"""The adaptor of TensorFlow: the integer kernels of its stock CPU build."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import tensorflow as tf

from inc_autotune.core.adaptor import Half, UnitSpeed
from inc_autotune.core.analysis import (
    NO_SUM,
    TRAINED,
    StudentState,
    SupportsCorrections,
    SupportsHalves,
    SupportsRounding,
    SupportsSize,
    SupportsThreads,
    SupportsTiming,
    SupportsTraining,
    SupportsUnitSpeeds,
    SupportsWeights,
    Weights,
    interleaved_seconds,
    wall_clock,
)
from inc_autotune.core.arrays import Array, FloatArray
from inc_autotune.core.errors import ArgumentError
from inc_autotune.core.op_config import OpConfig
from inc_autotune.core.quantization import ActivationStatistics
from inc_autotune.core.run_context import run_context
from inc_autotune.core.space import Unit, load_capability
from inc_autotune.core.vocabulary import CORRECTIONS, Correction
from inc_autotune.graphs import (
    Feed,
    GraphAdaptor,
    SampleAxis,
    WeightCache,
    add_arrays,
    calibrate,
    reading_model,
)
from inc_autotune.tf_ext.calibration import (
    FRAMEWORK,
    Analysis,
    QuantizationPlan,
    calibration_entries,
    can_correct,
    group_weights,
    half_note,
    make_plan,
    outputs_or_none,
    watching,
    with_tensors,
)
from inc_autotune.tf_ext.data import data_by_signature
from inc_autotune.tf_ext.data.feeds import feeds
from inc_autotune.tf_ext.emission import (
    Primitive,
    Route,
    build_model,
    grid_of,
    listed,
    with_reduced_weights,
    with_steps,
)
from inc_autotune.tf_ext.measurement import (
    KernelSupport,
    clock,
    has_one_thread,
    is_simulated,
    kernel_support,
    measure_units,
    weight_bytes,
)
from inc_autotune.tf_ext.model import VALID, Candidate
from inc_autotune.tf_ext.operators import DEPTHWISE, LOOKUP
from inc_autotune.tf_ext.target import KERNEL_FORM, GraphChoices
from inc_autotune.tf_ext.training import Student, Trained, Trainer

logger = logging.getLogger(__name__)

CAPABILITY_FOLDER = Path(__file__).parent / "capability"

_PROCESSOR = "this CPU has no VNNI, so weights use 7 bits"


class TensorFlowAdaptor(
    GraphAdaptor[Analysis],
    SupportsHalves,
    SupportsTiming,
    SupportsThreads,
    SupportsUnitSpeeds,
    SupportsSize,
    SupportsWeights,
    SupportsCorrections,
    SupportsRounding,
    SupportsTraining,
):
    """Quantizes TensorFlow graphs.

    The models it is given are `Candidate`s of a `SourceModel`; so are those it returns.

    Args:
        capability: the user's framework YAML or dict; None: the one shipped.
        signatures: names of the signatures to quantize; None: the first one. Others stay as they are.
        histogram: whether to collect histograms, which every calibration algorithm but minmax needs; off, an
            operator can only be calibrated by minmax.
        moments: whether to collect second moments, without which weights are rounded to nearest.
        choices: how candidates are written.
        skipped: "first" and "last" operator, where they are to stay in fp32, with the reason.
        trainer: makes students of the model; None: it cannot be trained.
        example_inputs: inputs for measuring the speed of the first of these signatures, in any form an item of the data
            may have; None: the first calibration samples.
    """

    framework = FRAMEWORK
    timed = "forward pass of a tf.function"
    smoothed_approaches = ("static", "dynamic")
    computes_halves = True
    untrainable = "a frozen graph cannot be trained. Give the Keras 3 model, or its .keras file."

    def __init__(
        self,
        capability: Any = None,
        *,
        signatures: Sequence[str] | None = None,
        histogram: bool = False,
        moments: bool = False,
        choices: GraphChoices | None = None,
        skipped: Mapping[str, str] | None = None,
        trainer: Trainer | None = None,
        example_inputs: Any = None,
    ) -> None:
        self._trainer = trainer
        self._trained: tuple[Mapping[str, Any], Trained] | None = None
        self.choices = GraphChoices() if choices is None else choices
        self.support: KernelSupport | None = None
        if self.choices.form == KERNEL_FORM:
            self.support = kernel_support()
            for note in self._missing_kernels():
                logger.warning(note)
        own = CAPABILITY_FOLDER / ("tensorflow.yaml" if self.choices.form == KERNEL_FORM else "itex.yaml")
        super().__init__(
            load_capability(own, tf.__version__, capability),
            histogram=histogram,
            moments=moments,
            example_inputs=example_inputs,
        )
        self._signatures, self._skipped = signatures, skipped

    # What the model is

    def analyze(self, model: Candidate) -> Analysis:
        with reading_model(VALID):
            return Analysis(model.model, self._signatures, self._skipped)

    def known_types(self, model: Candidate) -> Collection[str]:
        return dir(tf.raw_ops)

    def fp32_reason(self, model: Candidate, name: str, config: OpConfig) -> str | None:
        """Of operators whose tensors should not become integers, see `Calibration.unfit`."""
        if config.approach not in ("static", "dynamic"):
            return None
        operator, unfit = self.analysis(model).operators[name], self.unfit
        tensors = (operator.input, operator.output) if operator.type == DEPTHWISE else (operator.input,)
        return next((unfit[tensor] for tensor in tensors if tensor in unfit), None)

    def operator_weights(self, model: Candidate) -> Weights:
        return self.analysis(model).weights

    def is_simulated(self, name: str, config: OpConfig) -> bool:
        return is_simulated(self.known.operators[name], config, self.choices.form)

    def notes(self) -> Sequence[str]:
        if self.support is None:
            return (
                "written for Intel Extension for TensorFlow 2.15, which computes it in integers with the environment "
                "variable ITEX_TF_CONSTANT_FOLDING=0 only; weights are stored in float32. Stock TensorFlow computes it "
                "in float32, so no speed is measured",
            )
        notes = self._missing_kernels()
        if self.support.saturating:
            notes.append(f"{_PROCESSOR}: sums of products with 8 saturate in {listed(self.support.saturating)}")
        if self.support.halving:
            notes.append(f"{_PROCESSOR}: oneDNN halves those of 8 in {listed(self.support.halving)}")
        return [*notes, *super().notes()]

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
        self.add_data(digest)
        if self.support is not None:  # the same configuration is another model where weights have 7 bits
            digest.update(listed(self.support.reduced).encode())
        return digest.hexdigest()

    # One pass over the data

    def calibrate(self, model: Candidate, dataloader: Any, sampling_sizes: Sequence[int], seed: int = 0) -> int:
        analysis = self.analysis(model)
        if self.given_example is not None:
            first = next(iter(analysis.graphs.values())).signature
            self.example = next(feeds([self.given_example], first, argument="example_inputs"))
        axes: list[SampleAxis] = []
        for name, data in data_by_signature(dataloader, model.model).items():
            signature = analysis.graphs[name].signature
            watched = analysis.watched(name, histogram=self.histogram)
            tensors = [each.name for each in watched]
            function = with_tensors(signature, tensors)
            axes.append(SampleAxis(partial(outputs_or_none, signature, function)))
            given = feeds(data, signature, max(sampling_sizes), axis=axes[-1])
            run = watching(signature, function, tensors)
            self.calibrations[name] = calibrate(
                *(run, watched, given, sampling_sizes),
                seed=seed,
                argument="calib_dataset",
                moments=self.moments_wanted,
                shard=run_context().shard,
            )
        halves = (each.half_type for each in model.model.signatures.values() if each.half_type is not None)
        notes = [*map(half_note, halves), *(note for axis in axes for note in axis.notes)]
        self.data_notes = tuple(dict.fromkeys(notes))
        return self.samples

    def matrices(self, operators: Sequence[str]) -> Sequence[FloatArray]:
        return group_weights(self.known.graph_of, [self.known.operators[name] for name in operators])

    def reduces(self, unit: Unit, statistics: ActivationStatistics) -> bool:
        config = unit.options[0]
        if self.support is None or self.is_simulated(unit.name, config):
            return False
        limits = float(statistics.channel_minimum.min()), float(statistics.channel_maximum.max())
        return Route(Primitive.MATMUL, grid_of(config.activation, limits).is_signed) in self.support.reduced

    def corrections(self, model: Candidate, name: str, config: OpConfig) -> tuple[Correction, ...]:
        """Both where an integer kernel computes the operator, which has a bias anyway."""
        operator = self.analysis(model).operators[name]
        simulated = is_simulated(operator, config, self.choices.form)
        if not can_correct(operator, config, self.choices) or simulated:
            return ()
        return CORRECTIONS if config.rounding == "nearest" else CORRECTIONS[:1]

    def rounded_units(self, units: Sequence[Unit]) -> Sequence[str]:
        return self.units_with_moments(units)

    def why_nearest(self, op_type: str) -> str:
        return NO_SUM if op_type == LOOKUP else f"no patches are taken of the input of a {op_type}, nor inside a loop"

    def moment_names(self, operator: str) -> Sequence[Sequence[str]]:
        return self.known.moment_names.get(operator, ())

    # Candidates

    def quantize(
        self,
        tune_cfg: Mapping[str, Any],
        model: Candidate,
        dataloader: Any,
        q_func: Callable[[Any], Any] | None = None,
    ) -> Candidate:
        if TRAINED not in tune_cfg or q_func is not None:
            candidate: Candidate = super().quantize(tune_cfg, model, dataloader, q_func)
            return candidate
        made = self.trained(tune_cfg)
        analysis = Analysis(made.source, self._signatures, self._skipped)
        return Candidate(build_model(analysis, made.plan, WeightCache()))

    def tuned_model(self, tune_cfg: Mapping[str, Any], model: Candidate, candidate: Candidate) -> Candidate | Trained:
        """The candidate, or what training made of the fp32 model."""
        return self.trained(tune_cfg) if TRAINED in tune_cfg else candidate

    # Training

    def student(self, tune_cfg: Mapping[str, Any], model: Candidate) -> Student:
        return self._training.student(self._ranges(tune_cfg), tune_cfg.get(TRAINED))

    def student_state(self, student: Student, returned: Any = None) -> StudentState:
        return self._training.state(student, returned)

    def trained(self, tune_cfg: Mapping[str, Any]) -> Trained:
        """What training made of the fp32 model; the last one is kept."""
        if self._trained is None or not _is_same(self._trained[0], tune_cfg):
            self._trained = tune_cfg, self._training.trained(self._ranges(tune_cfg), tune_cfg[TRAINED])
        return self._trained[1]

    @property
    def _training(self) -> Trainer:
        if self._trainer is None:
            raise ArgumentError(f"train_func: {self.untrainable}")
        return self._trainer

    def build(self, plan: QuantizationPlan, model: Candidate) -> Candidate:
        return model.changed(build_model(self.known, plan, self.weights))

    def half_quantized(self, tune_cfg: Mapping[str, Any], model: Candidate, half: Half) -> Candidate:
        return self.build(self._with_steps(self._ranges(tune_cfg).only_half(half)), model)

    def to_recipe(self, tune_cfg: Mapping[str, Any], model: Candidate) -> tuple[dict[str, Any], dict[str, Any]]:
        plan = self.trained(tune_cfg).plan if TRAINED in tune_cfg else self.plan(tune_cfg)
        entries, arrays = calibration_entries(plan)
        return dict(entries), dict(arrays)

    def plan(self, tune_cfg: Mapping[str, Any]) -> QuantizationPlan:
        return self._with_steps(self._ranges(tune_cfg))

    def _with_steps(self, plan: QuantizationPlan) -> QuantizationPlan:
        """The plan with the steps of its rounded weights."""
        return with_steps(self.known, plan, self.moments, self.steps)

    def _ranges(self, tune_cfg: Mapping[str, Any]) -> QuantizationPlan:
        """The plan but for the steps."""
        analysis = self.known
        plan = make_plan(
            analysis.graph_of,
            analysis.operators,
            self.configs(tune_cfg),
            self.statistics_of(tune_cfg),
            self.choices,
            self.is_simulated,
        )
        return plan if self.support is None else with_reduced_weights(analysis, plan, self.support.reduced)

    def outputs(self, candidate: Candidate, signature: str, feed: Feed) -> Sequence[Array]:
        return [value.numpy() for value in candidate.callable.signatures[signature](**feed.inputs).values()]

    # What candidates cost

    def measure(self, models: Sequence[Candidate]) -> Sequence[float] | None:
        return interleaved_seconds(self._calls(models), clock()) if self.choices.form == KERNEL_FORM else None

    def measure_threads(self, models: Sequence[Candidate]) -> Sequence[float] | None:
        if self.choices.form != KERNEL_FORM or has_one_thread():
            return None
        return interleaved_seconds(self._calls(models), wall_clock())

    def _calls(self, models: Sequence[Candidate]) -> list[Callable[[], object]]:
        name = next(iter(self.calibrations))
        inputs = {key: tf.constant(value) for key, value in self.measured_feed().inputs.items()}
        return [partial(model.callable.signatures[name], **inputs) for model in models]

    def unit_speeds(
        self, units: Sequence[Unit], expired: Callable[[], bool] = lambda: False
    ) -> Mapping[str, UnitSpeed]:
        if self.choices.form != KERNEL_FORM:
            return {}
        configs = {operator: unit.options[0].to_dict() for unit in units for operator in unit.operators}
        plan = self.plan({"op": configs, "calib_iteration": self.samples})
        return measure_units(units, self.known, plan, self.measured_feed(), expired)

    def model_size(self, model: Candidate) -> int:
        return weight_bytes(model.model)


def _is_same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two configurations have the same trained model."""
    arrays = [each[TRAINED] for each in (one, other)]
    same = arrays[0].keys() == arrays[1].keys() and all(arrays[0][name] is arrays[1][name] for name in arrays[0])
    return same and all(one[key] == other[key] for key in ("op", "calib_iteration"))
