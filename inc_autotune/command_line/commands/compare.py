"""`compare`: where a quantized model loses accuracy."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from inc_autotune.command_line.boundary import command
from inc_autotune.command_line.commands import options as option
from inc_autotune.command_line.configuration import read_configuration
from inc_autotune.command_line.datasets import check_options_used, inputs_of, open_data
from inc_autotune.command_line.datasets.opening import ALLOWED as DATA
from inc_autotune.command_line.errors import MET, UsageError
from inc_autotune.command_line.frameworks import load_model
from inc_autotune.command_line.output import show, show_json
from inc_autotune.command_line.places import check_page, check_places
from inc_autotune.core.optional import require


@command
@option.reads_data(labelled=False)
def compare(
    fp32: Annotated[str, typer.Argument(help=f"The model that was tuned: {option.MODELS}.", show_default=False)],
    int8: Annotated[str, typer.Argument(help="What `tune` wrote, or a recipe in YAML.", show_default=False)],
    data: Annotated[str, typer.Option("--data", help=f"Inputs: {DATA}.")],
    samples: Annotated[int, typer.Option(help="That are compared.", min=1)] = 32,
    report: Annotated[str | None, typer.Option(help="Where an HTML page with charts is written.")] = None,
    *,
    reading: dict[str, Any],
    as_json: option.Json = False,
) -> int:
    """Show the error of each operator of an int8 model, and what to try where it is too large."""
    if report is not None:
        check_page(report, "--report")
        check_places({"--report": report}, {"FP32": fp32, "INT8": int8, "--data": data})
        require("plotly", extra="report")
    options = read_configuration(None, reading)
    check_options_used(options, data)
    model = load_model(fp32)
    if Path(int8).suffix in (".yaml", ".yml"):
        if not Path(int8).is_file():
            raise UsageError(f"INT8 {int8!r}: there is no such file.")
        quantized = model.framework.apply_recipe(model.value, Path(int8))
    else:
        other = load_model(int8, [model])
        if other.framework.name != model.framework.name:
            raise UsageError(f"INT8 {int8!r}: is of {other.framework.name}, and FP32 of {model.framework.name}.")
        quantized = other.value
    opened = open_data(data, "--data", model, options)
    comparison = model.framework.compare(model.value, quantized, inputs_of(opened), samples)
    if report is not None:
        comparison.save_report(report)
    if as_json:
        show_json(comparison.to_dict())
    else:
        show(str(comparison))
        if report is not None:
            show(f"\nreport: {report}")
    return MET
