"""Deployable models of assignments, and what they gain."""

from __future__ import annotations

import logging
from typing import Any

from inc_autotune.core.adaptor import Adaptor
from inc_autotune.core.analysis.gain import gain
from inc_autotune.core.progress import Phases
from inc_autotune.core.space.units import Assignment, TuningSpace
from inc_autotune.core.vocabulary import Objective

logger = logging.getLogger(__name__)


class Candidates:
    """Builds and measures the models of one tuning run."""

    def __init__(self, adaptor: Adaptor, model: Any, dataloader: Any, space: TuningSpace, phases: Phases) -> None:
        self._adaptor, self._model, self._dataloader = adaptor, model, dataloader
        self._space, self._phases = space, phases
        self.notes: list[str] = []
        """What went wrong without being an error."""

    def build(self, assignment: Assignment) -> Any:
        """The deployable model of an assignment."""
        with self._phases.phase("quantization"):
            return self._adaptor.quantize(self._space.tune_cfg(assignment), self._model, self._dataloader)

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
                # What an evaluation found is worth more than a figure beside it.
                logger.warning("objective %s could not be measured", objective, exc_info=True)
                note = f"objective {objective!r} could not be measured: {type(error).__name__}: {error}"
                if note not in self.notes:
                    self.notes.append(note)
                return None

    def _is_simulated(self, assignment: Assignment) -> bool:
        """Whether some operators compute in fp32 what an integer kernel would: their time says nothing."""
        return any(
            self._adaptor.is_simulated(name, config)
            for unit in self._space.units
            for config in [assignment.by_unit[unit.name]]
            if config.is_quantized
            for name in unit.operator_names
        )
