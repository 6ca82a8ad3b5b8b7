"""Files that need no framework: capabilities and recipes."""

from __future__ import annotations

from pathlib import Path
from random import Random

import yaml

import inc_autotune
from inc_autotune.core.result.recipe import Recipe
from inc_autotune.core.space.capability import load_capability
from tests.core.result.test_recipe_schema import document
from tests.fuzz.mutators import mutate_bytes, mutate_document
from tests.fuzz.outcome import Attempt, WrongResultError

_SHIPPED = Path(inc_autotune.__file__).parent


def mutated_yaml(document: object, generator: Random) -> bytes:
    """A changed document as YAML; one in four has changed bytes instead."""
    if generator.random() < 0.25:
        return mutate_bytes(yaml.safe_dump(document, sort_keys=False).encode(), generator)
    return yaml.safe_dump(mutate_document(document, generator), sort_keys=False).encode()


def capability(folder: Path) -> Attempt:
    """Framework YAMLs of the extensions, changed, as the user's own; what is taken has options of known types."""
    shipped = sorted(_SHIPPED.glob("*_ext/capability/*.yaml"))
    documents = [yaml.safe_load(each.read_text()) for each in shipped]

    def attempt(generator: Random) -> None:
        path = folder / "capability.yaml"
        path.write_bytes(mutated_yaml(generator.choice(documents), generator))
        found = load_capability(generator.choice(shipped), "2.13", path)
        for name, options in found.table.items():
            if not isinstance(name, str) or not options or options[-1].is_quantized:
                raise WrongResultError(f"{name!r} has the options {options}")

    return attempt


def recipe(folder: Path) -> Attempt:
    """The document of a recipe, changed; what is taken is written and read as the same."""
    original = document()

    def attempt(generator: Random) -> None:
        path = folder / "recipe.yaml"
        path.write_bytes(mutated_yaml(original, generator))
        found = Recipe.load(path)
        again = Recipe.from_yaml(found.to_yaml())
        if again.to_yaml() != found.to_yaml():
            raise WrongResultError("another recipe after writing and reading")

    return attempt
