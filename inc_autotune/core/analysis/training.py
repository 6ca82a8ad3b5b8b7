"""Quantization-aware training: what it asks of a framework, and whether what `train_func` left can be used."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, Protocol, runtime_checkable

import numpy as np

from inc_autotune.core.adaptor import Adaptor
from inc_autotune.core.errors import ArgumentError, AutotuneError, TrainingError
from inc_autotune.core.files import Arrays

logger = logging.getLogger(__name__)

TrainFunction = Callable[[Any], Any]
"""The user's: trains the model it is given, in place or returning the best one."""

TRAINED = "trained"
"""Key of `tune_cfg` with the arrays that a model starts from instead of the fp32 model's, see `Student.arrays`."""


NOTHING_CHANGED = "train_func changed nothing: the model is as it was. Train the model that train_func is given"
"""The problem of a training without effect."""


@dataclass(frozen=True)
class StudentState:
    """All that a fake-quantized model has learned or may learn.

    Args:
        arrays: weights, statistics and ranges, by names that stay the same over configurations of one model. No other
            code writes into them.
        operators: names of the arrays that each operator computes with, by operator name.
        notes: for the user, about what `train_func` returned.
    """

    arrays: Arrays
    operators: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@runtime_checkable
class SupportsTraining(Protocol):
    """An adaptor whose models can be trained.

    `quantize`, `tuned_model` and `to_recipe` heed `tune_cfg["trained"]`: arrays by name, those of a `StudentState`.
    Names that the model of a configuration does not have, or has in another shape, are ignored: an operator that has
    fallen back to fp32 has a weight and no range.
    """

    def student(self, tune_cfg: Mapping[str, Any], model: Any) -> Any:
        """A fake-quantized model of a configuration for the user to train, with weights of its own."""

    def student_state(self, student: Any, returned: Any = None) -> StudentState:
        """What a student holds.

        Args:
            student: what `student` returned, perhaps trained since.
            returned: what `train_func` returned; the state is that of this model where it is one.

        Raises:
            TrainingError: `returned` is a model of another kind, or has lost what the student had.
        """


def check_trainable(adaptor: Adaptor, train_func: TrainFunction | None) -> None:
    """Refuse to train what cannot be trained.

    Raises:
        ArgumentError: there is a `train_func`, and the adaptor has no training.
    """
    if train_func is not None and not isinstance(adaptor, SupportsTraining):
        raise ArgumentError(f"train_func: {adaptor.untrainable}")


@dataclass(frozen=True)
class Training:
    """What one call of `train_func` came to.

    Args:
        arrays: as in `StudentState`.
        operators: names of the operators whose arrays changed.
        problem: why the model is of no use; None if it is.
        notes: for the user.
    """

    arrays: Arrays
    operators: tuple[str, ...]
    problem: str | None = None
    notes: tuple[str, ...] = ()


def train(
    adaptor: SupportsTraining,
    tune_cfg: Mapping[str, Any],
    model: Any,
    train_func: TrainFunction,
    interrupted: Callable[[Arrays], None] = lambda arrays: None,
) -> Training:
    """Have the user train the model of a configuration.

    Args:
        interrupted: gets what was trained so far where `train_func` raises, if it is finite.

    Raises:
        TrainingError: `train_func` raised, or left a model of another kind, dtype or shape.
    """
    student = adaptor.student(tune_cfg, model)
    before = {name: _Print.of(array) for name, array in adaptor.student_state(student).arrays.items()}
    try:
        returned = train_func(student)
    except BaseException as error:
        _keep(adaptor, student, before, interrupted)
        if isinstance(error, AutotuneError) or not isinstance(error, Exception):
            raise
        raise TrainingError(f"train_func raised {type(error).__name__}: {error}.", student=student) from error
    try:
        state = adaptor.student_state(student, returned)
        _check_form(state.arrays, before)
    except TrainingError as error:
        raise TrainingError(str(error), student=student) from error
    changed = {name for name, array in state.arrays.items() if _Print.of(array) != before[name]}
    operators = tuple(name for name, arrays in state.operators.items() if not changed.isdisjoint(arrays))
    return Training(state.arrays, operators, _problem(state, changed), state.notes)


@dataclass(frozen=True)
class _Print:
    """An array's form and a digest of its content."""

    dtype: str
    shape: tuple[int, ...]
    digest: bytes

    @classmethod
    def of(cls, array: np.ndarray[Any, Any]) -> _Print:
        return cls(array.dtype.name, array.shape, blake2b(np.ascontiguousarray(array).tobytes()).digest())


def _check_form(arrays: Arrays, before: Mapping[str, _Print]) -> None:
    """Refuse what has lost, gained or changed arrays but for their values."""
    other = sorted(before.keys() ^ arrays.keys())
    if other:
        happened = "has no longer" if other[0] in before else "has besides"
        raise TrainingError(
            f"train_func left a model that {happened} {other[0]!r}. Allowed: the model it was given, trained in place, "
            "or a copy of it; add and remove nothing."
        )
    for name, array in arrays.items():
        if array.dtype.name != before[name].dtype:
            raise TrainingError(
                f"train_func changed the dtype of {name!r} from {before[name].dtype} to {array.dtype.name}. Leave "
                "weights in float32; autocast computes in half precision without changing them."
            )
        if array.shape != before[name].shape:
            raise TrainingError(
                f"train_func changed the shape of {name!r} from {before[name].shape} to {array.shape}. Train the "
                "model as it is."
            )


def _problem(state: StudentState, changed: set[str]) -> str | None:
    bad = _not_finite(state.arrays)
    if bad is not None:
        return (
            f"train_func left NaN or infinity in {bad!r}: training diverged. Try a smaller learning rate, or clip "
            "gradients"
        )
    if not changed:
        return NOTHING_CHANGED
    return None


def _not_finite(arrays: Arrays) -> str | None:
    """The first array that holds NaN or infinity."""
    floats = ((name, array) for name, array in arrays.items() if array.dtype.kind == "f")
    return next((name for name, array in floats if not np.isfinite(array).all()), None)


def _keep(
    adaptor: SupportsTraining, student: Any, before: Mapping[str, _Print], interrupted: Callable[[Arrays], None]
) -> None:
    """Keep what was trained before `train_func` raised; whatever fails meanwhile must not hide what it raised."""
    try:
        arrays = adaptor.student_state(student).arrays
        _check_form(arrays, before)
        if _not_finite(arrays) is None and any(_Print.of(array) != before[name] for name, array in arrays.items()):
            interrupted(arrays)
    except Exception:
        logger.warning("what train_func had trained before it raised could not be kept", exc_info=True)
