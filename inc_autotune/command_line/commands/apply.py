"""`apply`: a recipe on a model, without data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from inc_autotune.command_line.boundary import command
from inc_autotune.command_line.commands import options as option
from inc_autotune.command_line.errors import MET, UsageError
from inc_autotune.command_line.frameworks import load_model
from inc_autotune.command_line.output import show, show_json
from inc_autotune.command_line.places import check_places


@command
def apply(
    recipe: Annotated[Path, typer.Argument(help="A recipe in YAML, as `tune` writes with the model.")],
    model: Annotated[str, typer.Argument(help=option.MODEL_HELP, show_default=False)],
    output: Annotated[Path, typer.Option("--output", "-o", help="Where the int8 model is written.")],
    as_json: option.Json = False,
) -> int:
    """Make an int8 model again from its fp32 model and a recipe, without data."""
    if not recipe.is_file():
        raise UsageError(f"RECIPE {str(recipe)!r}: there is no such file.")
    loaded = load_model(model)
    check_places({"--output": output}, {"MODEL": model, "RECIPE": recipe})
    loaded.framework.check_output(output)
    loaded.framework.save(loaded.framework.apply_recipe(loaded.value, recipe), output)
    if as_json:
        show_json({"output": str(output)})
    else:
        show(f"written: {output}")
    return MET
