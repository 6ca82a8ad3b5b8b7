"""How far a candidate's outputs are from the fp32 model's, on held-out calibration samples."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import zip_longest
from typing import Any, Protocol, runtime_checkable

from array_api_compat import array_namespace

from inc_autotune.core.adaptor import Adaptor
from inc_autotune.core.errors import QuantizationError

logger = logging.getLogger(__name__)

LARGEST_OUTPUT = 1e15
"""Larger values mean "masked out" (minus infinity, the smallest float), and their errors mean nothing."""

_VALUES_AT_ONCE = 1 << 18
"""Of an output: temporaries of a whole one go back to the system and come again page by page, which takes longer."""


@runtime_checkable
class SupportsComparison(Protocol):
    """An adaptor that runs models on calibration samples it holds out."""

    def reference_outputs(self) -> Sequence[Any] | None:
        """The fp32 model's outputs on held-out calibration samples, as arrays; None if there are none."""

    def run(self, candidate: Any) -> Sequence[Any]:
        """A candidate's outputs on the same held-out samples."""


def relative_error(reference: Sequence[Any], outputs: Sequence[Any]) -> float:
    """Squared error over squared reference, averaged over the output tensors.

    Args:
        reference: the fp32 model's outputs, float arrays; elements beyond `LARGEST_OUTPUT` are not compared.
        outputs: the candidate's outputs, in the same order. An output of another shape (a list of found objects, say)
            counts as unrelated.

    Returns:
        0 for equal outputs, about 1 for unrelated ones; infinity if the candidate's outputs are not finite.
    """
    errors = []
    for expected, actual in zip_longest(reference, outputs):
        if expected is None or actual is None or tuple(expected.shape) != tuple(actual.shape):
            errors.append(1.0)
            continue
        power, error = _squares(expected, actual)
        error /= max(power, 1e-30)
        errors.append(error if math.isfinite(error) else math.inf)
    return sum(errors) / len(errors) if errors else 0.0


def _squares(expected: Any, actual: Any) -> tuple[float, float]:
    """Squares of a reference output, and of what another one of its shape differs by, each summed up."""
    xp = array_namespace(expected)
    whole = xp.reshape(expected, (-1,)), xp.reshape(actual, (-1,))
    power = error = 0.0
    for start in range(0, max(whole[0].shape[0], 1), _VALUES_AT_ONCE):
        part, other = (each[start : start + _VALUES_AT_ONCE] for each in whole)
        other = xp.astype(other, part.dtype)
        compared = xp.abs(part) <= LARGEST_OUTPUT
        if not bool(xp.all(compared)):
            nothing = xp.zeros_like(part)
            part, other = xp.where(compared, part, nothing), xp.where(compared, other, nothing)
        difference = other - part
        power += float(xp.sum(part * part))
        error += float(xp.sum(difference * difference))
    return power, error


def output_error(adaptor: Adaptor, tune_cfg: Mapping[str, Any], model: Any) -> float | None:
    """Build the candidate of `tune_cfg` and compare it with the fp32 model; None if the adaptor offers no outputs.

    The candidate is calibrated without the samples it is compared on, so that values beyond the calibrated ranges are
    clipped here as they will be in use. Otherwise smoothing with large alphas looks several times too good.

    Raises:
        QuantizationError: the candidate cannot be built, or not be run.
    """
    if not isinstance(adaptor, SupportsComparison):
        return None
    reference = adaptor.reference_outputs()
    if not reference:
        return None
    with candidate_errors():
        candidate = adaptor.quantize({**tune_cfg, "without_held_out": True}, model, None)
        return relative_error(reference, adaptor.run(candidate))


def error_or_infinity(adaptor: Adaptor, tune_cfg: Mapping[str, Any], model: Any) -> float | None:
    """The `output_error`; infinity, with a warning in the log, for a candidate that cannot be built or run."""
    try:
        return output_error(adaptor, tune_cfg, model)
    except QuantizationError as error:
        return infinity(error)


def infinity(error: QuantizationError) -> float:
    """The output error of a candidate that failed; the failure is logged."""
    logger.warning("%s; it counts as infinitely far from fp32", error)
    return math.inf


class OutputErrors:
    """The `output_error` of one candidate after another, as long as there is time.

    Attributes:
        failures: why candidates could not be built or run, which count as infinitely far.

    Args:
        adaptor: builds and runs them.
        model: in fp32.
        expired: once true, nothing more is measured.
        advance: called after each candidate.
    """

    def __init__(
        self, adaptor: Adaptor, model: Any, *, expired: Callable[[], bool], advance: Callable[[], object]
    ) -> None:
        self._adaptor, self._model = adaptor, model
        self._expired, self._advance = expired, advance
        self.failures: list[QuantizationError] = []

    def of(self, tune_cfg: Mapping[str, Any]) -> float | None:
        """Of a candidate; None if no time is left, or there is no output to compare."""
        error: float | None = None
        if not self._expired():
            try:
                error = output_error(self._adaptor, tune_cfg, self._model)
            except QuantizationError as failure:
                self.failures.append(failure)
                error = infinity(failure)
        self._advance()
        return error


@contextmanager
def candidate_errors() -> Iterator[None]:
    """Whatever a framework raises while a candidate is built or run, as a QuantizationError.

    A candidate that fails is a result of the search and not its end.
    """
    try:
        yield
    except QuantizationError:
        raise
    except Exception as error:
        raise QuantizationError(f"a candidate cannot be built or run: {type(error).__name__}: {error}") from error
