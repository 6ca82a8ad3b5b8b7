"""The gain of a candidate over fp32 in the user's objective: speed, size or memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from inc_autotune.core.adaptor import Adaptor
from inc_autotune.core.vocabulary import Objective


@runtime_checkable
class SupportsTiming(Protocol):
    """An adaptor that measures how long models take."""

    def measure(self, models: Sequence[Any]) -> Sequence[float] | None:
        """Seconds of one forward pass of each model, measured in turn on the example inputs; None: not measured.

        Decisions rest on these, so they are CPU seconds of one thread wherever the framework allows.
        """


@runtime_checkable
class SupportsThreads(Protocol):
    """An adaptor that also measures how long models take in the threads of the user's program."""

    def measure_threads(self, models: Sequence[Any]) -> Sequence[float] | None:
        """The same as `measure` on the wall, in as many threads as the user's settings say; None: that is one thread.

        What the result tells the user; nothing is decided by it.
        """


@runtime_checkable
class SupportsSize(Protocol):
    """An adaptor that knows how large weights are."""

    def model_size(self, model: Any) -> int | None:
        """Bytes of the model's weights; None if they are not known."""


@runtime_checkable
class SupportsFootprint(Protocol):
    """An adaptor that knows how much memory a model takes while it runs."""

    def footprint(self, models: Sequence[Any]) -> Sequence[int] | None:
        """Peak of the bytes in use during a forward pass of each model, weights included; None: not known.

        The bytes are counted, not read off the process, so that the same model always gives the same number.
        """


def gain(adaptor: Adaptor, objective: Objective, model: Any, candidate: Any) -> float | None:
    """fp32 cost over candidate cost, both measured: 2.0 is twice as fast, or half as large.

    Args:
        adaptor: measures both models; calibrated.
        objective: selects the cost: `performance` is seconds of a forward pass, `modelsize` bytes of weights,
            `footprint` the peak of the bytes in use during a forward pass, weights included.
        model: the fp32 model.
        candidate: the deployable model.

    Returns:
        None if the adaptor does not measure this cost.
    """
    costs = _costs(adaptor, objective, (model, candidate))
    if costs is None or not all(costs):
        return None
    return float(costs[0] / costs[1])


def speedup_in_threads(adaptor: Adaptor, model: Any, candidate: Any) -> float | None:
    """fp32 seconds over candidate seconds in the threads of the user's program.

    None if that has one thread, or the adaptor does not measure it.
    """
    seconds = adaptor.measure_threads((model, candidate)) if isinstance(adaptor, SupportsThreads) else None
    return None if seconds is None or not all(seconds) else float(seconds[0] / seconds[1])


def _costs(adaptor: Adaptor, objective: Objective, models: Sequence[Any]) -> Sequence[float] | None:
    if objective == "performance":
        return adaptor.measure(models) if isinstance(adaptor, SupportsTiming) else None
    if objective == "footprint":
        return adaptor.footprint(models) if isinstance(adaptor, SupportsFootprint) else None
    # A size of None counts as no cost.
    return [adaptor.model_size(model) or 0 for model in models] if isinstance(adaptor, SupportsSize) else None
