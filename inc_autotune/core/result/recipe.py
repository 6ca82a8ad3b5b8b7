"""The outcome of a tuning run as a file a person can read, diff and apply again."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from inc_autotune.core.arguments import check_file, check_path
from inc_autotune.core.errors import RecipeError, foreign_errors_as
from inc_autotune.core.files import read_settled, write_file
from inc_autotune.core.op_config import OpConfig
from inc_autotune.core.result.recipe_schema import check_document

FORMAT_VERSION = 1

_DUMPER: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
"""Ten times as fast where PyYAML was built with libyaml; the steps of rounded weights make texts of megabytes."""

LARGEST = 2**30
"""Bytes that a recipe may have."""


@dataclass(frozen=True)
class OperatorRecipe:
    """One operator: its configuration, why it has it, and the calibration values it needs."""

    type: str
    config: OpConfig
    reason: str = ""
    calibration: Mapping[str, Any] = field(default_factory=dict)


class SharedArrays:
    """Arrays for a recipe, equal ones once.

    Attributes:
        arrays: by the names that they have there.
    """

    def __init__(self) -> None:
        self.arrays: dict[str, np.ndarray[Any, Any]] = {}
        self._names: dict[tuple[str, tuple[int, ...], bytes], str] = {}

    def name(self, array: np.ndarray[Any, Any], proposed: str) -> str:
        """The name of an array: the one proposed, or that of an equal array that came before."""
        name = self._names.setdefault((array.dtype.str, array.shape, array.tobytes()), proposed)
        self.arrays.setdefault(name, array)
        return name


@dataclass(frozen=True)
class Recipe:
    """Everything needed, beside the fp32 model, to build the tuned model again without data.

    Args:
        framework: which extension wrote it.
        operators: by operator name.
        arrays: vectors the operators' calibration refers to by name, such as smoothing scales.
        metadata: version of the library and framework, sampling size, scores; for people.
        settings: what the extension decided for the model as a whole and needs to build it again, in plain values.
    """

    framework: str
    operators: Mapping[str, OperatorRecipe]
    arrays: Mapping[str, np.ndarray[Any, Any]] = field(default_factory=dict)
    metadata: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)

    def to_yaml(self) -> str:
        operators = {
            name: {
                "type": operator.type,
                **operator.config.to_dict(),
                **({"reason": operator.reason} if operator.reason else {}),
                **({"calibration": dict(operator.calibration)} if operator.calibration else {}),
            }
            for name, operator in self.operators.items()
        }
        document = {
            "inc_autotune_recipe": FORMAT_VERSION,
            "framework": self.framework,
            "metadata": dict(self.metadata),
            **({"settings": dict(self.settings)} if self.settings else {}),
            "operators": operators,
            "arrays": {name: _encode(array) for name, array in self.arrays.items()},
        }
        text: str = yaml.dump(document, Dumper=_DUMPER, sort_keys=False, width=1 << 30)
        return text

    def save(self, path: str | Path) -> None:
        """Write the recipe as YAML; a file that is there is replaced in one step.

        Raises:
            ArgumentError: nothing can be written there.
        """
        write_file(check_file(path), self.to_yaml().encode())

    @classmethod
    def from_yaml(cls, text: str, source: str = "recipe") -> Recipe:
        """Inverse of `to_yaml`.

        Raises:
            RecipeError: the text is not a recipe, or of a newer format.
        """
        try:
            document = yaml.safe_load(text)
        except (yaml.YAMLError, ValueError, LookupError, AttributeError, OverflowError, RecursionError) as error:
            # PyYAML raises more than its own for texts that do not fit their tag, and for very deep ones.
            raise RecipeError(f"{source}: not a YAML file: {type(error).__name__}: {error}") from error
        if not isinstance(document, dict) or "inc_autotune_recipe" not in document:
            raise RecipeError(f"{source}: not a recipe: the key 'inc_autotune_recipe' is missing.")
        if document["inc_autotune_recipe"] != FORMAT_VERSION:
            raise RecipeError(
                f"{source}: recipe format {document['inc_autotune_recipe']!r}; "
                f"this version reads {FORMAT_VERSION}. Install the version of inc-autotune that wrote it."
            )
        check_document(document, source)
        operators = {name: _operator(entry) for name, entry in document["operators"].items()}
        arrays = {name: _decode(entry) for name, entry in (document.get("arrays") or {}).items()}
        metadata, settings = (document.get(key) or {} for key in ("metadata", "settings"))
        return cls(document["framework"], operators, arrays, metadata, settings)

    @classmethod
    def load(cls, path: str | Path) -> Recipe:
        """Read a recipe from a YAML file.

        Raises:
            RecipeError: the file is missing or malformed.
        """
        try:
            text = read_settled(check_path(path), LARGEST).decode()
        except (OSError, UnicodeDecodeError) as error:
            raise RecipeError(f"recipe {str(path)!r}: cannot be read: {error}") from error
        return cls.from_yaml(text, str(path))


def applying(recipe: Recipe) -> AbstractContextManager[None]:
    """Turn what a recipe that does not fit makes fail inside into a RecipeError.

    A recipe may have every right form and still hold what its model cannot have.

    Raises:
        RecipeError: something failed that is no error of this library, nor a lack of memory.
    """
    return foreign_errors_as(
        lambda error: RecipeError(
            f"recipe: cannot be applied: {type(error).__name__}: {error}. Is it the same model, and the recipe of its "
            f"{len(recipe.operators)} operators as recipe.save() wrote it?"
        )
    )


def check_framework(recipe: Recipe, framework: str) -> None:
    """Refuse a recipe of another extension.

    Raises:
        RecipeError: it is one.
    """
    if recipe.framework != framework:
        raise RecipeError(f"recipe: is for {recipe.framework!r}, not {framework!r}.")


def check_operators(operators: Mapping[str, OperatorRecipe], types: Mapping[str, str | None], remedy: str = "") -> None:
    """Refuse a recipe of another model.

    Args:
        operators: those of the recipe that leave fp32.
        types: operator types of the model by operator name.
        remedy: what else to do, after the question whether it is the same model.

    Raises:
        RecipeError: an operator is not in the model, or of another type there.
    """
    unmatched = [name for name, operator in operators.items() if types.get(name) != operator.type]
    if unmatched:
        first = unmatched[0]
        raise RecipeError(
            f"recipe: {len(unmatched)} of its {len(operators)} quantized operators are not in the model or of another "
            f"type there, the first is {first!r} ({operators[first].type}). Is it the same model?"
            f"{' ' if remedy else ''}{remedy}"
        )


def check_smoothing(name: str, shape: tuple[int, ...], features: int) -> None:
    """Refuse a smoothing scale of another shape than the operator needs.

    Args:
        name: of the operator.
        shape: of the scale in the recipe.
        features: how many the operator of the model reads.

    Raises:
        RecipeError: the shape is not `(features,)`.
    """
    if tuple(shape) != (features,):
        raise RecipeError(
            f"recipe: {name!r} reads {features} features in the model, {math.prod(shape)} in the recipe. Is it the "
            "same model?"
        )


def _operator(entry: Mapping[str, Any]) -> OperatorRecipe:
    return OperatorRecipe(
        entry["type"], OpConfig.from_dict(entry), entry.get("reason", ""), entry.get("calibration") or {}
    )


def _encode(array: np.ndarray[Any, Any]) -> dict[str, Any]:
    little_endian = np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<"))
    return {
        "dtype": str(array.dtype),
        "shape": list(array.shape),
        "base64": base64.b64encode(little_endian.tobytes()).decode("ascii"),
    }


def _decode(entry: Mapping[str, Any]) -> np.ndarray[Any, Any]:
    dtype = np.dtype(entry["dtype"])
    flat = np.frombuffer(base64.b64decode(entry["base64"]), dtype.newbyteorder("<"))
    return flat.astype(dtype).reshape(entry["shape"])
