"""Settings of a model as a whole: the execution provider and the recipes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from inc_autotune.core.arguments import shown
from inc_autotune.core.errors import ArgumentError, RecipeError, did_you_mean
from inc_autotune.core.vocabulary import listing
from inc_autotune.ort_ext.target.forms import CPU, QDQ, GraphForm
from inc_autotune.ort_ext.target.providers import BACKENDS, CPU_BACKEND, CPU_PROVIDER, Backend
from inc_autotune.ort_ext.target.switches import NO_RECIPES, GraphRecipes, read_recipes

FORM_NAMES = (QDQ.name, CPU.name)


@dataclass(frozen=True)
class ModelSettings:
    """How a tuned model is written, apart from the configurations of its operators.

    Args:
        backend: the execution provider that the model is for.
        recipes: the switches that the user set.
    """

    backend: Backend = CPU_BACKEND
    recipes: GraphRecipes = NO_RECIPES

    def form(self, name: str) -> GraphForm:
        """The form with a name, adapted to the backend and the recipes.

        Raises:
            ArgumentError: there is no form of this name, or the backend does not offer it.
        """
        check_form_name(name)
        if name == QDQ.name:
            return self.recipes.applied(self.backend.form)
        if not self.backend.contrib_form:
            raise ArgumentError(
                f"form={name!r}: the model was tuned for {self.backend.name!r}, which does not know onnxruntime's own "
                "operators for the CPU.\nAllowed: 'qdq'. For the CPU tune with backend='onnxrt_cpu_ep'."
            )
        return self.recipes.applied(CPU)

    def usual_form(self, first_provider: str) -> GraphForm:
        """The form for sessions on a provider, if the user names no form."""
        contrib = self.backend.contrib_form and first_provider == CPU_PROVIDER and not self.recipes.needs_pairs
        return self.form(CPU.name if contrib else QDQ.name)

    def to_dict(self) -> dict[str, Any]:
        """The settings as plain values, for a recipe."""
        return {"backend": self.backend.name, "recipes": self.recipes.to_dict()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ModelSettings:
        """Inverse of `to_dict`; a recipe without settings, such as a recipe from PyTorch, gets the defaults.

        Raises:
            RecipeError: a name or value is unknown.
        """
        name = data.get("backend", CPU_BACKEND.name)
        if not isinstance(name, str) or name not in BACKENDS:
            raise RecipeError(f"recipe: settings: unknown backend {name!r}. Allowed: {listing(list(BACKENDS))}.")
        try:
            return cls(BACKENDS[name], read_recipes(data.get("recipes") or {}))
        except ArgumentError as error:
            raise RecipeError(f"recipe: settings: {error}") from error


CPU_SETTINGS = ModelSettings()


def check_form_name(name: str) -> None:
    """Raise an ArgumentError if there is no form of this name."""
    if not isinstance(name, str) or name not in FORM_NAMES:
        raise ArgumentError(
            f"form={shown(name)}: unknown form.\nAllowed: {listing(list(FORM_NAMES))}.{did_you_mean(name, FORM_NAMES)}"
        )
