"""The verbs of a training loop of one's own: prepare, to_fp32."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from inc_autotune.core.arguments import validate_arguments
from inc_autotune.core.errors import ArgumentError
from inc_autotune.core.ignored_warnings import ignored_warnings
from inc_autotune.core.search.strategy import STRATEGIES
from inc_autotune.torch_ext.api import attach, attached, autotune
from inc_autotune.torch_ext.backends import BACKENDS, RECIPES, TRAINED_RANGES_DEFAULT
from inc_autotune.torch_ext.model import own_tensors, shared_copy
from inc_autotune.torch_ext.model_check import check_full_precision
from inc_autotune.torch_ext.modules import (
    is_prepared,
    make_student,
    plain_model,
    settle,
    trained_recipe,
    unwrapped,
)


def prepare(
    model: nn.Module,
    calib_dataloader: Any = None,
    *,
    calib_func: Callable[[nn.Module], object] | None = None,
    op_type_dict: Mapping[str, Any] | None = None,
    op_name_dict: Mapping[str, Any] | None = None,
    smoothquant_args: Mapping[str, Any] | None = None,
    recipes: Mapping[str, Any] | None = None,
    sampling_sizes: Sequence[int] | int | None = None,
    approach: str = "auto",
    training_args: Mapping[str, Any] | None = None,
    capability: str | Path | Mapping[str, Any] | Sequence[Any] | None = None,
    excluded_precisions: Sequence[str] = (),
    seed: int = 0,
    progress: bool = True,
    example_inputs: Any = None,
) -> nn.Module:
    """A fake-quantized model for a training loop of one's own.

    Args:
        model: an fp32 module in eval mode, on the CPU. It is not changed.
        calib_dataloader: this and all others as for `autotune`, which quantizes everything that is worth it by the same
            rules.

    Returns:
        The student, in training mode: of the model's class, with weights of its own. `convert(student)` gives the
        deployable model with what it has learned, at any time; `save(student, path)` writes that.

    Raises:
        ArgumentError, ModelError, DataError, CapabilityError: bad input, found as early as it can be.
    """
    settings: dict[str, Any] = {
        "op_type_dict": op_type_dict,
        "op_name_dict": op_name_dict,
        "smoothquant_args": smoothquant_args,
        "recipes": recipes,
        "sampling_sizes": sampling_sizes,
        "approach": approach,
        "training_args": training_args,
        "capability": capability,
        "excluded_precisions": excluded_precisions,
        "seed": seed,
        "progress": progress,
    }
    if isinstance(model, nn.Module):
        check_full_precision(model, "a student would lose small updates")
    arguments = validate_arguments(strategies=STRATEGIES, backends=BACKENDS, recipe_names=RECIPES, **settings)
    ranges = arguments.training_args.for_own_loop().ranges
    with ignored_warnings(UserWarning, "the tuned model is not faster"):
        tuned = autotune(model, calib_dataloader, calib_func=calib_func, example_inputs=example_inputs, **settings)
    return make_student(tuned, ranges or TRAINED_RANGES_DEFAULT)


def to_fp32(tuned: nn.Module) -> nn.Module:
    """The plain fp32 model with the weights of a tuned one: to be exported, say, where it was trained.

    Args:
        tuned: what `autotune`, `prepare`, `apply_recipe` or `load` returned, not converted. It is not changed.

    Returns:
        A model in eval mode without fake quantization, which shares nothing with `tuned`. Folded batch norms stay
        folded.

    Raises:
        ArgumentError: `tuned` is not a tuned model, or is converted already.
    """
    if isinstance(tuned, nn.Module):
        tuned = unwrapped(tuned)
    if not isinstance(tuned, nn.Module) or not any(map(is_prepared, tuned.modules())):
        raise ArgumentError(
            f"tuned: a {type(tuned).__name__} without tuned operators. Allowed: what autotune(), prepare(), "
            "apply_recipe() or load() returned, before convert()."
        )
    return plain_model(tuned).eval()


def settled_student(student: nn.Module) -> nn.Module:
    """A tuned model of its own with what a student has learned, ranges fixed, and a recipe with these."""
    result, recipe = attached(student)
    settled = own_tensors(settle(shared_copy(student))).eval()
    return attach(settled, result, None if recipe is None else trained_recipe(student, recipe))
