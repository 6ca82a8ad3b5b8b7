"""`tune`: an int8 model that is as accurate as asked. `quantize`: the same without an evaluation."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from inc_autotune.command_line.boundary import command
from inc_autotune.command_line.commands import options as option
from inc_autotune.command_line.configuration import Configuration, read_configuration
from inc_autotune.command_line.datasets import Batches, check_options_used, inputs_of, labelled, open_data
from inc_autotune.command_line.errors import INTERRUPTED, MET, NOT_MET, UsageError, WritingError
from inc_autotune.command_line.frameworks import LoadedModel, load_model
from inc_autotune.command_line.objects import find_object, is_object_name
from inc_autotune.command_line.output import note, show, show_json
from inc_autotune.command_line.places import check_page, check_places
from inc_autotune.command_line.stored_runs import origin_of
from inc_autotune.core.errors import AutotuneError, TuningInterrupted
from inc_autotune.core.evaluation.metric import NAMED_METRICS
from inc_autotune.core.optional import require
from inc_autotune.core.run_context import RunContext, running_in
from inc_autotune.core.search.strategy import STRATEGIES
from inc_autotune.core.search.study import shown_url
from inc_autotune.core.vocabulary import OBJECTIVES

Model = Annotated[str | None, typer.Argument(help=option.MODEL_HELP, show_default=False)]
Data = Annotated[str | None, typer.Option("--data", help=option.DATA_HELP)]
Output = Annotated[str | None, typer.Option("--output", "-o", help="Where the int8 model is written.")]
Report = Annotated[str | None, typer.Option(help="Where an HTML report is written.")]
Config = Annotated[Path | None, typer.Option(help="A YAML file with the run; options win over it.")]
APPROACHES = ("auto", "static", "dynamic", "weight_only")


def _words(words: Iterable[str]) -> Callable[[str], list[str]]:
    """What a shell completes an option by."""
    return lambda incomplete: [word for word in words if word.startswith(incomplete)]


Approach = Annotated[
    str | None, typer.Option(help="auto, static, dynamic or weight_only.", autocompletion=_words(APPROACHES))
]
Objective = Annotated[
    str | None, typer.Option(help="performance, modelsize or footprint.", autocompletion=_words(OBJECTIVES))
]
Samples = Annotated[int | None, typer.Option(help="Samples that calibrate; 100.", min=1)]
Alpha = Annotated[str | None, typer.Option(help="Of SmoothQuant: auto, a number from 0 to 1, or off.")]
Seed = Annotated[int | None, typer.Option(help="Of everything random.")]


@command
@option.reads_data(labelled=True)
def tune(
    model: Model = None,
    data: Data = None,
    eval_func: Annotated[str | None, typer.Option("--eval", help="module:function that scores a model.")] = None,
    eval_data: Annotated[str | None, typer.Option(help="Labelled data, with --metric instead of --eval.")] = None,
    metric: Annotated[
        str | None,
        typer.Option(help="accuracy, topk, f1, auc, mse, ..., or module:object.", autocompletion=_words(NAMED_METRICS)),
    ] = None,
    goal: Annotated[str | None, typer.Option(help="What may be lost: 1% of the score, or 0.02 of it.")] = None,
    lower_is_better: Annotated[bool, typer.Option("--lower-is-better", help="A smaller score is better.")] = False,
    output: Output = None,
    report: Report = None,
    config: Config = None,
    print_config: Annotated[bool, typer.Option("--print-config", help="Print the run as YAML, and end.")] = False,
    print_schema: Annotated[
        bool, typer.Option("--print-schema", help="Print the JSON schema of that, and end.")
    ] = False,
    approach: Approach = None,
    objective: Objective = None,
    strategy: Annotated[
        str | None, typer.Option(help="How candidates are chosen.", autocompletion=_words(STRATEGIES))
    ] = None,
    tuning_time: Annotated[float | None, typer.Option(help="Seconds to look for the fastest model; 0.", min=0)] = None,
    max_trials: Annotated[int | None, typer.Option(help="Candidates to evaluate at most; 100.", min=1)] = None,
    samples: Samples = None,
    alpha: Alpha = None,
    storage: Annotated[
        str | None, typer.Option(help="Keeps trials: run.db, or a database's URL; see `resume`.")
    ] = None,
    seed: Seed = None,
    *,
    reading: dict[str, Any],
    as_json: option.Json = False,
) -> int:
    """Find an int8 model that is as accurate as asked, and write it.

    Exit codes: 0 the goal is met, 3 it is not (the best model found is written all the same), 2 bad usage, 1 failed.
    """
    if print_schema:
        show(json.dumps(Configuration.model_json_schema(), indent=2))
        return MET
    criterion = {**({} if goal is None else _goal(goal)), **({"higher_is_better": False} if lower_is_better else {})}
    given = {
        **reading,
        "model": model,
        "data": data,
        "eval_func": eval_func,
        "eval_data": eval_data,
        "eval_metric": metric,
        "output": output,
        "report": report,
        "accuracy_criterion": criterion or None,
        "approach": approach,
        "objective": objective,
        "strategy": strategy,
        "tuning_time": tuning_time,
        "max_trials": max_trials,
        "sampling_sizes": samples,
        "storage": storage,
        "seed": seed,
        **({} if alpha is None else _smoothing(alpha)),
    }
    configuration = read_configuration(config, given)
    if print_config:
        show(configuration.to_yaml().rstrip())
        return MET
    context = RunContext(origin=None if configuration.storage is None else origin_of(configuration))
    with running_in(context):
        return run_tuning(configuration, as_json, evaluated=True)


@command
@option.reads_data(labelled=False)
def quantize(
    model: Model = None,
    data: Data = None,
    output: Output = None,
    report: Report = None,
    config: Config = None,
    approach: Approach = None,
    objective: Objective = None,
    samples: Samples = None,
    alpha: Alpha = None,
    seed: Seed = None,
    *,
    reading: dict[str, Any],
    as_json: option.Json = False,
) -> int:
    """Quantize a model with tuned alphas, without an evaluation: nothing is claimed about its accuracy."""
    given = {
        **reading,
        "model": model,
        "data": data,
        "output": output,
        "report": report,
        "approach": approach,
        "objective": objective,
        "sampling_sizes": samples,
        "seed": seed,
        **({} if alpha is None else _smoothing(alpha)),
    }
    return run_tuning(read_configuration(config, given), as_json, evaluated=False)


def run_tuning(
    configuration: Configuration,
    as_json: bool,
    *,
    evaluated: bool,
    written: bool = True,
    make: Callable[[Callable[[], Any]], Any] = lambda call: call(),
) -> int:
    """Load what a configuration names, tune, write and show; returns the exit code.

    Args:
        configuration: of the run.
        as_json: whether JSON is shown.
        evaluated: whether models are scored.
        written: whether the model is written.
        make: makes the call of `autotune`.
    """
    model = _needed(configuration.model, "model", "MODEL")
    output = Path(_needed(configuration.output, "output", "--output")) if written else None
    if configuration.report is not None:
        check_page(configuration.report, "--report")
        require("plotly", extra="report")
    check_places(
        {"--output": output, "--report": configuration.report},
        {"MODEL": model, "--data": configuration.data, "--eval-data": configuration.eval_data},
    )
    check_options_used(configuration, configuration.data, configuration.eval_data)
    loaded = load_model(model)
    if output is not None:
        loaded.framework.check_output(output)
    data = open_data(_needed(configuration.data, "data", "--data"), "--data", loaded, configuration)
    evaluation, eval_data = _evaluation(configuration, loaded) if evaluated else ({}, None)
    _say_what_is_assumed(("--data", data), ("--eval-data", eval_data))
    arguments = {"calib_data": inputs_of(data), **evaluation, **configuration.autotune_arguments}
    try:
        tuned = make(partial(loaded.framework.autotune, loaded.value, **arguments))
    except TuningInterrupted as error:
        note(f"interrupted: {_how_far(error, configuration)}")
        return INTERRUPTED
    if output is not None:
        with _saying_how_to_go_on(configuration):
            loaded.framework.save(tuned, output, inputs_of(data))
    result = tuned.tuning_result
    if configuration.report is not None:
        result.save_report(configuration.report)
    if as_json:
        place = None if output is None else configuration.output
        show_json({**result.to_dict(), "output": place, "report": configuration.report})
    else:
        show(str(result))
        if output is not None:
            show(f"\nwritten: {configuration.output}")
        if configuration.report is not None:
            show(f"report: {configuration.report}")
    return NOT_MET if result.met is False else MET


def _how_far(error: TuningInterrupted, configuration: Configuration) -> str:
    """How far tuning got when it was interrupted, and how it goes on."""
    trials = len(error.partial_result.trials) if error.partial_result is not None else 0
    ended = f"{trials} {'trial' if trials == 1 else 'trials'} had ended, and no model is written."
    if configuration.storage is None:
        return f"{ended} With --storage run.db, `inc-autotune resume run.db` would go on from there."
    return f"{ended} `inc-autotune resume {shown_url(configuration.storage)}` goes on from there."


@contextmanager
def _saying_how_to_go_on(configuration: Configuration) -> Iterator[None]:
    """Tell, where the model cannot be written after all, that it need not be looked for again."""
    try:
        yield
    except AutotuneError as error:
        again = (
            "With --storage run.db the search would not have to be made again."
            if configuration.storage is None
            else f"`inc-autotune resume {shown_url(configuration.storage)} -o OTHER` writes it elsewhere, without "
            "evaluations."
        )
        raise WritingError(f"{error} {again}") from error


def _needed(value: str | None, name: str, option: str) -> str:
    if not value:
        raise UsageError(f"{option} is missing. Give it, or `{name}:` in --config.")
    return value


def _evaluation(configuration: Configuration, model: LoadedModel) -> tuple[dict[str, Any], Any]:
    """The arguments of `autotune` that say how a model is scored, and the data that is read for it.

    Raises:
        UsageError: there is no evaluation, or part of one.
    """
    if configuration.eval_func is not None:
        if configuration.eval_data is not None or configuration.eval_metric is not None:
            raise UsageError("--eval, and --eval-data or --metric: give one way to score a model.")
        return {"eval_func": find_object(configuration.eval_func, "--eval")}, None
    if configuration.eval_data is None:
        raise UsageError(
            "--eval is missing: nothing tells how accurate a model is. Give --eval module:function, or --eval-data and "
            "--metric accuracy; or use `inc-autotune quantize`."
        )
    metric = configuration.eval_metric or "accuracy"
    data = open_data(configuration.eval_data, "--eval-data", model, configuration)
    chosen = find_object(metric, "--metric") if isinstance(metric, str) and is_object_name(metric) else metric
    return {"eval_data": labelled(data, "--eval-data"), "eval_metric": chosen}, data


def _say_what_is_assumed(*named: tuple[str, Any]) -> None:
    for name, data in named:
        if isinstance(data, Batches):
            for assumed in (f"{data.samples} samples", *data.assumed):
                note(f"{name}: {assumed}")


def _goal(text: str) -> dict[str, float]:
    number = text.strip()
    try:
        if number.endswith("%"):
            return {"relative": float(number[:-1]) / 100}
        return {"absolute": float(number)}
    except ValueError as error:
        raise UsageError(f"--goal {text!r}: Allowed: a part of the score, 1%, or a difference, 0.02.") from error


def _smoothing(alpha: str) -> dict[str, Any]:
    if alpha == "off":
        return {"recipes": {"smooth_quant": False}}
    try:
        return {"smoothquant_args": {"alpha": alpha if alpha == "auto" else float(alpha)}}
    except ValueError as error:
        raise UsageError(f"--alpha {alpha!r}: Allowed: auto, a number from 0 to 1, or off.") from error
