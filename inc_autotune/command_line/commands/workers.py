"""`workers`: several processes, here or on a cluster of Ray, for one run."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import IO, Annotated, Any

import typer

from inc_autotune.command_line.boundary import command
from inc_autotune.command_line.commands import options as option
from inc_autotune.command_line.commands.tune import run_tuning
from inc_autotune.command_line.configuration import read_configuration
from inc_autotune.command_line.errors import MET, UsageError
from inc_autotune.command_line.stored_runs import continued, find_run, origin_of, storage_url
from inc_autotune.core.optional import require
from inc_autotune.core.run_context import CalibrationDone, RunContext, running_in
from inc_autotune.distributed import Helpers, RayWorkers, lead


@command
def workers(
    storage: Annotated[
        str | None, typer.Argument(help="Of the run to take part in, as for `resume`.", show_default=False)
    ] = None,
    count: Annotated[int, typer.Option("--workers", "-n", help="Processes, this one included.", min=1)] = 2,
    config: Annotated[Path | None, typer.Option(help="A YAML file with a run and its `storage`, to start it.")] = None,
    ray: Annotated[str | None, typer.Option(help="A Ray cluster: local, auto, host:port, ray://host:port.")] = None,
    shards: Annotated[bool, typer.Option("--shards", help="Each calibrates on other batches, merged exactly.")] = False,
    study: option.Study = None,
    output: Annotated[str | None, typer.Option("--output", "-o", help="Where the int8 model is written.")] = None,
    report: Annotated[str | None, typer.Option(help="Where an HTML report is written.")] = None,
    calibration: Annotated[Path | None, typer.Option(hidden=True)] = None,
    shard: Annotated[tuple[int, int] | None, typer.Option(hidden=True)] = None,
    as_json: option.Json = False,
) -> int:
    """Take part in a run of `tune --storage` with several processes, or start one from a file.

    Each evaluates other candidates; one that dies loses its trial alone. The model is written where -o says so, or the
    file. Exit codes: those of `tune`.
    """
    if (storage is None) is (config is None):
        raise UsageError("STORAGE or --config: give one, the storage of a run that has begun or the file of a new one.")
    if ray is not None:
        require("ray", extra="ray")
    changes = {"output": output, "report": report}
    if config is not None:
        configuration = read_configuration(config, changes)
        if configuration.storage is None:
            raise UsageError(
                f"--config {str(config)!r}: names no `storage`, which the workers share. Add a line such as "
                "`storage: sqlite:///run.db`."
            )
        context, named = RunContext(origin=origin_of(configuration)), ["--config", str(config)]
    else:
        assert storage is not None
        url = storage_url(storage)
        run = find_run(url, study)
        configuration = continued(run, url, changes)
        context, named = RunContext(study_name=run.study_name), [storage, "--study", run.study_name]
    context = replace(context, calibration=calibration, shard=shard or (0, 1), calibrates_only=shard is not None)
    with running_in(context), suppress(CalibrationDone):
        return run_tuning(
            configuration,
            as_json,
            evaluated=True,
            written=output is not None or config is not None,
            make=partial(_together, count, ray, shards, named, str(configuration.storage)),
        )
    return MET


def _together(
    count: int, ray: str | None, shards: bool, named: Sequence[str], storage: str, call: Callable[..., Any]
) -> Any:
    """The call of `autotune`, made here and by helpers."""
    if count == 1 and ray is None:
        return call()
    helpers: Helpers = (
        ProgramWorkers(named, storage, count - 1)
        if ray is None
        else RayWorkers(partial(call, progress=False), count - 1, ray, storage)
    )
    return lead(call, helpers, shards=shards)


class ProgramWorkers(Helpers):
    """This program on this machine, so that models and data are read from the files that the run names.

    Args:
        named: options of `workers` that name the run before it has a study.
        storage: URL of the run's storage.
        count: of processes.
    """

    def __init__(self, named: Sequence[str], storage: str, count: int) -> None:
        self._named, self._storage = named, storage
        self.count = count
        self._running: list[tuple[subprocess.Popen[str], IO[str]]] = []

    def start(self, contexts: Sequence[RunContext]) -> None:
        program = "from inc_autotune.command_line import main; main()"
        for context in contexts:
            given = ["workers", "-n", "1"]
            given += self._named if context.study_name is None else [self._storage, "--study", context.study_name]
            if context.calibrates_only:
                given += ["--shard", *map(str, context.shard)]
            if context.calibration is not None:
                given += ["--calibration", str(context.calibration)]
            # A pipe that nobody reads until the end would stop the helper when it is full.
            said = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115 (closed in `ended`)
            process = subprocess.Popen(
                [sys.executable, "-c", program, *given],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=said,
                text=True,
            )
            self._running.append((process, said))

    def ended(self, grace: float | None) -> Sequence[str]:
        problems = []
        for number, (process, said) in enumerate(self._running, start=2):
            with said:
                try:
                    code = process.wait(timeout=grace)
                except subprocess.TimeoutExpired:
                    process.terminate()
                    process.wait()
                    continue
                if code not in (0, 3):
                    said.seek(0)
                    last = (said.read().strip().splitlines() or [f"exit code {code}"])[-1]
                    problems.append(f"worker {number} ended early: {last}")
        self._running.clear()
        return problems
