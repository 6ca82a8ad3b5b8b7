"""What `autotune` hands back: the fp32 model with a recipe, to be written in one form or another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from inc_autotune.core.errors import ArgumentError
from inc_autotune.core.result import Recipe, TuningResult, check_framework, check_operators, check_smoothing
from inc_autotune.graphs import WeightCache, without_steps
from inc_autotune.ort_ext.calibration import FRAMEWORK, plan_from_recipe
from inc_autotune.ort_ext.emission import build_model
from inc_autotune.ort_ext.graph import GraphModel
from inc_autotune.ort_ext.model import SourceModel
from inc_autotune.ort_ext.operators import find_operators, warn_of_width, widest_product
from inc_autotune.ort_ext.operators.rewriting import rewritten
from inc_autotune.ort_ext.target import GraphForm, ModelSettings

RECIPE_KEY = "inc_autotune.recipe"
FORM_KEY = "inc_autotune.form"
WEIGHT_BITS_KEY = "inc_autotune.weight_bits"
"""Keys of a written model's `metadata_props`. The last is there where the model has integer products that saturate
on some processors: "8" on those without VNNI, "7" or less on none."""


@dataclass(eq=False)
class TunedModel:
    """A tuned model: what `autotune`, `apply_recipe` and `load` return.

    Args:
        recipe: what became of each operator.
        tuning_result: how it came about; None where it was built from a recipe.
        source: the fp32 model; None for one that was loaded, which has the form it was saved in.
    """

    recipe: Recipe
    tuning_result: TuningResult | None = None
    source: SourceModel | None = None
    _built: dict[str, GraphModel] = field(default_factory=dict, repr=False)

    @classmethod
    def loaded(cls, recipe: Recipe, form: str, model: GraphModel) -> TunedModel:
        """A model that was written in one form."""
        return cls(recipe, _built={form: model})

    @property
    def settings(self) -> ModelSettings:
        """The execution provider it is for, and the recipes."""
        return ModelSettings.from_dict(self.recipe.settings)

    def model(self, form: str) -> GraphModel:
        """The quantized model in a form; built when it is first asked for.

        Args:
            form: "qdq" or "cpu".

        Raises:
            ArgumentError: there is no such form of this model, or it was loaded, and saved in another form.
        """
        wanted = self.settings.form(form)
        if form not in self._built:
            if self.source is None:
                raise ArgumentError(
                    f"form={form!r}: this model was loaded, and saved as {next(iter(self._built))!r}. Allowed: "
                    "that form. For another one, apply the recipe to the fp32 model: apply_recipe(model, recipe)."
                )
            self._built[form] = model_of_recipe(self.source, self.recipe, wanted)
        return self._built[form]

    @property
    def saved_form(self) -> str | None:
        """The one form of a loaded model; None where every form can be built."""
        return next(iter(self._built)) if self.source is None else None


if TYPE_CHECKING:

    class JustTuned(TunedModel):
        """A tuned model that `autotune` returned, so that its result is there."""

        tuning_result: TuningResult
else:
    JustTuned = TunedModel


def model_of_recipe(source: SourceModel, recipe: Recipe, form: GraphForm) -> GraphModel:
    """The model a recipe describes, with the recipe in its metadata but for the steps; the same gives the same bytes.

    Raises:
        RecipeError: the recipe is for another framework, or names operators that the model does not have.
    """
    check_framework(recipe, FRAMEWORK)
    graph = rewritten(source, form)
    operators = find_operators(graph, joins_bias=form.joins_bias)
    # No operator is written in bf16, see `OrtAdaptor.computes_halves`: it stays in fp32.
    quantized = {name: each for name, each in recipe.operators.items() if each.config.is_quantized}
    check_operators(quantized, {name: each.type for name, each in operators.found.items()})
    plan = plan_from_recipe(quantized, recipe.arrays)
    for name, scale in plan.scales.items():
        shape = graph.shape(operators.found[name].weight) or ()
        check_smoothing(name, scale.shape, shape[-1 if operators.found[name].transposed else 0])
    built = build_model(graph, operators, plan, form, WeightCache())
    entries = {FORM_KEY: form.name, RECIPE_KEY: without_steps(recipe).to_yaml()}
    bits = widest_product(graph, operators.found, plan.configs, plan.reduced)
    if bits is not None:
        entries[WEIGHT_BITS_KEY] = str(bits)
    return _with_metadata(built, entries)


def warn_where_too_wide(tuned: TunedModel, form: str) -> None:
    """Say that a model, as one may that was tuned on another processor, has weights too wide for this one.

    Args:
        tuned: has this form.
        form: to be looked at.
    """
    entries = {each.key: each.value for each in tuned.model(form).proto.metadata_props}
    if WEIGHT_BITS_KEY in entries:
        warn_of_width(int(entries[WEIGHT_BITS_KEY]), tuned.settings.backend)


def _with_metadata(model: GraphModel, entries: Mapping[str, Any]) -> GraphModel:
    kept = [each for each in model.proto.metadata_props if each.key not in entries]
    del model.proto.metadata_props[:]
    model.proto.metadata_props.extend(kept)
    for key, value in entries.items():
        model.proto.metadata_props.add(key=key, value=value)
    return model
