"""Deployable models of assignments, and what they gain."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from inc_autotune.core.adaptor import Adaptor
from inc_autotune.core.analysis.gain import gain
from inc_autotune.core.progress import Phases
from inc_autotune.core.space.units import Assignment, TuningSpace
from inc_autotune.core.vocabulary import Objective

logger = logging.getLogger(__name__)


Quantize = Callable[[dict[str, Any]], Any]
"""The adaptor's `quantize` for one model and its calibration data: from `tune_cfg` to the deployable model."""


class Candidates:
    """Builds and measures the models of one tuning run."""

    def __init__(self, adaptor: Adaptor, model: Any, quantize: Quantize, space: TuningSpace, phases: Phases) -> None:
        self._adaptor, self._model, self._quantize = adaptor, model, quantize
        self._space, self._phases = space, phases
        self.notes: list[str] = []
        """What went wrong without being an error."""

    def build(self, assignment: Assignment) -> Any:
        """The deployable model of an assignment."""
        with self._phases.phase("quantization"):
            return self._quantize(self._space.tune_cfg(assignment))

    def gain(self, assignment: Assignment, candidate: Any, objective: Objective) -> float | None:
        """fp32 cost over the candidate's.

        None where it is not measured or measuring fails, and for the speed of a simulated model.
        """
        if objective == "performance" and self._is_simulated(assignment):
            return None
        with self._phases.phase("measurement"):
            try:
                return gain(self._adaptor, objective, self._model, candidate)
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
            for unit in self._space.units
            for config in [assignment.by_unit[unit.name]]
            if config.is_quantized
            for name in unit.operator_names
        )
