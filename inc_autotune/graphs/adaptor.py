"""What adaptors of static graphs have alike: everything but the graph itself."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from inc_autotune.core.adaptor import Adaptor
from inc_autotune.core.analysis import (
    NO_MOMENT,
    SupportsComparison,
    SupportsSharedCalibration,
    SupportsSmoothing,
    SupportsSmoothingForms,
)
from inc_autotune.core.arrays import Array, FloatArray
from inc_autotune.core.data import Packed, UnportableError
from inc_autotune.core.errors import ArgumentError
from inc_autotune.core.op_config import OpConfig
from inc_autotune.core.quantization import ActivationStatistics, InputGroup, SecondMoment, Statistics, refused_note
from inc_autotune.core.space import Capability, Unit, refuse_granularities
from inc_autotune.core.vocabulary import Approach, FormName
from inc_autotune.graphs.calibration import Calibration, merged
from inc_autotune.graphs.calibration_state import pack_calibration, pack_feed, unpack_calibration, unpack_feed
from inc_autotune.graphs.digest import add_arrays
from inc_autotune.graphs.feed import Feed
from inc_autotune.graphs.moments import has_moments
from inc_autotune.graphs.padding import comparable_outputs
from inc_autotune.graphs.rounding import StepsCache
from inc_autotune.graphs.smoothing import GraphOperator
from inc_autotune.graphs.weights import WeightCache

if TYPE_CHECKING:
    from hashlib import _Hash as Digest

MEASURED_SAMPLES = 8
"""Of the samples held out, those that speed is measured on."""


class Analysis(Protocol):
    """What a graph says about one model."""

    @property
    def operators(self) -> Mapping[str, GraphOperator]:
        """Those that can be quantized, by name, in the order of the graph."""

    @property
    def skipped(self) -> Mapping[str, tuple[str, str]]:
        """(type, reason) by name of those that cannot."""

    @property
    def groups(self) -> Sequence[Sequence[str]]:
        """Names of operators that are decided together."""

    @property
    def shared_weights(self) -> frozenset[str]:
        """Names of the operators whose weight others with another input read too."""


Found = TypeVar("Found", bound=Analysis)


class GraphAdaptor(
    Adaptor,
    SupportsSmoothing,
    SupportsSmoothingForms,
    SupportsComparison,
    SupportsSharedCalibration,
    Generic[Found],
):
    """Quantizes a model whose graph is known before it runs.

    An extension says what the graph holds (`analyze`), calibrates each of its signatures into `calibrations`, makes a
    plan out of configurations, and builds and runs what the plan says.

    Args:
        capability: what each operator type may become.
        histogram: whether to collect histograms, which every calibration algorithm but minmax needs.
        moments: whether to collect second moments, without which weights are rounded to nearest.
        example_inputs: inputs for measuring speed, in any form a loader's item may have; None: the first calibration
            samples.
    """

    smoothed_approaches: tuple[Approach, ...] = ("static",)
    """Of the operators that SmoothQuant may smooth."""

    computes_halves: bool = False
    """Whether operators are written in bf16; if not, those configured so stay in fp32."""

    grouped_types: tuple[str, ...] = ()
    """Operators whose weight-only weights may have a scale for each group of an output channel."""

    untrainable: str = "a graph cannot be trained."
    """Why, and what to do instead, where someone wants to train a quantized model."""

    def __init__(self, capability: Capability, *, histogram: bool, example_inputs: Any, moments: bool = False) -> None:
        refuse_granularities(capability, self.grouped_types)
        self.capability = capability
        self.histogram = histogram or capability.default_needs_histogram
        self.moments_wanted = moments
        self.given_example = example_inputs
        self.example: Feed | None = None
        self.weights = WeightCache()
        self.steps = StepsCache()
        self.calibrations: dict[str, Calibration] = {}
        self.data_notes: tuple[str, ...] = ()
        """What the user should know of the data, and of how it was read."""
        self._analysis: Found | None = None

    # What an extension says

    @abstractmethod
    def analyze(self, model: Any) -> Found:
        """What the graphs of the fp32 model say; asked once."""

    @abstractmethod
    def plan(self, tune_cfg: Mapping[str, Any]) -> Any:
        """The numbers of one configuration.

        Raises:
            ArgumentError: `tune_cfg` names an operator that the model does not have.
        """

    @abstractmethod
    def build(self, plan: Any, model: Any) -> Any:
        """The candidate that a plan describes."""

    @abstractmethod
    def outputs(self, candidate: Any, signature: str, feed: Feed) -> Sequence[Array]:
        """The outputs of one run of a signature."""

    @abstractmethod
    def matrices(self, operators: Sequence[str]) -> Sequence[FloatArray]:
        """The weights of linear operators as [out_features, in_features]."""

    @abstractmethod
    def reduces(self, unit: Unit, statistics: ActivationStatistics) -> bool:
        """Whether the weights of a unit of linear operators, which reads this, get one bit less."""

    def moment_names(self, operator: str) -> Sequence[Sequence[str]]:
        """For each weight of an operator the names of the second moments of what it meets, see `moment_names`.

        None where its weights are rounded to nearest.
        """
        return ()

    # What the model is

    def analysis(self, model: Any) -> Found:
        """What the graphs of the model say, worked out once."""
        if self._analysis is None:
            self._analysis = self.analyze(model)
        return self._analysis

    @property
    def known(self) -> Found:
        """The analysis of the model that the adaptor was given."""
        if self._analysis is None:
            raise RuntimeError("the adaptor has not been given a model yet")
        return self._analysis

    def query_fw_capability(self, model: Any) -> dict[str, Any]:
        opwise = {
            (name, each.type): [option.to_dict() for option in self.capability.options(each.type)]
            for name, each in self.analysis(model).operators.items()
        }
        return {
            "opwise": {operator: options for operator, options in opwise.items() if options},
            "optypewise": self.capability.optypewise(),
        }

    def groups(self, model: Any) -> Sequence[Sequence[str]]:
        return self.analysis(model).groups

    def skipped(self, model: Any) -> Mapping[str, str]:
        analysis = self.analysis(model)
        without = {
            name: f"no entry for {each.type} in the capability"
            for name, each in analysis.operators.items()
            if not self.capability.options(each.type)
        }
        return {**{name: reason for name, (_, reason) in analysis.skipped.items()}, **without}

    def operator_type(self, model: Any, name: str) -> str:
        analysis = self.analysis(model)
        return analysis.skipped[name][0] if name in analysis.skipped else analysis.operators[name].type

    def notes(self) -> Sequence[str]:
        notes = [*self.data_notes]
        notes += [note for each in self.calibrations.values() for note in each.held_out.notes]
        notes += [note for each in self.calibrations.values() if (note := refused_note(each.without_moment))]
        return [*notes, *dict.fromkeys(each.note for each in self.calibrations.values() if each.note)]

    def add_data(self, digest: Digest) -> None:
        """Take the calibration data, and the example that gains are measured on, into a fingerprint."""
        for calibration in self.calibrations.values():
            digest.update(calibration.digest.encode())
        if self.example is not None:
            add_arrays(digest, self.example.inputs)

    # What calibration found

    def calibration_state(self) -> tuple[Mapping[str, Array], Mapping[str, Any]] | None:
        """See `SupportsSharedCalibration`."""
        packed = Packed()
        try:
            values = {
                "calibrations": {name: pack_calibration(each, packed) for name, each in self.calibrations.items()},
                "example": None if self.example is None else pack_feed(self.example, packed),
                "notes": list(self.data_notes),
            }
        except UnportableError:
            return None
        return packed.arrays, values

    def take_calibration(self, model: Any, states: Sequence[tuple[Mapping[str, Array], Mapping[str, Any]]]) -> int:
        """See `SupportsSharedCalibration`."""
        self.analysis(model)
        (arrays, values), *_ = states
        self.calibrations = {
            name: merged([unpack_calibration(each["calibrations"][name], found) for found, each in states])
            for name in values["calibrations"]
        }
        self.example = None if values["example"] is None else unpack_feed(values["example"], arrays)
        self.data_notes = tuple(values["notes"])
        return self.samples

    @property
    def samples(self) -> int:
        """How many calibration samples were read."""
        self._check_calibrated()
        return max(each.samples for each in self.calibrations.values())

    @property
    def unfit(self) -> dict[str, str]:
        """Why some tensors should not become integers, by name, see `Calibration.unfit`."""
        return {tensor: reason for each in self.calibrations.values() for tensor, reason in each.unfit.items()}

    def statistics(self, size: int, *, without_held_out: bool) -> Statistics:
        """Statistics of all watched tensors after so many samples."""
        self._check_calibrated()
        snapshots = [each.snapshot(size) for each in self.calibrations.values()]
        return {
            name: statistics
            for each in snapshots
            for name, statistics in each.statistics(without_held_out=without_held_out).items()
        }

    def measured_feed(self) -> Feed:
        """The user's example inputs, else the first samples held out."""
        if self.example is not None:
            return self.example
        self._check_calibrated()
        return next(iter(self.calibrations.values())).held_out.first.take(MEASURED_SAMPLES)

    @property
    def moments(self) -> dict[str, SecondMoment]:
        """Second moments by name."""
        self._check_calibrated()
        return {name: moment for each in self.calibrations.values() for name, moment in each.moments.items()}

    def units_with_moments(self, units: Sequence[Unit]) -> Sequence[str]:
        """Names of those that are quantized, and whose inputs all have second moments: for `SupportsRounding`."""
        moments = self.moments
        return [
            unit.name
            for unit in units
            if unit.options[0].is_quantized
            and all(has_moments(self.moment_names(name), moments) for name in unit.operator_names)
        ]

    def rounding_reason(self, name: str) -> str | None:
        """Why the weight of an operator is rounded to nearest; None where it need not be: for `SupportsRounding`."""
        names = self.moment_names(name)
        if names:
            return None if has_moments(names, self.moments) else NO_MOMENT
        return self.why_nearest(self.known.operators[name].type)

    @abstractmethod
    def why_nearest(self, op_type: str) -> str:
        """Why inputs of operators of a type give no rows of which a second moment could be taken."""

    def input_groups(self, units: Sequence[Unit], sampling_size: int) -> Sequence[InputGroup]:
        operators = self.known.operators
        statistics = self.statistics(sampling_size, without_held_out=True)
        return [
            InputGroup(
                name=unit.name,
                operators=unit.operator_names,
                statistics=statistics[operators[unit.name].input],
                folds=self._folds(sampling_size, operators[unit.name].input),
                weights=partial(self.matrices, unit.operator_names),
                configs=(unit.options[0],) * len(unit.operators),
                reduce_range=self.reduces(unit, statistics[operators[unit.name].input]),
                least_gain=self.least_gain(unit),
            )
            for unit in units
            if unit.options[0].approach in self.smoothed_approaches
            and all(operators[name].is_linear for name in unit.operator_names)
            # A branch that only held-out samples take has no rows to score alphas with.
            and statistics[operators[unit.name].input].sampled_rows is not None
        ]

    def smoothing_forms(self) -> tuple[FormName, ...]:
        """All but the shift, which would cost an addition where it does not fold."""
        return ("exponents", "norm")

    def least_gain(self, unit: Unit) -> float:
        """How many times smaller smoothing with an alpha of its own must make a unit's error to be worth its cost.

        Where others read the same weight every alpha would need a copy of it; one for the whole model does not.
        """
        return 1.0 if self.known.shared_weights.isdisjoint(unit.operator_names) else math.inf

    # Candidates

    def quantize(
        self,
        tune_cfg: Mapping[str, Any],
        model: Any,
        dataloader: Any,
        q_func: Callable[[Any], Any] | None = None,
    ) -> Any:
        if q_func is not None:
            raise ArgumentError(f"q_func: {self.untrainable}")
        self.analysis(model)
        if not self.calibrations:
            self.calibrate(model, dataloader, (tune_cfg["calib_iteration"],))
        return self.build(self.plan(tune_cfg), model)

    def configs(self, tune_cfg: Mapping[str, Any]) -> dict[str, OpConfig]:
        """The configurations of the operators that leave fp32.

        Raises:
            ArgumentError: `tune_cfg` names an operator that the model does not have.
        """
        operators = self.known.operators
        found: dict[str, OpConfig] = {}
        for (name, _), given in tune_cfg["op"].items():
            config = OpConfig.from_dict(given)
            if name not in operators:
                known = ", ".join(map(repr, operators))
                raise ArgumentError(f"tune_cfg['op']: no operator is named {name!r}. Operators: {known}.")
            if config.is_quantized or (self.computes_halves and config.dtype != "fp32"):
                # An alpha of an operator that cannot be smoothed has no effect.
                found[name] = config if operators[name].is_linear else config.with_alpha(None)
        return found

    def statistics_of(self, tune_cfg: Mapping[str, Any]) -> Statistics:
        """What a configuration is to be calibrated with."""
        return self.statistics(tune_cfg["calib_iteration"], without_held_out=bool(tune_cfg.get("without_held_out")))

    # Comparing candidates

    def reference_outputs(self) -> Sequence[Array]:
        self._check_calibrated()
        return [output for each in self.calibrations.values() for output in each.held_out.outputs]

    def run(self, candidate: Any) -> Sequence[Array]:
        return [
            output
            for name, calibration in self.calibrations.items()
            for feed in calibration.held_out.batches
            for output in comparable_outputs(feed, self.outputs(candidate, name, feed))
        ]

    def _folds(self, size: int, tensor: str) -> tuple[ActivationStatistics, ...]:
        snapshots = [each.snapshot(size) for each in self.calibrations.values()]
        return next((each.crossed(tensor) for each in snapshots if tensor in each.every), ())

    def _check_calibrated(self) -> None:
        if not self.calibrations:
            raise RuntimeError("the model has not been calibrated yet")
