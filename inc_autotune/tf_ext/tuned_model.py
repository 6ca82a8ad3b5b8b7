"""What `autotune` hands back: the fp32 model with a recipe."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

from inc_autotune.core.result import Recipe, TuningResult, check_framework, check_operators, check_smoothing
from inc_autotune.graphs import STEPS, WeightCache
from inc_autotune.tf_ext.calibration import FRAMEWORK, Analysis, QuantizationPlan, plan_from_recipe
from inc_autotune.tf_ext.emission import build_model, with_reduced_weights
from inc_autotune.tf_ext.graph import GraphModel
from inc_autotune.tf_ext.measurement import is_simulated, kernel_support
from inc_autotune.tf_ext.model import SourceModel
from inc_autotune.tf_ext.target import KERNEL_FORM

logger = logging.getLogger(__name__)

UNNAMED_LAYERS = "Keras numbers layers without a name through the whole process: name them, or give a saved model."


@dataclass(eq=False, repr=False)
class TunedModel:
    """A tuned model: what `autotune` and `apply_recipe` return.

    Args:
        source: the fp32 model.
        recipe: what became of each operator.
        tuning_result: how it came about; None where it was built from a recipe.
    """

    source: SourceModel
    recipe: Recipe
    tuning_result: TuningResult | None = None

    def __repr__(self) -> str:
        dtypes = Counter(each.config.dtype for each in self.recipe.operators.values())
        operators = ", ".join(f"{count} {dtype}" for dtype, count in dtypes.most_common())
        result = "built from a recipe" if self.tuning_result is None else str(self.tuning_result).split("\n")[0]
        return f"TunedModel({result}; operators: {operators})"

    @cached_property
    def model(self) -> GraphModel:
        """The quantized model; built when it is first asked for."""
        return model_of_recipe(self.source, self.recipe)


if TYPE_CHECKING:

    class JustTuned(TunedModel):
        """A tuned model that `autotune` returned, so that its result is there."""

        tuning_result: TuningResult
else:
    JustTuned = TunedModel


def model_of_recipe(source: SourceModel, recipe: Recipe) -> GraphModel:
    """The model a recipe describes; the same recipe gives the same graphs and weights.

    Raises:
        RecipeError: the recipe is for another framework, or names operators that the model does not have.
    """
    analysis = Analysis(source, list(source.signatures))
    return build_model(analysis, plan_of_recipe(analysis, recipe), WeightCache())


def recipe_for_here(source: SourceModel, recipe: Recipe) -> Recipe:
    """The recipe with weights of 7 bits wherever this processor does not multiply 8, which is logged as a warning.

    Raises:
        RecipeError: see `model_of_recipe`.
    """
    analysis = Analysis(source, list(source.signatures))
    plan = plan_of_recipe(analysis, recipe)
    if plan.choices.form != KERNEL_FORM:
        return recipe
    calibrations = with_reduced_weights(analysis, plan, kernel_support().reduced).calibrations
    changed = [name for name, each in calibrations.items() if each.reduce_range != plan.calibration(name).reduce_range]
    if not changed:
        return recipe
    logger.warning(
        "the recipe has weights of 8 bits in %d operators, the first is %r, whose products this processor without VNNI "
        "does not compute as they should be; 7 bits are used, rounded to nearest",
        len(changed),
        changed[0],
    )
    operators = dict(recipe.operators)
    for name in changed:
        each = operators[name]
        # What is rounded by second moments lies on a grid of 8 bits.
        kept = {key: value for key, value in each.calibration.items() if key != STEPS}
        operators[name] = replace(
            each, config=each.config.with_rounding("nearest"), calibration={**kept, "reduce_range": True}
        )
    return replace(recipe, operators=operators)


def plan_of_recipe(analysis: Analysis, recipe: Recipe) -> QuantizationPlan:
    """The numbers of a recipe, checked against the model.

    Raises:
        RecipeError: see `model_of_recipe`.
    """
    check_framework(recipe, FRAMEWORK)
    changed = {name: each for name, each in recipe.operators.items() if each.config.dtype != "fp32"}
    types = {name: each.type for name, each in analysis.operators.items()}
    check_operators(changed, types, UNNAMED_LAYERS)
    plan = plan_from_recipe(changed, recipe.arrays)
    for name, scale in plan.scales.items():
        check_smoothing(name, scale.shape, analysis.inputs(name))
    simulated = frozenset(
        name for name, each in plan.configs.items() if is_simulated(analysis.operators[name], each, plan.choices.form)
    )
    return replace(plan, simulated=simulated)
