"""One part of a model, tuned by the library's own tuner as a model of its own."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from inc_autotune.core.arguments import AutotuneArguments, validate_arguments
from inc_autotune.core.op_config import OpConfig
from inc_autotune.core.result import OperatorRecipe, Recipe, TuningResult
from inc_autotune.core.search import allowed_options, check_rule_types, offered_options
from inc_autotune.core.search.strategy import STRATEGIES
from inc_autotune.core.tuner import tune
from inc_autotune.torch_ext.adaptor import TorchAdaptor
from inc_autotune.torch_ext.backends import BACKENDS
from inc_autotune.torch_ext.calibration import without_steps
from inc_autotune.torch_ext.model.untouched import generator_kept
from inc_autotune.torch_ext.model_check import check_model
from inc_autotune.torch_ext.modules import is_quantized
from inc_autotune.torch_ext.operators import TABLE_TYPES

_FLOAT = {"weight": {"dtype": ["fp32"]}}
"""A rule that leaves an operator as it is."""


class PartAdaptor(TorchAdaptor):
    """For parts of a model: nothing is timed, since no part is run alone, and only the integer form is made."""

    def measure(self, models: Sequence[nn.Module]) -> Sequence[float] | None:
        return None

    def measure_threads(self, models: Sequence[nn.Module]) -> Sequence[float] | None:
        return None

    def tuned_model(self, tune_cfg: Mapping[str, Any], model: nn.Module, candidate: Any) -> Any:
        return candidate


@dataclass(frozen=True)
class PartTuner:
    """Tunes parts of one model by the same arguments.

    Args:
        given: what the user gave, by the names that `autotune` has for it.
        samples: most sequences.
    """

    given: Mapping[str, Any]
    samples: int

    def arguments(self, **others: Any) -> AutotuneArguments:
        """As they are given, but for others.

        Raises:
            ArgumentError: an argument has a wrong type, key or value.
        """
        return validate_arguments(
            strategies=STRATEGIES,
            backends=BACKENDS,
            **{**self.given, **others},
            approach="weight_only",
            objective="modelsize",
            sampling_sizes=self.samples,
            progress=False,
        )

    def planned(self, model: nn.Module) -> dict[str, tuple[str, OpConfig]]:
        """Type and configuration of every operator that leaves float, by name, before anything has run.

        Args:
            model: may be without values.

        Raises:
            ArgumentError: an argument is wrong, or a rule matches nothing.
            CapabilityError: a rule asks for what is not offered.
        """
        arguments = self.arguments()
        adaptor = self._adaptor(arguments)
        check_rule_types(adaptor, model, arguments)
        allowed = allowed_options(offered_options(adaptor, model), arguments)
        modules = {name for name, _ in model.named_modules()}  # and no products with parameters
        return {
            name: (kind, configs[0])
            for (name, kind), configs in allowed.items()
            if configs[0].is_quantized and name in modules
        }

    def tuned(
        self, part: nn.Module, items: Sequence[Any], operators: Collection[str], *, under: str = ""
    ) -> tuple[Any, TuningResult]:
        """The integer form of a part, and what tuning found.

        Args:
            part: with values; stays as it is.
            items: its inputs.
            operators: names, as in the whole model, of those that may leave float.
            under: where the part has the model.

        Raises:
            ModelError: a weight is not finite.
        """
        prefix = f"{under}." if under else ""
        names = [name for name, _ in part.named_modules()]
        rules = {re.escape(prefix) + f"(?:{key})": rule for key, rule in (self.given["op_name_dict"] or {}).items()}
        rules = {key: rule for key, rule in rules.items() if any(re.fullmatch(key, name) for name in names)}
        offered = offered_options(self._adaptor(self.arguments()), part)
        others = [name for name, _ in offered if name.removeprefix(prefix) not in operators]
        # Rules that only reach other parts would be warned of.
        types = {kind for _, kind in offered}
        of_types = self.given["op_type_dict"] or {}
        of_types = {key: rule for key, rule in of_types.items() if any(re.fullmatch(key, kind) for kind in types)}
        arguments = self.arguments(op_name_dict=_without(rules, others), op_type_dict=of_types)
        if all(kind in TABLE_TYPES for name, kind in offered if name.removeprefix(prefix) in operators):
            # What is looked up has no input that could be smoothed, or that weights could be rounded by.
            arguments = arguments.model_copy(update={"recipes": {"smooth_quant": False, "weight_rounding": "nearest"}})
        with generator_kept():
            tuned = tune(self._adaptor(arguments), check_model(part), list(items), None, arguments)
        return tuned.model, tuned.result

    @staticmethod
    def _adaptor(arguments: AutotuneArguments) -> PartAdaptor:
        moments = arguments.weight_rounding != "nearest"
        histogram = arguments.needs_histogram
        # The folder says nothing of attention, so it is float there, and need not be looked for in every part.
        return PartAdaptor(arguments.capability, histogram=histogram, moments=moments, halves_attention=False)


def _without(rules: Mapping[str, Any], others: Sequence[str]) -> dict[str, Any]:
    """Rules by name that leave other operators as they are, and do not reach them otherwise."""
    if not others:
        return dict(rules)
    excluded = "|".join(map(re.escape, others))
    return {excluded: _FLOAT, **{f"(?!(?:{excluded})$)(?:{pattern})": rule for pattern, rule in rules.items()}}


def part_of_recipe(result: TuningResult, operators: Collection[str], *, under: str = "") -> Recipe:
    """The recipe of some operators of a part, under the names that they have in the whole model.

    Rounding steps are left out: they take a quarter of the memory of the weights themselves, which are written as they
    are rounded.
    """
    assert result.recipe is not None
    prefix, recipe = f"{under}." if under else "", result.recipe
    arrays: dict[str, Any] = {}
    entries: dict[str, OperatorRecipe] = {}
    for name, entry in without_steps(recipe).operators.items():
        own = name.removeprefix(prefix)
        if own not in operators:
            continue
        calibration = {
            key: value.removeprefix(prefix) if value in recipe.arrays else value
            for key, value in entry.calibration.items()
        }
        arrays |= {
            value.removeprefix(prefix): recipe.arrays[value]
            for value in entry.calibration.values()
            if isinstance(value, str) and value in recipe.arrays
        }
        entries[own] = replace(entry, calibration=calibration)
    return replace(recipe, operators=entries, arrays=arrays)


def tensors_of(
    converted: nn.Module, operators: Collection[str], *, under: str = ""
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """What operators of a converted part save, by names in the whole model, and the dtypes that their layers had."""
    prefix = f"{under}." if under else ""
    tensors = {
        name.removeprefix(prefix): tensor.detach()
        for name, tensor in converted.state_dict().items()
        if name.removeprefix(prefix).rpartition(".")[0] in operators
    }
    dtypes = {
        name.removeprefix(prefix): str(module.layer_dtype).removeprefix("torch.")
        for name, module in converted.named_modules()
        if is_quantized(module)
    }
    return tensors, dtypes


def best_error(result: TuningResult) -> tuple[str, float | None]:
    """How a part was smoothed and rounded, in words, and its relative squared error at the output, if measured."""
    errors = [error for _, error in (*result.smoothing[:1], *result.corrections[:1]) if error is not None]
    words = "; ".join(name for name, _ in (*result.smoothing[:1], *result.corrections[:1]))
    return words or "as given", min(errors, default=None)


@torch.no_grad()
def run_part(part: nn.Module, items: Sequence[Mapping[str, Any]]) -> list[Tensor]:
    """Outputs of a part."""
    return [part(**item).detach().clone() for item in items]
