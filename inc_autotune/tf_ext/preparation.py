"""Training models that round: the verb `prepare`, and what became of a student as a tuned model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import inc_autotune
from inc_autotune.core.arguments import shown, validate_arguments
from inc_autotune.core.errors import ArgumentError
from inc_autotune.core.op_config import FP32
from inc_autotune.core.result import OperatorRecipe, Recipe
from inc_autotune.core.search.strategy import STRATEGIES
from inc_autotune.core.tuner import tune
from inc_autotune.tf_ext.adaptor import TensorFlowAdaptor
from inc_autotune.tf_ext.calibration import FRAMEWORK, Analysis, calibration_entries
from inc_autotune.tf_ext.data import data_by_signature
from inc_autotune.tf_ext.model import Candidate
from inc_autotune.tf_ext.target import FORMS, SWITCHES, choices_of, read_switches, skipped_ends
from inc_autotune.tf_ext.training import DEFAULT_RANGES, Student, Trained, student_of, traced_copy, trained
from inc_autotune.tf_ext.tuned_model import TunedModel, plan_of_recipe, recipe_for_here

TRAINED = "trained"

UNUSED = {
    "smooth_quant": False,
    "fast_bias_correction": False,
    "weight_correction": False,
    "weight_rounding": "nearest",
}
"""What helps without training."""


def prepare(
    model: Any,
    calib_dataset: Any,
    *,
    op_type_dict: Mapping[str, Any] | None = None,
    op_name_dict: Mapping[str, Any] | None = None,
    recipes: Mapping[str, Any] | None = None,
    smoothquant_args: Mapping[str, Any] | None = None,
    sampling_sizes: Sequence[int] | int | None = None,
    capability: str | Path | Mapping[str, Any] | Sequence[Any] | None = None,
    excluded_precisions: Sequence[str] = (),
    objective: str = "performance",
    training_args: Mapping[str, Any] | None = None,
    freeze_batch_norm: bool = False,
    seed: int = 0,
    progress: bool = True,
) -> Student:
    """A Keras 3 model to train whose layers round as the integer model that `convert` makes of it.

    Dense, EinsumDense (so MultiHeadAttention), Conv1D, Conv2D, Conv3D, DepthwiseConv1D, DepthwiseConv2D,
    SeparableConv1D, SeparableConv2D and, where a rule asks for it, Embedding round their weights and what they read;
    gradients go straight through. Train it with `compile` and `fit`, keep it with `save("student.keras")` and
    `keras.saving.load_model`.

    Args:
        model: a Keras 3 model that can be built from its configuration, or its `.keras` file. It is not changed.
        calib_dataset: calibration data, as for `autotune`; ranges begin with what is found on it.
        op_type_dict: rules by operator type, as for `autotune`.
        op_name_dict: rules by operator name, as for `autotune`.
        recipes: as for `autotune`: `first_conv_or_matmul_quantization` and so on. What corrects a model without
            training is off.
        smoothquant_args: as for `autotune`; None: nothing is smoothed, since training finds weights that need it less.
        sampling_sizes: how many calibration samples to read. Default 100.
        capability: as for `autotune`.
        excluded_precisions: as for `autotune`.
        objective: "performance" leaves operators that integers make no faster in fp32; "modelsize" does not.
        training_args: `{"ranges": "learned" | "moving" | "fixed"}`: whether the optimizer moves ranges of activations,
            they follow the batches, or they stay as calibrated. Default "learned".
        freeze_batch_norm: whether BatchNormalization computes with its running statistics in training, as it will in
            the converted model, and leaves them alone; its scale and offset are trained. By default it goes on with the
            statistics of batches, which came out better (benchmarks/tf/training.py).
        seed: of everything random.
        progress: whether to show progress bars.

    Returns:
        The student. Its `untrained` says which operators stay as they are, and why.

    Raises:
        ArgumentError, DataError, CapabilityError: bad input.
        ModelError: no Keras model, or nothing in it can be trained.
    """
    if not isinstance(freeze_batch_norm, bool):
        raise ArgumentError(f"freeze_batch_norm={shown(freeze_batch_norm)}. Allowed: True or False.")
    unused = {key: value for key, value in UNUSED.items() if smoothquant_args is None or key != "smooth_quant"}
    if isinstance(recipes, Mapping) or recipes is None:
        recipes = {**unused, **(recipes or {})}
    arguments = validate_arguments(
        strategies=STRATEGIES,
        backends=tuple(FORMS),
        recipe_names=(*UNUSED, "smooth_quant_args", *SWITCHES),
        op_type_dict=op_type_dict,
        op_name_dict=op_name_dict,
        recipes=recipes,
        smoothquant_args=smoothquant_args,
        sampling_sizes=sampling_sizes,
        capability=capability,
        excluded_precisions=excluded_precisions,
        approach="static",
        objective=objective,
        training_args=training_args,
        seed=seed,
        progress=progress,
    )
    arguments.training_args.for_own_loop()
    switches = read_switches(arguments.recipes)
    if calib_dataset is None:
        raise ArgumentError("calib_dataset is None. Give calibration data: ranges of activations begin with it.")
    copy = traced_copy(model)
    adaptor = TensorFlowAdaptor(
        arguments.capability,
        histogram=arguments.needs_histogram,
        choices=choices_of(switches),
        skipped=skipped_ends(switches),
    )
    data = data_by_signature(calib_dataset, copy.source)
    recipe = tune(adaptor, Candidate(copy.source), data, None, arguments).result.recipe
    assert recipe is not None
    plan = plan_of_recipe(Analysis(copy.source, list(copy.source.signatures)), recipe)
    reasons = {name: (each.type, each.reason) for name, each in recipe.operators.items() if each.config == FP32}
    ranges = arguments.training_args.ranges or DEFAULT_RANGES
    return student_of(copy, plan, reasons=reasons, ranges=ranges, freeze_batch_norm=freeze_batch_norm)


def tuned_student(student: Student) -> TunedModel:
    """The integer model of a student, as what `autotune` would have returned.

    Raises:
        ModelError: a weight is NaN or infinite, or training changed what the layers compute.
    """
    made = trained(student)
    return TunedModel(made.source, recipe_for_here(made.source, recipe_of(made)))


def with_trained(recipe: Recipe, made: Trained) -> Recipe:
    """A recipe with the configurations that training left: without what corrects weights that are not trained."""
    entries, arrays = calibration_entries(made.plan)
    operators = {
        name: replace(each, config=made.plan.configs[name], calibration=entries.get(name, {}))
        if name in made.plan.configs
        else each
        for name, each in recipe.operators.items()
    }
    return replace(recipe, operators=operators, arrays=arrays)


def recipe_of(made: Trained) -> Recipe:
    """The recipe of a trained model, for its own weights."""
    entries, arrays = calibration_entries(made.plan)
    analysis = Analysis(made.source, list(made.source.signatures))
    operators = {}
    for name, operator in analysis.operators.items():
        config = made.plan.configs.get(name, FP32)
        kind, reason = made.reasons.get(name, (operator.type, TRAINED if config.is_quantized else ""))
        operators[name] = OperatorRecipe(kind, config, reason, entries.get(name, {}))
    operators |= {
        name: OperatorRecipe(kind, FP32, reason)
        for name, (kind, reason) in made.reasons.items()
        if name not in operators
    }
    return Recipe(FRAMEWORK, operators, arrays, {"inc_autotune": inc_autotune.__version__, "approach": "qat"})
