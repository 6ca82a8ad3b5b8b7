"""Calibration by a function of the user's."""

from __future__ import annotations

import inspect
from collections.abc import Callable

from torch import nn

from inc_autotune.core.errors import ArgumentError


class CalibrationFunction:
    """A user's function that takes a model and runs it on calibration inputs, in place of a dataloader.

    Raises:
        ArgumentError: the function cannot be called with one argument.
    """

    def __init__(self, function: Callable[[nn.Module], object]) -> None:
        try:
            signature = inspect.signature(function)
        except (TypeError, ValueError):  # of a function that tells nothing, such as a builtin
            signature = None
        if signature is not None:
            try:
                signature.bind(nn.Module())
            except TypeError as error:
                raise ArgumentError(
                    f"calib_func{signature}: {error}. Allowed: a function of one argument, the model it runs; "
                    "functools.partial sets the others."
                ) from error
        self.function = function
