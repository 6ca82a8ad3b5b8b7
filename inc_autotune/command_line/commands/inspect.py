"""`inspect`: what a model's operators could become."""

from __future__ import annotations

from typing import Annotated

import typer

from inc_autotune.command_line.boundary import command
from inc_autotune.command_line.commands import options as option
from inc_autotune.command_line.errors import MET
from inc_autotune.command_line.frameworks import load_model
from inc_autotune.command_line.output import inspection_as_json, show, show_json


@command
def inspect(
    model: Annotated[str, typer.Argument(help=option.MODEL_HELP, show_default=False)], as_json: option.Json = False
) -> int:
    """Show each operator, its part of the weights, what it could become, and why not."""
    loaded = load_model(model)
    inspection = loaded.framework.inspect(loaded.value)
    if as_json:
        show_json({"framework": loaded.framework.name, **inspection_as_json(inspection)})
    else:
        show(f"{loaded.framework.name}; {inspection}")
    return MET
