"""The verbs a PyTorch user calls: autotune, convert, apply_recipe."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from inc_autotune.core.arguments import AutotuneArguments, check_path, shown, takes_foreign_names, validate_arguments
from inc_autotune.core.errors import ArgumentError, EvaluationError, RecipeError
from inc_autotune.core.evaluation import check_evaluation_arguments, with_direction_of
from inc_autotune.core.op_config import OpConfig
from inc_autotune.core.result import (
    Recipe,
    applying,
    check_framework,
    check_operators,
    check_smoothing,
    warn_of_shortcomings,
)
from inc_autotune.core.search.strategy import STRATEGIES
from inc_autotune.core.search.study import Trial
from inc_autotune.core.tuner import tune
from inc_autotune.torch_ext.adaptor import TorchAdaptor
from inc_autotune.torch_ext.backends import BACKENDS, RECIPES, UNTRAINABLE, backend_adaptor
from inc_autotune.torch_ext.calibration import (
    REDUCED,
    STEPS,
    STEPS_LEFT_OUT,
    attention_from_recipe,
    calibrations_from_recipe,
    products_from_recipe,
)
from inc_autotune.torch_ext.data import (
    CalibrationFunction,
    evaluation_function,
    isolated,
    iterable_loader,
    with_gradients,
    without_gradients,
)
from inc_autotune.torch_ext.ipex.models import converted_model as converted_by_ipex
from inc_autotune.torch_ext.ipex.models import fp32_form, is_prepared_by_ipex
from inc_autotune.torch_ext.model import TunedModule, base_model, expand
from inc_autotune.torch_ext.model.untouched import generator_kept
from inc_autotune.torch_ext.model_check import check_full_precision, check_model
from inc_autotune.torch_ext.modules import (
    converted_model,
    is_prepared,
    is_quantized,
    is_student,
    multiplies_integers,
    prepared_model,
    trained_recipe,
    unwrapped,
    with_bf16_attention,
)
from inc_autotune.torch_ext.old_calls import accepts_old_calls
from inc_autotune.torch_ext.operators import operator_type, weight_matrix, with_rules_for_hidden_products
from inc_autotune.torch_ext.target import saturation

logger = logging.getLogger(__name__)


@takes_foreign_names({"prepared_model": "model"})
@accepts_old_calls
def autotune(
    model: nn.Module,
    calib_dataloader: Any = None,
    eval_func: Callable[[nn.Module], Any] | None = None,
    *,
    calib_func: Callable[[nn.Module], object] | None = None,
    eval_dataloader: Any = None,
    eval_metric: Any = None,
    op_type_dict: Mapping[str, Any] | None = None,
    op_name_dict: Mapping[str, Any] | None = None,
    smoothquant_args: Mapping[str, Any] | None = None,
    recipes: Mapping[str, Any] | None = None,
    sampling_sizes: Sequence[int] | int | None = None,
    accuracy_criterion: Mapping[str, Any] | None = None,
    tuning_time: float = 0,
    max_trials: int = 100,
    strategy: str = "auto",
    approach: str = "auto",
    train_func: Callable[[nn.Module], Any] | None = None,
    training_args: Mapping[str, Any] | None = None,
    backend: str = "default",
    device: str = "cpu",
    capability: str | Path | Mapping[str, Any] | Sequence[Any] | None = None,
    excluded_precisions: Sequence[str] = (),
    objective: str = "performance",
    storage: str | None = None,
    study_name: str | None = None,
    seed: int = 0,
    progress: bool = True,
    on_trial: Callable[[Trial], object] | None = None,
    example_inputs: Any = None,
) -> TunedModule:
    """Find an INT8 form of a model that is as accurate as asked.

    Args:
        model: a module in eval mode, on the CPU, in fp32, bf16 or fp16; where it is in half precision, what is not
            quantized stays so. It is not changed.
        calib_dataloader: yields calibration batches: a tensor or array, a tuple or list of inputs, `(inputs, label)`,
            or a dict of keyword inputs. A DataLoader, a list, or a generator; read once.
        eval_func: takes a model with integer kernels and returns its score: one finite number, or a 1-D array or tensor
            of per-sample scores whose mean is the score, or a generator that yields such scores bit by bit. With
            per-sample scores, which must be of the same samples in the same order for every model, the verdict is a
            paired test with a confidence interval, and a generator (in a random but fixed order) is stopped as soon
            as the verdict is clear. Without it (and without `eval_dataloader` and `eval_metric`) the model is quantized
            with tuned alphas and no claim is made.
        calib_func: instead of `calib_dataloader`, a function that runs the model it is given on calibration inputs.
        eval_dataloader: yields `(inputs, label)`, with `eval_metric` instead of `eval_func`.
        eval_metric: a function of (predictions, labels), an object with `update` and `compute` (or `result`), a name
            such as "accuracy" or "f1", or one with options: `{"topk": {"k": 5}}`; docs/arguments.md lists them.
        op_type_dict: rules by operator type, a regular expression: `{"Conv2d": {"weight": {"dtype": ["fp32"]}}}`.
        op_name_dict: the same by operator name; wins over types.
        smoothquant_args: `{"alpha": "auto" | number | list, "auto_alpha_args": {...}, "folding": bool}`; None: the
            strategy may smooth with alphas of its own choice.
        recipes: `{"smooth_quant": bool, "smooth_quant_args": {...}, "residual_add_fusion": bool}`; the first False
            forbids smoothing. The last True lets residual blocks add up integers, which is faster and less exact;
            default None: only where `tuning_time` is left once the goal is met, and a trial shows that it is met so
            too, and faster. And `fast_bias_correction`, `weight_correction`: True, False, or "auto" (default), which
            compares them at the output. And `weight_rounding`: "nearest", "second_moment" or "auto" (default), which
            does so too. And `bf16_attention`: whether `F.scaled_dot_product_attention` multiplies in bfloat16 where it
            gains by that; True, where it is an error if nothing here does, False, or "auto" (default).
        sampling_sizes: numbers of calibration samples to try, in this order. Default [100].
        accuracy_criterion: `{"relative": 0.01}` or `{"absolute": x}`, and `"higher_is_better"`. Default relative 0.01.
        tuning_time: seconds to look for the fastest model that meets the goal; 0: stop at the first that does.
        max_trials: candidates to evaluate at most.
        strategy: how candidates are chosen.
        approach: "auto", "static", "dynamic" or "weight_only"; or "qat": `train_func` trains the quantized model at
            once, and not only where the goal is missed.
        train_func: trains the fake-quantized model it is given, in place or returning the best one. It is called where
            no model with every operator quantized meets the goal, before any operator falls back.
        training_args: `{"ranges": "learned" | "moving" | "fixed"}`: what training does to ranges. Default "learned";
            and `"folder"`, where trained weights are kept, by default beside a storage that is a file.
        backend: "default" is stock PyTorch, "ipex" Intel Extension for PyTorch 2.8 (the extra `ipex`): the result is
            then a prepared model of that, for its `convert` as well as for this one.
        device: where the model will run: "cpu"; with backend "ipex" also "xpu".
        capability: a framework YAML, or a dict, that extends the one shipped.
        excluded_precisions: dtypes that must not be used, such as `["bf16"]`.
        objective: what `tuning_time` looks for: "performance", the fastest model; "modelsize", the smallest weights;
            "footprint", the least memory while it runs. With the last two, embeddings are quantized too.
        storage: an Optuna storage URL that keeps trials over a crash, such as `sqlite:///run.db`.
        study_name: prefix of the study's name there.
        seed: of everything random.
        progress: whether to show progress bars.
        on_trial: is given each `Trial` of this process when it has ended and is recorded; `inc_autotune.tracking` has
            ready ones.
        example_inputs: inputs for measuring speed and memory (a tensor, tuple or dict). Default: the first
            calibration samples.

    Returns:
        The tuned model: fake-quantized, differentiable, ready for `convert`. Its `tuning_result` says what was
        found; `print(tuned.tuning_result)` is a table.

    Raises:
        ArgumentError, ModelError, DataError, CapabilityError: bad input, found as early as it can be.
        EvaluationError: `eval_func` raised or returned no number. Finished trials and the best model so far are in
            its `partial_result`.
        TrainingError: `train_func` raised, or left a model that is not the one it was given. As above; the model as it
            was left is in its `student`.
    """
    arguments = validate_arguments(
        strategies=STRATEGIES,
        backends=BACKENDS,
        recipe_names=RECIPES,
        untrainable=UNTRAINABLE.get(backend),
        op_type_dict=op_type_dict,
        op_name_dict=op_name_dict,
        smoothquant_args=smoothquant_args,
        recipes=recipes,
        sampling_sizes=sampling_sizes,
        accuracy_criterion=accuracy_criterion,
        tuning_time=tuning_time,
        max_trials=max_trials,
        strategy=strategy,
        approach=approach,
        train_func=None if train_func is None else with_gradients(train_func),
        training_args=training_args,
        backend=backend,
        device=device,
        capability=capability,
        excluded_precisions=excluded_precisions,
        objective=objective,
        storage=storage,
        study_name=study_name,
        seed=seed,
        progress=progress,
        on_trial=on_trial,
    )
    model = check_model(fp32_form(model))
    if arguments.backend == "ipex":
        check_full_precision(model, "backend='ipex' takes float32")
    if arguments.train_func is not None:
        check_full_precision(model, "train_func would lose small updates")
    adaptor = backend_adaptor(arguments, example_inputs)
    if adaptor.expands:
        arguments = with_rules_for_hidden_products(arguments, model)
    arguments = with_direction_of(eval_metric, arguments)
    evaluate = check_evaluation_arguments(
        eval_func,
        eval_dataloader,
        eval_metric,
        evaluation_function,
        higher_is_better=arguments.accuracy_criterion.higher_is_better,
    )
    calibration = _calibration_source(calib_dataloader, calib_func, example_inputs, arguments)
    try:
        # A DataLoader draws from the global generator, even where it does not shuffle; and a generator of the user's
        # that is left inside a `no_grad` block of its own has switched gradients off.
        gradients = torch.set_grad_enabled(torch.is_grad_enabled())
        with generator_kept(), gradients, ExitStack() as opened:
            tuned = tune(adaptor, model, calibration, without_gradients(isolated(evaluate, model), opened), arguments)
    except EvaluationError as error:
        if error.partial_result is not None:
            # Without the model in its own result, which would double whatever is copied or pickled.
            result = replace(error.partial_result, model=None)
            attach(error.partial_result.model, result, result.recipe)
        raise
    warn_of_shortcomings(tuned.result, stacklevel=4)
    return cast("TunedModule", attach(tuned.model, tuned.result, tuned.result.recipe))


@takes_foreign_names()
def convert(tuned: nn.Module) -> nn.Module:
    """Replace the fake-quantized operators of a tuned model by ones with integer kernels.

    Args:
        tuned: what `autotune`, `prepare` or `apply_recipe` returned, perhaps trained since. It is not changed.

    Returns:
        A model in eval mode that shares nothing with `tuned`: it can be called, deep-copied, pickled, traced with
        `torch.jit.trace`, exported with `torch.export` and compiled with `torch.compile`.

    Raises:
        ArgumentError: `tuned` is not a tuned model.
    """
    if is_prepared_by_ipex(tuned):
        return attach(converted_by_ipex(tuned), *attached(tuned))
    if isinstance(tuned, nn.Module):
        tuned = unwrapped(tuned)
    modules = list(tuned.modules()) if isinstance(tuned, nn.Module) else []
    if not any(map(is_prepared, modules)):
        state = "that is converted already" if any(map(is_quantized, modules)) else "without tuned operators"
        raise ArgumentError(
            f"tuned: a {type(tuned).__name__} {state}. Allowed: what autotune() or apply_recipe() returned."
        )
    converted = converted_model(tuned).eval()
    result, recipe = attached(tuned)
    return attach(
        converted, result, trained_recipe(tuned, recipe) if recipe is not None and is_student(tuned) else recipe
    )


def apply_recipe(model: nn.Module, recipe: Recipe | str | Path) -> nn.Module:
    """Build a tuned model from its fp32 model and a recipe, without data.

    A recipe with 8-bit weights gives 7-bit ones where the integer kernels of this processor would saturate with 8; a
    warning says so, and the recipe of the model that is returned.

    Args:
        model: the fp32 model, in eval mode. It is not changed.
        recipe: `tuned.tuning_result.recipe`, or the path of a YAML file written by its `save`.

    Returns:
        The tuned model, ready for `convert`.

    Raises:
        ArgumentError: `model` is not a model, or `recipe` not a recipe.
        ModelError: the model is not an fp32 model in eval mode.
        RecipeError: the recipe is for another framework, or names operators the model does not have.
    """
    model = check_model(fp32_form(model))
    if isinstance(recipe, str | PathLike):
        recipe = Recipe.load(check_path(recipe, "recipe"))
    if not isinstance(recipe, Recipe):
        raise ArgumentError(
            f"recipe: a {type(recipe).__name__}. Allowed: tuned.tuning_result.recipe, or the path of a recipe in YAML."
        )
    if recipe.metadata.get(STEPS_LEFT_OUT):
        raise RecipeError(
            "recipe: is of a checkpoint that was quantized block by block; how its weights are rounded stands in the "
            "files of the model alone. Load these: torch_ext.from_pretrained(folder)."
        )
    with applying(recipe):
        recipe = _fitted(recipe, model)
        return attach(build_from_recipe(model, recipe), None, recipe)


def _fitted(recipe: Recipe, model: nn.Module) -> Recipe:
    """With 7-bit weights wherever this processor needs them."""
    products = products_from_recipe(recipe.operators)
    modules = dict(expand(base_model(model, {}, products), recipe.operators).named_modules())
    wide = {
        name: each
        for name, each in recipe.operators.items()
        if multiplies_integers(each.type, each.config)
        and not each.calibration.get(REDUCED)
        and name in modules
        and operator_type(modules[name]) == each.type
        and saturation.needs_reduced_range(each.type, modules[name])
    }
    if not wide:
        return recipe
    first = next(iter(wide))
    warnings.warn(
        f"recipe: was made for 8-bit weights, with which integer kernels of this processor saturate. {len(wide)} "
        f"operators get 7-bit weights instead, the first is {first!r} ({wide[first].type}). The accuracy found by "
        "tuning is that of 8 bits: evaluate the model again, or tune it on this processor.",
        stacklevel=3,
    )
    # What is rounded by second moments lies on a grid of 8 bits.
    reduced = {
        name: replace(
            each,
            config=each.config.with_rounding("nearest"),
            calibration={**{key: value for key, value in each.calibration.items() if key != STEPS}, REDUCED: True},
        )
        for name, each in wide.items()
    }
    return replace(recipe, operators={**recipe.operators, **reduced})


def build_from_recipe(model: nn.Module, recipe: Recipe) -> nn.Module:
    """The prepared model a recipe describes."""
    check_framework(recipe, TorchAdaptor.framework)
    products = products_from_recipe(recipe.operators)
    quantized = {name: each for name, each in recipe.operators.items() if each.config.dtype != "fp32"}
    modules = dict(expand(base_model(model, {}, products), quantized).named_modules())
    check_operators(quantized, {name: operator_type(modules[name]) for name in quantized if name in modules})
    batch_norms = {
        name: str(each.calibration["batch_norm"])
        for name, each in recipe.operators.items()
        if "batch_norm" in each.calibration
    }
    missing = [name for pair in batch_norms.items() for name in pair if name not in modules]
    missing += [name for name in batch_norms.values() if not hasattr(modules.get(name), "running_mean")]
    if missing:
        raise RecipeError(
            f"recipe: {missing[0]!r} is not in the model. Is it the same model, its batch norms not folded?"
        )
    configs: dict[str, OpConfig] = {name: each.config for name, each in quantized.items()}
    calibrations = calibrations_from_recipe(quantized, recipe.arrays)
    for name, calibration in calibrations.items():
        if calibration.smoothing is not None:
            check_smoothing(name, calibration.smoothing.shape, weight_matrix(modules[name]).shape[1])
    reduced = {name for name, each in quantized.items() if each.calibration.get(REDUCED)}
    base = base_model(model, batch_norms, products, fast_paths=True)
    prepared = prepared_model(base, configs, calibrations, reduced=reduced)
    return with_bf16_attention(prepared, attention_from_recipe(recipe))


def attach(model: nn.Module, result: Any, recipe: Recipe | None) -> nn.Module:
    """Let the model carry its result and recipe, as plain attributes."""
    object.__setattr__(model, "tuning_result", result)
    object.__setattr__(model, "tuning_recipe", recipe)
    return model


def attached(model: nn.Module) -> tuple[Any, Recipe | None]:
    """The result and the recipe a model carries."""
    return getattr(model, "tuning_result", None), getattr(model, "tuning_recipe", None)


def _calibration_source(
    calib_dataloader: Any,
    calib_func: Callable[[nn.Module], object] | None,
    example_inputs: Any,
    arguments: AutotuneArguments,
) -> Any:
    """What the adaptor calibrates from."""
    if calib_func is not None:
        if not callable(calib_func):
            raise ArgumentError(
                f"calib_func={shown(calib_func)}: not callable. Allowed: a function that takes the model."
            )
        if calib_dataloader is not None:
            logger.warning("calib_func is given, so calib_dataloader is not read")
        return CalibrationFunction(calib_func)
    if calib_dataloader is not None:
        iterable_loader(calib_dataloader, "calib_dataloader")
        return calib_dataloader
    if arguments.approach in ("dynamic", "weight_only") and example_inputs is not None:
        return [example_inputs]
    raise ArgumentError(
        "calib_dataloader is None. Give calibration batches (calib_dataloader), or a function that runs the model "
        "(calib_func). With approach='dynamic' or 'weight_only', example_inputs is enough."
    )
