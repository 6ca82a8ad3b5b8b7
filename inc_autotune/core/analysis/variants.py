"""Other ways of writing a whole model, which are faster and less exact."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from inc_autotune.core.adaptor import Adaptor


@runtime_checkable
class SupportsVariants(Protocol):
    """An adaptor that writes the same configurations of operators in more than one way."""

    def variants(self, model: Any) -> Sequence[str]:
        """Names, for people, of the ways that are expected to be faster and less exact than the usual one.

        `tune_cfg["variant"]` names one of them; without, the model is written as usual. Each is tried on the best model
        that met the goal, where time is left. Calibration is over when this is asked.
        """


def variants_of(adaptor: Adaptor, model: Any) -> tuple[str, ...]:
    """The variants of a model; none where the adaptor knows of none."""
    return tuple(adaptor.variants(model)) if isinstance(adaptor, SupportsVariants) else ()
