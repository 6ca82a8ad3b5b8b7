"""Which backend a call of `autotune` gets, and what each refuses."""

from __future__ import annotations

import logging
from typing import Any

from inc_autotune.core.arguments import AutotuneArguments
from inc_autotune.core.errors import ArgumentError
from inc_autotune.core.vocabulary import TrainedRanges
from inc_autotune.torch_ext.adaptor import TorchAdaptor
from inc_autotune.torch_ext.module_adaptor import ModuleAdaptor
from inc_autotune.torch_ext.target.attention import attention_problem

logger = logging.getLogger(__name__)

BACKENDS = ("default", "ipex")

INTEGER_SUMS_RECIPE = "residual_add_fusion"

HALF_ATTENTION_RECIPE = "bf16_attention"

RECIPES = ("smooth_quant", "smooth_quant_args", INTEGER_SUMS_RECIPE, HALF_ATTENTION_RECIPE)
"""Names that the argument `recipes` may have."""

TRAINED_RANGES_DEFAULT: TrainedRanges = "learned"
"""What the literature trains few bits with; `benchmarks/torch/training.py` compares the three."""

UNTRAINABLE = {
    "ipex": (
        "backend='ipex' does not train: what its release 2.8 prepares is made for calibration. Train with "
        "backend='default' and deploy what convert() returns, or tune torch_ext.to_fp32(trained) with backend='ipex'."
    ),
}
"""Why a backend does not train, and what to do instead."""

_FOLDING = {
    "default": "scales are part of the quantizer and cost nothing",
    "ipex": "its models multiply by the scales before each smoothed Linear",
}


def backend_adaptor(arguments: AutotuneArguments, example_inputs: Any) -> ModuleAdaptor:
    """The adaptor that serves these arguments.

    Raises:
        ArgumentError: the backend does not do what is asked for.
        MissingDependencyError: the backend's library is not installed.
    """
    _check_supported(arguments)
    if arguments.backend == "ipex":
        from inc_autotune.torch_ext.ipex.adaptor import IpexAdaptor

        return IpexAdaptor(
            arguments.capability, example_inputs, histogram=arguments.needs_histogram, device=arguments.device
        )
    return TorchAdaptor(
        arguments.capability,
        example_inputs,
        histogram=arguments.needs_histogram,
        integer_sums=arguments.recipes.get(INTEGER_SUMS_RECIPE),
        halves_attention=_halves_attention(arguments),
        moments=arguments.weight_rounding != "nearest",
        trained_ranges=arguments.training_args.ranges or TRAINED_RANGES_DEFAULT,
    )


def _halves_attention(arguments: AutotuneArguments) -> bool:
    """Whether attention may be computed in bfloat16."""
    return arguments.recipes.get(HALF_ATTENTION_RECIPE) is not False and "bf16" not in arguments.excluded_precisions


def _check_attention(arguments: AutotuneArguments) -> None:
    asked = arguments.recipes.get(HALF_ATTENTION_RECIPE)
    place = f"recipes[{HALF_ATTENTION_RECIPE!r}]={asked!r}"
    if not isinstance(asked, bool | None) and asked != "auto":
        raise ArgumentError(f"{place}. Allowed: True, False or 'auto'.")
    if asked is not True:
        return
    if arguments.backend == "ipex":
        raise ArgumentError(f"{place}: backend='ipex' has no such kernel. Leave it out, or use backend='default'.")
    if "bf16" in arguments.excluded_precisions:
        raise ArgumentError(
            f"{place}: excluded_precisions={list(arguments.excluded_precisions)!r}. Leave out one of them."
        )
    problem = attention_problem()
    if problem is not None:
        raise ArgumentError(f"{place}: {problem}. Leave it out: then attention is computed in fp32.")


def _check_supported(arguments: AutotuneArguments) -> None:
    backend = arguments.backend
    if backend == "default" and arguments.device != "cpu":
        raise ArgumentError(
            f"device={arguments.device!r}: the stock PyTorch backend has integer kernels for 'cpu' only. Leave it out."
        )
    if backend == "ipex" and arguments.objective != "performance":
        raise ArgumentError(
            f"objective={arguments.objective!r}: backend='ipex' cannot measure it. Allowed: 'performance', or "
            "backend='default'."
        )
    if backend == "ipex" and arguments.approach not in ("auto", "static"):
        raise ArgumentError(
            f"approach={arguments.approach!r}: backend='ipex' quantizes statically. Allowed: 'auto', 'static', or "
            "backend='default'."
        )
    asked = arguments.recipes.get(INTEGER_SUMS_RECIPE)
    if not isinstance(asked, bool | None):
        raise ArgumentError(f"recipes[{INTEGER_SUMS_RECIPE!r}]={asked!r}. Allowed: True, False or None.")
    if backend == "ipex" and asked is not None:
        raise ArgumentError(
            f"recipes[{INTEGER_SUMS_RECIPE!r}]={asked!r}: backend='ipex' decides that by itself. Leave it out, or use "
            "backend='default'."
        )
    _check_attention(arguments)
    for name, choice in arguments.corrections.items():
        if backend == "ipex" and choice is True:
            raise ArgumentError(
                f"recipes[{name!r}]=True: backend='ipex' has no corrections. Allowed: False or 'auto', or "
                "backend='default'."
            )
    smoothquant = arguments.smoothquant_args
    if smoothquant is not None and smoothquant.folding:
        logger.warning(
            "smoothquant_args: 'folding' has no effect for PyTorch with backend=%r: %s", backend, _FOLDING[backend]
        )
