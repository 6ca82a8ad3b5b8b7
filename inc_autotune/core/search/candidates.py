"""Deployable models of assignments, and what they gain."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

from inc_autotune.core.adaptor import Adaptor
from inc_autotune.core.analysis import SupportsComparison, candidate_errors
from inc_autotune.core.analysis.gain import gain, speedup_in_threads
from inc_autotune.core.errors import QuantizationError
from inc_autotune.core.op_config import FP32
from inc_autotune.core.progress import Phases
from inc_autotune.core.search.failing_units import failing_units
from inc_autotune.core.search.training import Trainings
from inc_autotune.core.space import Assignment, TuningSpace
from inc_autotune.core.vocabulary import Objective

logger = logging.getLogger(__name__)

LONGEST_ERROR = 200
"""Characters of an error that stand in an operator's reason."""

Quantize = Callable[[dict[str, Any]], Any]
"""The adaptor's `quantize` for one model and its calibration data: from `tune_cfg` to the deployable model."""


class Candidates:
    """Builds and measures the models of one tuning run.

    Args:
        space: all units; one that an assignment does not have stays in fp32.
        trainings: have the weights of trained ones.
    """

    def __init__(
        self,
        adaptor: Adaptor,
        model: Any,
        quantize: Quantize,
        space: TuningSpace,
        phases: Phases,
        trainings: Trainings,
    ) -> None:
        self._adaptor, self._model, self._quantize = adaptor, model, quantize
        self.space, self._phases, self.trainings = space, phases, trainings
        self._last: tuple[Assignment, Objective, float] | None = None
        self.notes: list[str] = []
        """What went wrong without being an error."""

    def build(self, assignment: Assignment) -> Any:
        """The deployable model of an assignment."""
        with self._phases.phase("quantization"):
            return self._quantize(self.trainings.tune_cfg(self.space, assignment))

    def failure(self, assignment: Assignment) -> str | None:
        """Why the model of an assignment cannot be built, or not run on held-out samples; None if it works.

        Samples are run if the adaptor compares outputs.
        """
        try:
            with candidate_errors():
                candidate = self.build(assignment)
        except QuantizationError as error:
            return _words(error)
        return self.run_failure(candidate)

    def run_failure(self, candidate: Any) -> str | None:
        """Why a model does not run on held-out samples; None if it does, or if there are none."""
        if not isinstance(self._adaptor, SupportsComparison) or self._adaptor.reference_outputs() is None:
            return None
        try:
            with self._phases.phase("quantization"), candidate_errors():
                self._adaptor.run(candidate)
        except QuantizationError as error:
            return _words(error)
        return None

    def failing_operators(self, assignment: Assignment, error: str) -> dict[str, str]:
        """The operators that a model works without, each with the reason why it stays in fp32.

        Args:
            assignment: whose model fails.
            error: what `failure` says of it.

        Returns:
            Empty if no operator is to blame.
        """
        quantized = [unit for unit, config in assignment.configs if config != FP32]

        def failure(units: Sequence[str]) -> str | None:
            return self.failure(self.space.only(assignment, units))

        found = failing_units(quantized, failure, error)
        reasons = {
            name: f"the model fails with it in {assignment.by_unit[unit].dtype}: {reason}"
            for unit, reason in found.items()
            for name in self.space.by_name[unit].operator_names
        }
        for name, reason in reasons.items():
            logger.warning("%s stays in fp32: %s", name, reason)
        return reasons

    def gain(self, assignment: Assignment, candidate: Any, objective: Objective) -> float | None:
        """fp32 cost over the candidate's.

        None where it is not measured or measuring fails, and for the speed of a simulated model.
        """
        if objective == "performance" and self._is_simulated(assignment):
            return None
        found = self._measured(lambda: gain(self._adaptor, objective, self._model, candidate), objective)
        if found is not None:
            self._last = (assignment, objective, found)
        return found

    def last_gain(self, assignment: Assignment, candidate: Any, objective: Objective) -> float | None:
        """The gain that was measured last, if it was that of the same assignment; else it is measured.

        The speed of a large model takes as long to measure as several candidates to compare.
        """
        if self._last is not None and self._last[:2] == (assignment, objective):
            return self._last[2]
        return self.gain(assignment, candidate, objective)

    def speedup_in_threads(self, assignment: Assignment, candidate: Any) -> float | None:
        """fp32 seconds over the candidate's in the threads of the user's program; None as for `gain`, and for one."""
        if self._is_simulated(assignment):
            return None
        return self._measured(lambda: speedup_in_threads(self._adaptor, self._model, candidate), "performance")

    def _measured(self, measure: Callable[[], float | None], objective: Objective) -> float | None:
        with self._phases.phase("measurement"):
            try:
                return measure()
            except Exception as error:
                # A failed measurement must not cost the evaluation that has succeeded.
                logger.warning("objective %s could not be measured", objective, exc_info=True)
                note = f"objective {objective!r} could not be measured: {type(error).__name__}: {error}"
                if note not in self.notes:
                    self.notes.append(note)
                return None

    def _is_simulated(self, assignment: Assignment) -> bool:
        """Whether some operators simulate integers in fp32, so that the time of the model says nothing."""
        return any(
            self._adaptor.is_simulated(name, config)
            for unit in self.space.units
            for config in [assignment.by_unit.get(unit.name, FP32)]
            if config.is_quantized
            for name in unit.operator_names
        )


def _words(error: QuantizationError) -> str:
    """What the framework raised, in a line: the first one that does not announce others, as those above a trace do."""
    raised = error if error.__cause__ is None else error.__cause__
    lines = [line.strip() for line in str(raised).splitlines() if line.strip()]
    telling = [line for line in lines if not line.endswith(":") and not line.startswith(("<", "File "))]
    text = f"{type(raised).__name__}: {(telling or lines or [''])[0]}"
    return text if len(text) <= LONGEST_ERROR else f"{text[:LONGEST_ERROR]}..."
