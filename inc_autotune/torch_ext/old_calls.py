"""Positional arguments as `ipex.quantization.autotune` of Intel Extension for PyTorch 1.13 to 2.8 took them.

The order after the calibration data changed twice. In the RFC of 2023 and releases 1.13 to 2.1 `eval_func` follows; in
2.2 to 2.6 `calib_func`, `eval_func`, `op_type_dict` and `smoothquant_args`; in 2.7 and 2.8 the same without
`smoothquant_args`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from inc_autotune.core.arguments import shown
from inc_autotune.core.errors import ArgumentError

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")

COMMON = ("model", "calib_dataloader")
_LIMITS = ("sampling_sizes", "accuracy_criterion", "tuning_time")
ORDERS = {
    "the RFC, 1.13 to 2.1": ("eval_func", *_LIMITS),
    "2.7 and 2.8": ("calib_func", "eval_func", "op_type_dict", *_LIMITS),
    "2.2 to 2.6": ("calib_func", "eval_func", "op_type_dict", "smoothquant_args", *_LIMITS),
}
"""Orders of the positional arguments after the first two. The first order that fits is used."""

_CRITERION = frozenset({"relative", "absolute", "higher_is_better"})
_SMOOTHING = frozenset({"alpha", "auto_alpha_args", "folding"})


def accepts_old_calls(autotune: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """Let `autotune`, which takes three positional arguments, take more of them in the orders of the extension.

    The model may also be passed as `prepared_model`, its name up to 2.1.
    """

    call: Callable[..., Result] = autotune

    @wraps(autotune)
    def understood(*args: Any, **kwargs: Any) -> Result:
        if "prepared_model" in kwargs and "model" not in kwargs and not args:
            kwargs["model"] = kwargs.pop("prepared_model")
        named = named_arguments(args)
        twice = [name for name in named if name in kwargs]
        if twice:
            raise ArgumentError(f"{twice[0]}: is given by position and by name. Give it once.")
        return call(**named, **kwargs)

    return understood


def named_arguments(args: tuple[Any, ...]) -> dict[str, Any]:
    """The positional arguments by name, in the first of `ORDERS` that their types fit; None fits every name.

    Raises:
        ArgumentError: the arguments fit no order.
    """
    rest = args[len(COMMON) :]
    if len(rest) == 1:  # whatever it is: eval_func
        return dict(zip((*COMMON, "eval_func"), args, strict=True))
    for order in ORDERS.values():
        if len(rest) <= len(order) and all(_FITS[name](value) for name, value in zip(order, rest, strict=False)):
            return dict(zip((*COMMON, *order), args, strict=False))
    orders = "\n".join(f"  {', '.join((*COMMON, *order))}  ({release})" for release, order in ORDERS.items())
    raise ArgumentError(
        f"autotune() was given {len(args)} positional arguments, of which the last ones "
        f"({', '.join(map(shown, rest))}) fit no known order. Allowed:\n{orders}\nBetter name all after eval_func."
    )


def _is_function(value: Any) -> bool:
    return value is None or callable(value)


def _is_sizes(value: Any) -> bool:
    return not callable(value) and not isinstance(value, Mapping)


def _is_criterion(value: Any) -> bool:
    return value is None or (isinstance(value, Mapping) and _CRITERION.issuperset(value))


def _is_smoothing(value: Any) -> bool:
    return value is None or (isinstance(value, Mapping) and _SMOOTHING.issuperset(value))


def _is_rules(value: Any) -> bool:
    return value is None or (isinstance(value, Mapping) and not (_CRITERION | _SMOOTHING).intersection(value))


def _is_number(value: Any) -> bool:
    return not callable(value) and not isinstance(value, Mapping | list | tuple)


_FITS: Mapping[str, Callable[[Any], bool]] = {
    "calib_func": _is_function,
    "eval_func": _is_function,
    "op_type_dict": _is_rules,
    "smoothquant_args": _is_smoothing,
    "sampling_sizes": _is_sizes,
    "accuracy_criterion": _is_criterion,
    "tuning_time": _is_number,
}
