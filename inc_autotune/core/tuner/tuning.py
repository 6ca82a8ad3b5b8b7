"""The order of a tuning run. Nothing else knows it."""

from __future__ import annotations

import logging
from contextlib import closing
from pathlib import Path
from typing import Any

from inc_autotune.core.adaptor import Adaptor, registered_adaptor
from inc_autotune.core.analysis import calibrated, check_trainable, skipped_operators
from inc_autotune.core.arguments import AutotuneArguments
from inc_autotune.core.errors import EvaluationError, TuningInterrupted
from inc_autotune.core.evaluation import Goal
from inc_autotune.core.progress import Phases
from inc_autotune.core.run_context import CalibrationDone, RunContext, run_context
from inc_autotune.core.search import (
    Choices,
    Evaluate,
    Quantize,
    Trainings,
    allowed_options,
    check_rule_types,
    find_choices,
    offered_options,
)
from inc_autotune.core.search.strategy import check_strategy
from inc_autotune.core.search.study import History, StudyKey, WeightsStore, check_storage, local_file
from inc_autotune.core.space import build_space
from inc_autotune.core.tuner.ending import Tuned, finish_best, finish_unevaluated, partial_result, with_partial_result
from inc_autotune.core.tuner.loop import Search, search_trials
from inc_autotune.core.tuner.preparation import prepare
from inc_autotune.core.tuner.run import Run, evaluation_fingerprint, study_key

logger = logging.getLogger(__name__)


def tune(
    adaptor: Adaptor | str, model: Any, dataloader: Any, evaluate: Evaluate | None, arguments: AutotuneArguments
) -> Tuned:
    """Tune a model for one framework.

    Args:
        adaptor: the framework's adaptor, fresh for this run; or the name under which a package has registered one.
        model: the fp32 model; never changed.
        dataloader: calibration data in a form the adaptor reads; read once.
        evaluate: the user's evaluation, from deployable model to number; None: quantize without a claim.
        arguments: validated arguments.

    Returns:
        The tuned model in the adaptor's user-facing form, and the result.

    Raises:
        AutotuneError: bad input, found as early as it can be.
        EvaluationError: the evaluation raised or returned no number; `.partial_result` keeps what was found.
        TrainingError: `train_func` raised, or left a model that cannot be used; as above.
        TuningInterrupted: a KeyboardInterrupt during the search, with `.partial_result`, too.
    """
    if isinstance(adaptor, str):
        adaptor = registered_adaptor(adaptor)()
    # What the user asked for and cannot have is known before the model runs.
    check_trainable(adaptor, arguments.train_func)
    check_storage(arguments.storage)
    check_strategy(arguments.strategy, adaptor)
    check_rule_types(adaptor, model, arguments)
    build_space(allowed_options(offered_options(adaptor, model), arguments), skipped=skipped_operators(adaptor, model))
    context = run_context()
    phases = Phases(show=arguments.progress, limit=arguments.tuning_time)
    with phases.phase("calibration"):
        samples = calibrated(adaptor, model, dataloader, arguments.sampling_sizes, arguments.seed, context)
    if context.calibrates_only:
        raise CalibrationDone
    # A loader with fewer samples than asked for makes several sampling sizes the same.
    sizes = [min(size, samples) if samples else size for size in arguments.sampling_sizes]
    choices = find_choices(adaptor, model, arguments)
    key = study_key(adaptor, model, evaluate, choices.space, arguments)
    better = arguments.accuracy_criterion.higher_is_better
    with closing(History(arguments.storage, key, higher_is_better=better)) as history:
        run = Run(
            adaptor=adaptor,
            model=model,
            quantize=_bound(adaptor, model, dataloader),
            evaluate=evaluate,
            arguments=arguments,
            sampling_sizes=tuple(dict.fromkeys(sizes)),
            phases=phases,
            history=history,
            trainings=_trainings(adaptor, model, arguments, key, phases),
        )
        if context.begun is not None:
            context.begun(_for_others(context, key, evaluate))
        tuned = _complete(run, choices)
        history.keep_result(tuned.result.to_dict())
        return tuned


def _for_others(context: RunContext, key: StudyKey, evaluate: Evaluate | None) -> RunContext:
    """The context of those who join the run."""
    file = context.calibration
    known = file if file is not None and file.exists() else None
    return RunContext(study_name=key.study_name, calibration=known, evaluation=evaluation_fingerprint(evaluate))


def _trainings(adaptor: Adaptor, model: Any, arguments: AutotuneArguments, key: StudyKey, phases: Phases) -> Trainings:
    """What trains, and keeps its weights in the user's folder or beside a storage that is a file."""
    given = arguments.training_args.folder
    file = None if arguments.storage is None or not key.parts else local_file(arguments.storage)
    folder = None if file is None else file.with_name(f"{file.name}.trained")
    if given is not None and key.parts:
        folder = Path(given)
    store = WeightsStore(folder, key.study_name)
    trainings = Trainings(adaptor, model, arguments.train_func, arguments.training_args, store, phases)
    if arguments.train_func is not None and arguments.storage is not None and folder is None:
        trainings.notes.append(
            "storage: is no file of this machine that trained weights could lie beside, so they are in memory only: a "
            "run after a crash trains again. Give training_args={'folder': ...} to keep them"
        )
    return trainings


def _bound(adaptor: Adaptor, model: Any, dataloader: Any) -> Quantize:
    """The adaptor's `quantize` for one model and its data."""
    # By position: what the parameters are called is the adaptor's affair.
    return lambda tune_cfg: adaptor.quantize(tune_cfg, model, dataloader)


def _complete(run: Run, choices: Choices) -> Tuned:
    """Preparation, search, result."""
    known = prepare(run, choices)
    if known.baseline is None:
        if run.arguments.train_func is not None and run.arguments.approach != "qat":
            run.trainings.notes.append(
                "train_func was not called: without an evaluation nothing tells whether training is needed. "
                "approach='qat' trains at once"
            )
        return finish_unevaluated(run, known)
    goal = Goal(known.baseline.mean, run.arguments.accuracy_criterion)
    logger.info("fp32 score %g, goal %s", goal.baseline, goal.describe())
    doubt = goal.doubt()
    if doubt is not None:
        logger.warning("%s", doubt)
    asked = {**run.arguments.accuracy_criterion.model_dump(), "objective": run.arguments.objective}
    run.history.keep_goal(asked)
    search = Search(run, known, known.baseline, goal)
    try:
        search_trials(search)
    except EvaluationError as error:
        raise with_partial_result(error, search) from (error.__cause__ or error)
    except KeyboardInterrupt as interrupt:
        logger.warning("interrupted; the best model so far is put together. Interrupt again to leave at once")
        raise TuningInterrupted(partial_result(search)) from interrupt
    return finish_best(search)
