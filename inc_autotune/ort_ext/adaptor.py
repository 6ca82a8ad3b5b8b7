"""The adaptor of ONNX Runtime: integer kernels on the CPU."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cached_property, partial
from typing import Any

import onnx
import onnxruntime

from inc_autotune.core.adaptor import Adaptor, UnitSpeed
from inc_autotune.core.analysis.gain import SupportsSize, SupportsTiming
from inc_autotune.core.analysis.output_error import SupportsComparison
from inc_autotune.core.analysis.smoothing_plan import SupportsSmoothing
from inc_autotune.core.analysis.timing import interleaved_seconds
from inc_autotune.core.analysis.unit_speed import SupportsUnitSpeeds
from inc_autotune.core.analysis.weight_shares import SupportsWeights, Weights
from inc_autotune.core.arrays import Array
from inc_autotune.core.errors import ArgumentError
from inc_autotune.core.op_config import OpConfig
from inc_autotune.core.quantization.smoothquant import InputGroup
from inc_autotune.core.space.capability import Capability, load_capability
from inc_autotune.core.space.units import Unit
from inc_autotune.graphs.calibration import Calibration, WatchedTensor, calibrate
from inc_autotune.graphs.digest import add_arrays
from inc_autotune.graphs.feed import Feed
from inc_autotune.graphs.padding import real_outputs, real_positions
from inc_autotune.ort_ext.calibration.collect import run_fp32, runs, watching
from inc_autotune.ort_ext.calibration.grid_tensors import GridTensor, find_grid
from inc_autotune.ort_ext.calibration.plan import FRAMEWORK, QuantizationPlan
from inc_autotune.ort_ext.calibration.ranges import group_weights, input_groups, make_plan, shared_weights
from inc_autotune.ort_ext.calibration.recipe_entries import calibration_entries
from inc_autotune.ort_ext.data.feeds import feeds
from inc_autotune.ort_ext.emission.build import build_model
from inc_autotune.ort_ext.emission.smoothing import FoldTargets
from inc_autotune.ort_ext.emission.weights import WeightCache
from inc_autotune.ort_ext.graph.graph import Graph
from inc_autotune.ort_ext.graph.graph_model import GraphModel
from inc_autotune.ort_ext.measurement.models import session_clock, weight_bytes
from inc_autotune.ort_ext.measurement.units import measure_units
from inc_autotune.ort_ext.model.candidate import Candidate
from inc_autotune.ort_ext.model.sessions import Provider, SessionOptions, first_provider, make_session
from inc_autotune.ort_ext.model.source import BODY_REASON, SourceModel
from inc_autotune.ort_ext.operators.availability import missing_kernel
from inc_autotune.ort_ext.operators.backbone import kept_in_fp32
from inc_autotune.ort_ext.operators.discovery import Operators, find_operators
from inc_autotune.ort_ext.operators.rewriting.passes import rewritten
from inc_autotune.ort_ext.operators.unsupported import weights_in_bodies, weights_of
from inc_autotune.ort_ext.operators.weight_width import reduced_operators
from inc_autotune.ort_ext.target.forms import GraphForm
from inc_autotune.ort_ext.target.providers import CPU_BACKEND
from inc_autotune.ort_ext.target.settings import CPU_SETTINGS, ModelSettings
from inc_autotune.ort_ext.target.switches import GraphRecipes

MEASURED_SAMPLES = 8

LEAST_GAIN_OF_A_MUL = 1.3
"""Smoothing that cannot be folded costs a multiplication: of MiniLM-L6's time, 0.1 to 0.2 % for each of its 24. There
every gain is above 1.6, and all are worth it: leaving out those below 2 (2 groups) or 3 (7 groups) raises the error at
the output by 11 or 86 %."""


class OrtAdaptor(
    Adaptor, SupportsSmoothing, SupportsComparison, SupportsTiming, SupportsUnitSpeeds, SupportsSize, SupportsWeights
):
    """Quantizes ONNX models for ONNX Runtime.

    The models it is given are `Candidate`s of a `SourceModel`; so are those it returns.

    Args:
        capability: the user's framework YAML or dict; None: the one shipped.
        histogram: whether to collect histograms, which every calibration algorithm but minmax needs; off, an
            operator can only be calibrated by minmax.
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

    def __init__(
        self,
        capability: Any = None,
        *,
        histogram: bool = False,
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
        self.capability: Capability = load_capability(backend.capability, onnxruntime.__version__, capability)
        self._first_provider = first_provider(providers)
        self.form = form or settings.usual_form(self._first_provider)
        self._histogram = histogram or self.capability.default_needs_histogram
        self._folding = folding
        self._as_candidate = partial(
            Candidate,
            providers=providers,
            session_options=session_options,
            graph_optimization_level=graph_optimization_level,
        )
        self._session_options = session_options
        self._given_example = example_inputs
        self._example: Feed | None = None
        self._weights = WeightCache()
        self._has_reduced = False
        self._analysis: _Analysis | None = None
        self._calibration: Calibration | None = None

    def candidate(self, source: SourceModel) -> Candidate:
        """The user's model in the form the other methods take."""
        return self._as_candidate(source)

    # What the model is

    def query_fw_capability(self, model: Candidate) -> dict[str, Any]:
        opwise = {
            (name, each.type): [option.to_dict() for option in self.capability.options(each.type)]
            for name, each in self._analyzed(model).operators.found.items()
        }
        return {
            "opwise": {operator: options for operator, options in opwise.items() if options},
            "optypewise": self.capability.optypewise(),
        }

    def known_types(self, model: Candidate) -> Collection[str]:
        standard = (schema.name for schema in onnx.defs.get_all_schemas())
        return {*standard, *(node.op_type for node in model.model.proto.graph.node)}

    def groups(self, model: Candidate) -> Sequence[Sequence[str]]:
        return input_groups(self._analyzed(model).operators)

    def skipped(self, model: Candidate) -> Mapping[str, str]:
        analysis = self._analyzed(model)
        operators = analysis.operators
        without = {
            name: f"no entry for {each.type} in the capability"
            for name, each in operators.found.items()
            if not self.capability.options(each.type)
        }
        return {**{name: reason for name, (_, reason) in operators.skipped.items()}, **without}

    def operator_weights(self, model: Candidate) -> Weights:
        analysis = self._analyzed(model)
        names = (*analysis.operators.found, *analysis.operators.skipped)
        return {name: weights_of(analysis.graph, name) for name in names} | weights_in_bodies(analysis.graph)

    def fp32_reason(self, model: Candidate, name: str, config: OpConfig) -> str | None:
        """Of operators that a recipe keeps in fp32, or whose first option has no kernel.

        The latter comes about by a capability of the user's own.
        """
        analysis = self._analyzed(model)
        return analysis.kept_in_fp32.get(name) or missing_kernel(analysis.operators.found[name].type, config)

    def operator_type(self, model: Candidate, name: str) -> str:
        operators = self._analyzed(model).operators
        return operators.skipped[name][0] if name in operators.skipped else operators.found[name].type

    def notes(self) -> Sequence[str]:
        notes = self.settings.backend.notes(self._first_provider)
        if self._has_reduced:
            notes.append("this CPU has no VNNI: weights use 7 bits where u8 x s8 products saturate with 8")
        return notes + (self._calibration.held_out.notes if self._calibration else [])

    def fingerprint(self, model: Candidate) -> str:
        digest = hashlib.sha256(model.model.proto.SerializeToString(deterministic=True))
        add_arrays(digest, model.model.weights)
        digest.update(self._calibrated.digest.encode())
        if self._example is not None:  # gains are measured on it
            add_arrays(digest, self._example.inputs)
        defaults = {name: self.capability.options(each.type) for name, each in self._known.operators.found.items()}
        reduced = self._reduced({name: options[0] for name, options in defaults.items() if options})
        digest.update(" ".join(sorted(reduced)).encode())  # scores differ from those of a processor with VNNI
        return digest.hexdigest()

    # One pass over the data

    def calibrate(self, model: Candidate, dataloader: Any, sampling_sizes: Sequence[int], seed: int = 0) -> int:
        analysis = self._analyzed(model)
        if self._given_example is not None:
            self._example = next(feeds([self._given_example], analysis.source.inputs, argument="example_inputs"))
        watched = analysis.watched(histogram=self._histogram)
        session = make_session(
            analysis.graph.model, None, self._session_options, extra_outputs=[each.name for each in watched]
        )
        if self._example is not None:
            run_fp32(session, self._example, "example_inputs")
        given = feeds(dataloader, analysis.source.inputs, max(sampling_sizes), runs=partial(runs, session))
        own_outputs = len(analysis.graph.model.proto.graph.output)
        self._calibration = calibrate(
            watching(session, own_outputs), watched, given, sampling_sizes, seed=seed, argument="calib_dataloader"
        )
        return self._calibration.samples

    def input_groups(self, units: Sequence[Unit], sampling_size: int) -> Sequence[InputGroup]:
        analysis = self._known
        snapshot = self._calibrated.snapshot(sampling_size)
        found = analysis.operators.found
        return [
            InputGroup(
                name=unit.name,
                operators=unit.operator_names,
                statistics=snapshot.fitted[found[unit.name].input],
                folds=snapshot.crossed(found[unit.name].input),
                weights=partial(group_weights, analysis.graph, [found[name] for name in unit.operator_names]),
                configs=(unit.options[0],) * len(unit.operators),
                reduce_range=bool(self._reduced(dict.fromkeys(unit.operator_names, unit.options[0]))),
                least_gain=analysis.least_gain(unit, folding=self._folding),
            )
            for unit in units
            if unit.options[0].approach in ("static", "dynamic")
            and all(found[name].is_linear for name in unit.operator_names)
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
            raise ArgumentError("q_func: an ONNX model cannot be trained. Tune the PyTorch model, then export it.")
        analysis = self._analyzed(model)
        if self._calibration is None:
            self.calibrate(model, dataloader, (tune_cfg["calib_iteration"],))
        plan = self.plan(tune_cfg)
        built = build_model(analysis.graph, analysis.operators, plan, self.form, self._weights)
        candidate = self._as_candidate(built)
        candidate.check(self._calibrated.held_out.batches[0])
        return candidate

    def to_recipe(self, tune_cfg: Mapping[str, Any], model: Candidate) -> tuple[dict[str, Any], dict[str, Any]]:
        analysis = self._known
        entries, arrays = calibration_entries(
            analysis.graph, analysis.operators.found, self.plan(tune_cfg), analysis.form
        )
        return dict(entries), dict(arrays)

    def plan(self, tune_cfg: Mapping[str, Any]) -> QuantizationPlan:
        """The numbers of one configuration.

        Raises:
            ArgumentError: `tune_cfg` names an operator that the model does not have.
        """
        analysis = self._known
        every = {name: OpConfig.from_dict(config) for (name, _), config in tune_cfg["op"].items()}
        for name, config in every.items():
            if name not in analysis.operators.found:
                known = ", ".join(map(repr, analysis.operators.found))
                raise ArgumentError(f"tune_cfg['op']: no operator is named {name!r}. Operators: {known}.")
            # An alpha of an operator that cannot be smoothed has no effect.
            if config.alpha is not None and not analysis.operators.found[name].is_linear:
                every[name] = config.with_alpha(None)
        configs = {name: config for name, config in every.items() if config.is_quantized}
        reduced = self._reduced(configs)
        self._has_reduced = self._has_reduced or bool(reduced)
        snapshot = self._calibrated.snapshot(tune_cfg["calib_iteration"])
        return make_plan(
            analysis.graph,
            analysis.operators,
            configs,
            snapshot.statistics(without_held_out=bool(tune_cfg.get("without_held_out"))),
            analysis.form,
            reduced=reduced,
            folding=self._folding,
        )

    # Comparing candidates

    def reference_outputs(self) -> Sequence[Array]:
        return self._calibrated.held_out.outputs

    def run(self, candidate: Candidate) -> Sequence[Array]:
        outputs: list[Array] = []
        for feed in self._calibrated.held_out.batches:
            outputs += real_outputs(candidate.run(feed), real_positions(feed))
        return outputs

    # What candidates cost

    def measure(self, models: Sequence[Candidate]) -> Sequence[float] | None:
        if not self._on_target:
            return None
        feed = self._measured_feed()
        clock = session_clock([model.session for model in models])
        return interleaved_seconds([partial(model.run, feed) for model in models], clock)

    def unit_speeds(
        self, units: Sequence[Unit], expired: Callable[[], bool] = lambda: False
    ) -> Mapping[str, UnitSpeed]:
        def session(model: GraphModel, extra_outputs: Sequence[str]) -> onnxruntime.InferenceSession:
            settings = self._as_candidate.keywords
            return make_session(model, extra_outputs=extra_outputs, **settings)

        def quantized(part: Graph, operators: Operators, unit: Unit) -> GraphModel:
            config = unit.options[0].to_dict()
            tune_cfg = {"op": dict.fromkeys(unit.operators, config), "calib_iteration": self._calibrated.samples}
            return build_model(part, operators, self.plan(tune_cfg), self.form, self._weights)

        if not self._on_target:
            return {}
        graph, operators = self._known.graph, self._known.operators
        return measure_units(units, graph, operators, self._measured_feed(), session, quantized, expired)

    def _measured_feed(self) -> Feed:
        """The user's example inputs, else the first samples held out."""
        return self._example or self._calibrated.held_out.first.take(MEASURED_SAMPLES)

    def model_size(self, model: Candidate) -> int:
        return weight_bytes(model.model)

    @property
    def _on_target(self) -> bool:
        """Whether candidates run on the provider they are written for, so that their speed says something."""
        backend = self.settings.backend
        return backend == CPU_BACKEND or self._first_provider == backend.provider

    def _reduced(self, configs: Mapping[str, OpConfig]) -> frozenset[str]:
        """Names of the operators whose weights get 7 bits on this processor."""
        analysis = self._known
        return reduced_operators(analysis.graph, analysis.operators.found, configs, self.settings.backend)

    def _analyzed(self, model: Candidate) -> _Analysis:
        if self._analysis is None:
            assert isinstance(model.model, SourceModel)
            self._analysis = _Analysis(model.model, self.form, self.settings.recipes)
        return self._analysis

    @property
    def _known(self) -> _Analysis:
        if self._analysis is None:
            raise RuntimeError("the adaptor has not been given a model yet")
        return self._analysis

    @property
    def _calibrated(self) -> Calibration:
        if self._calibration is None:
            raise RuntimeError("the model has not been calibrated yet")
        return self._calibration


class _Analysis:
    """What the graph says about one model, in the form candidates are written in."""

    def __init__(self, source: SourceModel, form: GraphForm, recipes: GraphRecipes) -> None:
        self.source = source
        self.recipes = recipes
        self.form = form
        self.graph = rewritten(source, form)

    @cached_property
    def operators(self) -> Operators:
        operators = find_operators(self.graph, joins_bias=self.form.joins_bias)
        bodies = {name: (op_type, BODY_REASON) for name, op_type in self.source.body_operators.items()}
        return Operators(operators.found, {**operators.skipped, **bodies})

    @cached_property
    def kept_in_fp32(self) -> Mapping[str, str]:
        """Reasons by name of the operators that recipes keep in fp32."""
        return kept_in_fp32(self.graph, self.operators.found, self.recipes)

    @cached_property
    def grid(self) -> Mapping[str, GridTensor]:
        """The tensors on a grid where all operators are static."""
        static = [each for each in self.operators.found.values() if each.type != "Gather"]
        return find_grid(self.graph, static, self.form)

    @cached_property
    def fold_targets(self) -> FoldTargets:
        return FoldTargets(self.graph, self.operators.found, self.grid)

    @cached_property
    def shared_weights(self) -> frozenset[str]:
        """Names of the operators whose weight others with another input read too."""
        return shared_weights(self.graph, self.operators)

    def least_gain(self, unit: Unit, *, folding: bool) -> float:
        """How many times smaller smoothing with an alpha of its own must make a unit's error to be worth its cost."""
        if not self.shared_weights.isdisjoint(unit.operator_names):
            return math.inf  # every alpha would need a copy of the weight; one for the whole model does not
        free = folding and self.fold_targets.of(unit.operator_names) is not None
        return 1.0 if free else LEAST_GAIN_OF_A_MUL

    def watched(self, *, histogram: bool) -> list[WatchedTensor]:
        """The inputs of all operators, and what may be put on a grid behind them."""
        watched: dict[str, WatchedTensor] = {}
        # A tensor that a linear operator reads has its channels last, whoever else reads it.
        for each in sorted(self.operators.found.values(), key=lambda each: not each.is_linear):
            if each.type != "Gather" and each.input not in watched:
                watched[each.input] = WatchedTensor(each.input, each.is_linear, histogram, each.channel_axis)
        for tensor, place in self.grid.items():
            if place.same_as is None and tensor not in watched:
                watched[tensor] = WatchedTensor(tensor, False, histogram, channel_axis=1)
        return list(watched.values())
