"""The adaptor of ONNX Runtime: integer kernels on the CPU."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cached_property, partial
from itertools import chain
from typing import Any

import onnx
import onnxruntime

from inc_autotune.core.adaptor import UnitSpeed
from inc_autotune.core.analysis import (
    NO_SUM,
    SupportsCorrections,
    SupportsRounding,
    SupportsSize,
    SupportsThreads,
    SupportsTiming,
    SupportsUnitSpeeds,
    SupportsVariants,
    SupportsWeights,
    Weights,
    interleaved_seconds,
    wall_clock,
)
from inc_autotune.core.arrays import Array, FloatArray
from inc_autotune.core.op_config import OpConfig
from inc_autotune.core.quantization import ActivationStatistics
from inc_autotune.core.run_context import run_context
from inc_autotune.core.space import Unit, load_capability
from inc_autotune.core.vocabulary import CORRECTIONS, Correction
from inc_autotune.graphs import (
    Feed,
    GraphAdaptor,
    SampleAxis,
    add_arrays,
    calibrate,
    reading_model,
)
from inc_autotune.ort_ext.calibration import (
    FRAMEWORK,
    Analysis,
    QuantizationPlan,
    calibration_entries,
    can_correct_bias,
    can_correct_weight,
    conversion_note,
    group_weights,
    make_plan,
    outputs_or_none,
    run_fp32,
    watching,
)
from inc_autotune.ort_ext.data.feeds import feeds
from inc_autotune.ort_ext.emission import FoldTargets, build_model, with_steps
from inc_autotune.ort_ext.graph import Graph, GraphModel
from inc_autotune.ort_ext.measurement import measure_units, session_clock, weight_bytes
from inc_autotune.ort_ext.model import (
    VALID,
    Candidate,
    Provider,
    SessionOptions,
    SourceModel,
    first_provider,
    make_session,
)
from inc_autotune.ort_ext.operators import (
    Operators,
    after_activation,
    missing_kernel,
    reduced_operators,
    weights_in_bodies,
    weights_of,
)
from inc_autotune.ort_ext.target import CPU_BACKEND, CPU_PROVIDER, CPU_SETTINGS, GraphForm, ModelSettings

INTEGER_ACTIVATIONS = "activations in integers"
"""The variant of a model that computes Sigmoid and Mul between convolutions in integers."""

ONLY_SIGNATURE = ""
"""An ONNX model has one, without a name."""

LEAST_GAIN_OF_A_MUL = 1.3
"""Smoothing that cannot be folded costs a multiplication: of MiniLM-L6's time, 0.1 to 0.2 % for each of its 24. There
every gain is above 1.6, and all are worth it: leaving out those below 2 (2 groups) or 3 (7 groups) raises the error at
the output by 11 or 86 %."""


class OrtAdaptor(
    GraphAdaptor["Analysis"],
    SupportsTiming,
    SupportsThreads,
    SupportsUnitSpeeds,
    SupportsVariants,
    SupportsSize,
    SupportsWeights,
    SupportsCorrections,
    SupportsRounding,
):
    """Quantizes ONNX models for ONNX Runtime.

    The models it is given are `Candidate`s of a `SourceModel`; so are those it returns.

    Args:
        capability: the user's framework YAML or dict; None: the one shipped.
        histogram: whether to collect histograms, which every calibration algorithm but minmax needs; off, an
            operator can only be calibrated by minmax.
        moments: whether to collect second moments, without which weights are rounded to nearest.
        settings: the execution provider to write for, and the recipes.
        form: how candidates are written; None: as suits the provider they run on.
        folding: whether smoothing scales are folded into the operators before, where that is exact.
        providers: execution providers of the sessions.
        session_options: the user's options for them.
        graph_optimization_level: of the sessions.
        example_inputs: inputs for measuring speed, in any form a loader's item may have; None: the first calibration
            samples.
    """

    framework = FRAMEWORK
    timed = "session run"
    smoothed_approaches = ("static", "dynamic")
    grouped_types = ("MatMul", "Gemm")
    computes_halves = False
    untrainable = (
        "an ONNX model cannot be trained here. Train the PyTorch model it comes from, torch_ext.autotune(model, "
        "loader, eval_func, train_func=train); export torch_ext.to_fp32(tuned), which has its weights, and call "
        "ort_ext.apply_recipe(exported, tuned.tuning_result.recipe)."
    )

    def __init__(
        self,
        capability: Any = None,
        *,
        histogram: bool = False,
        moments: bool = False,
        settings: ModelSettings = CPU_SETTINGS,
        form: GraphForm | None = None,
        folding: bool = True,
        providers: list[Provider] | None = None,
        session_options: SessionOptions = None,
        graph_optimization_level: str | None = None,
        example_inputs: Any = None,
    ) -> None:
        self.settings = settings
        backend = settings.backend
        super().__init__(
            load_capability(backend.capability, onnxruntime.__version__, capability),
            histogram=histogram,
            moments=moments,
            example_inputs=example_inputs,
        )
        self._first_provider = first_provider(providers)
        self.form = form or settings.usual_form(self._first_provider)
        self._folding = folding
        self._as_candidate = partial(
            Candidate,
            providers=providers,
            session_options=session_options,
            graph_optimization_level=graph_optimization_level,
        )
        self._session_options = session_options
        self._has_reduced = False

    def candidate(self, source: SourceModel) -> Candidate:
        """The user's model in the form the other methods take."""
        return self._as_candidate(source)

    # What the model is

    def known_types(self, model: Candidate) -> Collection[str]:
        standard = (schema.name for schema in onnx.defs.get_all_schemas())
        return {*standard, *(node.op_type for node in model.model.proto.graph.node)}

    def analyze(self, model: Candidate) -> Analysis:
        assert isinstance(model.model, SourceModel)
        with reading_model(VALID):
            found = Analysis(model.model, self.form, self.settings.recipes)
            _ = found.discovered  # what the model cannot have is met here
        return found

    def operator_weights(self, model: Candidate) -> Weights:
        analysis = self.analysis(model)
        names = (*analysis.operators, *analysis.skipped)
        return {name: weights_of(analysis.graph, name) for name in names} | weights_in_bodies(analysis.graph)

    def fp32_reason(self, model: Candidate, name: str, config: OpConfig) -> str | None:
        """Of operators that a recipe or calibration keeps in fp32, or whose first option has no kernel.

        The latter comes about by a capability of the user's own.
        """
        analysis = self.analysis(model)
        operator = analysis.operators[name]
        reason = analysis.kept_in_fp32.get(name) or missing_kernel(operator.type, config, operator.layout)
        if reason is None and config.approach in ("static", "dynamic"):
            reason = self._unfit_tensor(analysis, name)
        return reason

    def _unfit_tensor(self, analysis: Analysis, name: str) -> str | None:
        """Why calibration advises against integers: because of an operator's input, or its output on a grid."""
        operator, unfit = analysis.operators[name], self.unfit
        tensors = [operator.input]
        if not operator.is_linear:
            tensors.append(after_activation(analysis.graph, operator.output))
        return next((unfit[tensor] for tensor in tensors if tensor in unfit), None)

    def notes(self) -> Sequence[str]:
        notes = self.settings.backend.notes(self._first_provider)
        if self._has_reduced:
            notes.append("this CPU has no VNNI: weights use 7 bits where u8 x s8 products saturate with 8")
        return [*notes, *super().notes()]

    def fingerprint(self, model: Candidate) -> str:
        digest = hashlib.sha256(model.model.proto.SerializeToString(deterministic=True))
        add_arrays(digest, model.model.weights)
        self.add_data(digest)
        defaults = {name: self.capability.options(each.type) for name, each in self.known.operators.items()}
        reduced = self._reduced({name: options[0] for name, options in defaults.items() if options})
        digest.update(" ".join(sorted(reduced)).encode())  # scores differ from those of a processor with VNNI
        return digest.hexdigest()

    # One pass over the data

    def calibrate(self, model: Candidate, dataloader: Any, sampling_sizes: Sequence[int], seed: int = 0) -> int:
        analysis = self.analysis(model)
        if self.given_example is not None:
            self.example = next(feeds([self.given_example], analysis.source.inputs, argument="example_inputs"))
        watched = analysis.watched(histogram=self.histogram, moments=self.moments_wanted)
        session = make_session(
            analysis.hidden_states.model if self.moments_wanted else analysis.graph.model,
            None,
            self._session_options,
            extra_outputs=[each.name for each in watched],
        )
        if self.example is not None:
            run_fp32(session, self.example, "example_inputs")
        own_outputs = len(analysis.graph.model.proto.graph.output)
        axis = SampleAxis(partial(outputs_or_none, session, own_outputs))
        given = feeds(dataloader, analysis.source.inputs, max(sampling_sizes), axis=axis)
        first = next(given)
        converted = conversion_note(analysis.source, session, first, self._session_options)
        self.calibrations[ONLY_SIGNATURE] = calibrate(
            watching(session, own_outputs),
            watched,
            chain([first], given),
            sampling_sizes,
            seed=seed,
            argument="calib_dataloader",
            moments=self.moments_wanted,
            shard=run_context().shard,
        )
        self.data_notes = (*([converted] if converted else []), *axis.notes)
        return self.samples

    def matrices(self, operators: Sequence[str]) -> Sequence[FloatArray]:
        return group_weights(self.known.graph, [self.known.operators[name] for name in operators])

    def reduces(self, unit: Unit, statistics: ActivationStatistics) -> bool:
        return bool(self._reduced(dict.fromkeys(unit.operator_names, unit.options[0])))

    def least_gain(self, unit: Unit) -> float:
        free = self._folding and self._fold_targets.of(unit.operator_names) is not None
        return max(super().least_gain(unit), 1.0 if free else LEAST_GAIN_OF_A_MUL)

    @cached_property
    def _fold_targets(self) -> FoldTargets:
        """Operators that smoothing scales can be folded into."""
        return FoldTargets(self.known.graph, self.known.operators, self.known.grid)

    def rounded_units(self, units: Sequence[Unit]) -> Sequence[str]:
        return self.units_with_moments(units)

    def why_nearest(self, op_type: str) -> str:
        if op_type == "Gather":
            return NO_SUM
        return "its weight is a stack of matrices"

    def moment_names(self, operator: str) -> Sequence[Sequence[str]]:
        return self.known.moment_names.get(operator, ())

    def corrections(self, model: Candidate, name: str, config: OpConfig) -> tuple[Correction, ...]:
        """Of linear operators and convolutions; a bias only where it costs nothing."""
        operator = self.analysis(model).operators[name]
        able = {
            "fast_bias_correction": can_correct_bias(operator, config),
            "weight_correction": can_correct_weight(operator, config) and config.rounding == "nearest",
        }
        return tuple(each for each in CORRECTIONS if able[each])

    # Candidates

    def build(self, plan: QuantizationPlan, model: Candidate) -> Candidate:
        analysis = self.known
        candidate = self._as_candidate(build_model(analysis.graph, analysis.discovered, plan, self.form, self.weights))
        candidate.check(self.calibrations[ONLY_SIGNATURE].held_out.batches[0])
        return candidate

    def to_recipe(self, tune_cfg: Mapping[str, Any], model: Candidate) -> tuple[dict[str, Any], dict[str, Any]]:
        analysis = self.known
        entries, arrays = calibration_entries(analysis.graph, analysis.operators, self.plan(tune_cfg), analysis.form)
        return dict(entries), dict(arrays)

    def plan(self, tune_cfg: Mapping[str, Any]) -> QuantizationPlan:
        analysis = self.known
        configs = self.configs(tune_cfg)
        reduced = self._reduced(configs)
        self._has_reduced = self._has_reduced or bool(reduced)
        plan = make_plan(
            analysis.graph,
            analysis.discovered,
            configs,
            self.statistics_of(tune_cfg),
            analysis.form,
            unfit=self.unfit,
            reduced=reduced,
            folding=self._folding,
            activations=self.settings.recipes.integer_activations or tune_cfg.get("variant") == INTEGER_ACTIVATIONS,
        )
        return with_steps(analysis, plan, self.moments, self.steps)

    def variants(self, model: Candidate) -> Sequence[str]:
        if self.settings.backend != CPU_BACKEND or self.settings.recipes.integer_activations:
            return ()
        return (INTEGER_ACTIVATIONS,) if self.analysis(model).has_activations else ()

    def outputs(self, candidate: Candidate, signature: str, feed: Feed) -> Sequence[Array]:
        return candidate.run(feed)

    # What candidates cost

    def measure(self, models: Sequence[Candidate]) -> Sequence[float] | None:
        if not self._on_target:
            return None
        timed = [model.in_one_thread() for model in models] if self._computes_here else models
        return interleaved_seconds(self._calls(timed), session_clock(self._first_provider))

    def measure_threads(self, models: Sequence[Candidate]) -> Sequence[float] | None:
        if not self._on_target or not self._computes_here or all(model.in_one_thread() is model for model in models):
            return None
        return interleaved_seconds(self._calls(models), wall_clock())

    def _calls(self, models: Sequence[Candidate]) -> list[Callable[[], object]]:
        feed = self.measured_feed()
        return [partial(model.run, feed) for model in models]

    def unit_speeds(
        self, units: Sequence[Unit], expired: Callable[[], bool] = lambda: False
    ) -> Mapping[str, UnitSpeed]:
        def session(model: GraphModel, extra_outputs: Sequence[str]) -> onnxruntime.InferenceSession:
            settings = self._as_candidate.keywords
            return make_session(model, extra_outputs=extra_outputs, one_thread=self._computes_here, **settings)

        def quantized(part: Graph, operators: Operators, unit: Unit) -> GraphModel:
            config = unit.options[0].to_dict()
            tune_cfg = {"op": dict.fromkeys(unit.operators, config), "calib_iteration": self.samples}
            return build_model(part, operators, self.plan(tune_cfg), self.form, self.weights)

        if not self._on_target:
            return {}
        graph, operators, clock = self.known.graph, self.known.discovered, session_clock(self._first_provider)
        return measure_units(units, graph, operators, self.measured_feed(), session, quantized, clock, expired)

    def model_size(self, model: Candidate) -> int:
        return weight_bytes(model.model)

    @property
    def _on_target(self) -> bool:
        """Whether candidates run on the provider they are written for, so that their speed says something."""
        backend = self.settings.backend
        return backend == CPU_BACKEND or self._first_provider == backend.provider

    @property
    def _computes_here(self) -> bool:
        """Whether sessions compute on the CPU, in threads that can be one."""
        return self._first_provider == CPU_PROVIDER

    def _reduced(self, configs: Mapping[str, OpConfig]) -> frozenset[str]:
        """Names of the operators whose weights get 7 bits on this processor."""
        return reduced_operators(self.known.graph, self.known.operators, configs, self.settings.backend)
