"""`resume`: a run that was interrupted goes on, as its storage says it was started."""

from __future__ import annotations

from typing import Annotated

import typer

from inc_autotune.command_line.boundary import command
from inc_autotune.command_line.commands import options as option
from inc_autotune.command_line.commands.tune import run_tuning
from inc_autotune.command_line.output import note
from inc_autotune.command_line.stored_runs import continued, find_run, storage_url
from inc_autotune.core.run_context import RunContext, running_in


@command
def resume(
    storage: option.Storage,
    study: option.Study = None,
    output: Annotated[str | None, typer.Option("--output", "-o", help="Where the int8 model is written.")] = None,
    report: Annotated[str | None, typer.Option(help="Where an HTML report is written.")] = None,
    tuning_time: Annotated[float | None, typer.Option(help="Seconds for the search from now on.", min=0)] = None,
    max_trials: Annotated[int | None, typer.Option(help="Candidates, those of before included.", min=1)] = None,
    as_json: option.Json = False,
) -> int:
    """Go on with a run of `tune --storage` that was interrupted, with its model, data and options.

    Exit codes: those of `tune`; 2 where the model, its data, its evaluation or this program are not what they were.
    """
    url = storage_url(storage)
    run = find_run(url, study)
    changes = {"output": output, "report": report, "tuning_time": tuning_time, "max_trials": max_trials}
    configuration = continued(run, url, changes)
    if run.result is not None:
        note("the run had ended: its model is made again")
    with running_in(RunContext(study_name=run.study_name)):
        return run_tuning(configuration, as_json, evaluated=True)
