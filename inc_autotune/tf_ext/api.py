"""The verbs a TensorFlow user calls: autotune, apply_recipe."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any

from inc_autotune.core.arguments import check_path, takes_foreign_names, validate_arguments
from inc_autotune.core.errors import ArgumentError, EvaluationError
from inc_autotune.core.evaluation import check_evaluation_arguments, closing_iterator, with_direction_of
from inc_autotune.core.result import Recipe, TuningResult, applying, warn_of_shortcomings
from inc_autotune.core.search.strategy import STRATEGIES
from inc_autotune.core.search.study import Trial
from inc_autotune.core.tuner import tune
from inc_autotune.graphs import rounded_as_known
from inc_autotune.tf_ext.adaptor import TensorFlowAdaptor
from inc_autotune.tf_ext.data import data_by_signature, evaluation_function
from inc_autotune.tf_ext.model import Candidate, SignatureModel, Signatures, SourceModel, load_source
from inc_autotune.tf_ext.preparation import with_trained
from inc_autotune.tf_ext.target import FORMS, SWITCHES, choices_of, read_switches, skipped_ends
from inc_autotune.tf_ext.training import DEFAULT_RANGES, Student, Trained, Trainer, may_be_trained, traced_copy
from inc_autotune.tf_ext.tuned_model import JustTuned, TunedModel, recipe_for_here

RECIPES = ("smooth_quant", "smooth_quant_args", *SWITCHES)


@takes_foreign_names()
def autotune(
    model: Any,
    calib_dataset: Any = None,
    eval_func: Callable[[SignatureModel], Any] | None = None,
    *,
    eval_dataset: Any = None,
    eval_metric: Any = None,
    signatures: Signatures | None = None,
    op_type_dict: Mapping[str, Any] | None = None,
    op_name_dict: Mapping[str, Any] | None = None,
    smoothquant_args: Mapping[str, Any] | None = None,
    recipes: Mapping[str, Any] | None = None,
    sampling_sizes: Sequence[int] | int | None = None,
    accuracy_criterion: Mapping[str, Any] | None = None,
    tuning_time: float = 0,
    max_trials: int = 100,
    strategy: str = "auto",
    approach: str = "auto",
    train_func: Callable[[Student], Any] | None = None,
    training_args: Mapping[str, Any] | None = None,
    backend: str = "default",
    capability: str | Path | Mapping[str, Any] | Sequence[Any] | None = None,
    excluded_precisions: Sequence[str] = (),
    objective: str = "performance",
    storage: str | None = None,
    study_name: str | None = None,
    seed: int = 0,
    progress: bool = True,
    on_trial: Callable[[Trial], object] | None = None,
    example_inputs: Any = None,
) -> JustTuned:
    """Find an INT8 form of a TensorFlow model that is as accurate as asked.

    Args:
        model: an fp32 model: the directory of a SavedModel, a Keras 3 model or its `.keras` file, a `tf.Module`, a
            ConcreteFunction, or a frozen GraphDef. It is not changed.
        calib_dataset: calibration data: a `tf.data.Dataset`, batched or not, with labels or without; an array or a dict
            of arrays by input name, samples first; a list of batches, a generator, a torch DataLoader; read once. Of a
            model with several signatures, a dict by signature name; a signature without data stays in fp32.
        eval_func: takes a callable model with the signatures of the fp32 one (`model(x)`,
            `model.signatures["serving_default"](x=x)`) and returns its score: one finite number, or a 1-D array of
            per-sample scores whose mean is the score, or a generator that yields such scores bit by bit. With
            per-sample scores, which must be of the same samples in the same order for every model, the verdict is a
            paired test with a confidence interval, and a generator (in a random but fixed order) is stopped as soon
            as the verdict is clear. Without it (and without `eval_dataset` and `eval_metric`) the model is quantized
            with tuned alphas and no claim is made.
        eval_dataset: yields `(inputs, label)`, with `eval_metric` instead of `eval_func`.
        eval_metric: a Keras metric, a function of (predictions, labels), an object with `update` and `compute` (or
            `result`), a name such as "accuracy" or "f1", or one with options: `{"topk": {"k": 5}}`; docs/arguments.md
            lists them.
        signatures: names of the signatures to take over into the tuned model, the others are left out; None: all. Of a
            GraphDef, its inputs and outputs: `{"serving_default": {"inputs": ["x:0"], "outputs": ["y:0"]}}`.
        op_type_dict: rules by operator type, a regular expression: `{"Conv2D": {"weight": {"dtype": ["fp32"]}}}`.
        op_name_dict: the same by the name of the node in the frozen graph; wins over types. With several signatures,
            names begin with that of the signature.
        smoothquant_args: `{"alpha": "auto" | number | list, "auto_alpha_args": {...}, "folding": bool}`; None: the
            strategy may smooth with alphas of its own choice. `folding=False` leaves the operators before as they are
            and multiplies instead.
        recipes: `smooth_quant` and `smooth_quant_args`; `first_conv_or_matmul_quantization` and
            `last_conv_or_matmul_quantization`, False keeps that operator in fp32; `scale_propagation_max_pooling`,
            `scale_propagation_concat` and `residual_add_fusion`, False lets poolings, concatenations and the sums of
            residual blocks work in float between integer convolutions.
            `fast_bias_correction` and `weight_correction`: True, False, or "auto" (default), which compares them at
            the output; and `weight_rounding`: "nearest", "second_moment" or "auto" (default), which compares them at
            the output.
        sampling_sizes: numbers of calibration samples to try, in this order. Default [100].
        accuracy_criterion: `{"relative": 0.01}` or `{"absolute": x}`, and `"higher_is_better"`. Default relative 0.01.
        tuning_time: seconds to look for the fastest model that meets the goal; 0: stop at the first that does.
        max_trials: candidates to evaluate at most.
        strategy: how candidates are chosen.
        approach: "auto" (static, then dynamic), "static" or "dynamic"; or "qat": `train_func` trains the quantized
            model at once, and not only where the goal is missed.
        train_func: trains the fake-quantized Keras model it is given (see `prepare`), by `compile` and `fit` or a loop
            of its own, in place or returning the best one. It is called where no model with every operator quantized
            meets the goal, before any operator falls back. `model` must be a Keras 3 model or its `.keras` file.
        training_args: `{"ranges": "learned" | "moving" | "fixed"}`: what training does to ranges of activations.
            Default "learned"; and `"folder"`, where trained weights are kept, by default beside a storage that is a
            file.
        backend: "default" is the integer kernels of stock TensorFlow. "itex" writes a graph for Intel Extension for
            TensorFlow, which makes integer operators of it; without that it runs in float32 on the same values.
        capability: a framework YAML, or a dict, that extends the one shipped.
        excluded_precisions: dtypes that must not be used, such as `["bf16"]`.
        objective: "performance" or "modelsize".
        storage: an Optuna storage URL that keeps trials over a crash, such as `sqlite:///run.db`.
        study_name: prefix of the study's name there.
        seed: of everything random.
        progress: whether to show progress bars.
        on_trial: is given each `Trial` of this process when it has ended and is recorded; `inc_autotune.tracking` has
            ready ones.
        example_inputs: inputs for measuring speed, in any form an item of the data may have. Default: the first
            calibration samples.

    Returns:
        The tuned model, for `convert` and `save`. Its `tuning_result` says what was found;
        `print(tuned.tuning_result)` is a table.

    Raises:
        ArgumentError, ModelError, DataError, CapabilityError: bad input, found as early as it can be.
        EvaluationError: `eval_func` raised or returned no number. Finished trials and the best model so far are in
            its `partial_result`.
        TrainingError: `train_func` raised, or left a model that is not the one it was given. As above; the model as it
            was left is in its `student`.
    """
    arguments = validate_arguments(
        strategies=STRATEGIES,
        backends=tuple(FORMS),
        recipe_names=RECIPES,
        untrainable=None if may_be_trained(model) else TensorFlowAdaptor.untrainable,
        op_type_dict=op_type_dict,
        op_name_dict=op_name_dict,
        smoothquant_args=smoothquant_args,
        recipes=recipes,
        sampling_sizes=sampling_sizes,
        accuracy_criterion=accuracy_criterion,
        tuning_time=tuning_time,
        max_trials=max_trials,
        strategy=strategy,
        approach=approach,
        train_func=train_func,
        training_args=training_args,
        backend=backend,
        capability=capability,
        excluded_precisions=excluded_precisions,
        objective=objective,
        storage=storage,
        study_name=study_name,
        seed=seed,
        progress=progress,
        on_trial=on_trial,
    )
    if arguments.objective == "footprint":
        raise ArgumentError(
            "objective='footprint': memory at run time is not measured for TensorFlow. Allowed: 'performance', "
            "'modelsize'."
        )
    switches = read_switches(arguments.recipes)
    if calib_dataset is None:
        raise ArgumentError("calib_dataset is None. Give calibration data: ranges of activations come from it.")
    trainer = None
    if arguments.train_func is not None:
        trainer = Trainer(traced_copy(model, signatures), signatures, arguments.training_args.ranges or DEFAULT_RANGES)
    source = load_source(model, signatures) if trainer is None else trainer.copy.source
    data = data_by_signature(calib_dataset, source)
    first = source.signatures[next(iter(data))]
    arguments = with_direction_of(eval_metric, arguments)
    evaluate = check_evaluation_arguments(
        eval_func,
        eval_dataset,
        eval_metric,
        partial(evaluation_function, signature=first),
        loader="dataset",
        higher_is_better=arguments.accuracy_criterion.higher_is_better,
    )
    smoothquant = arguments.smoothquant_args
    adaptor = TensorFlowAdaptor(
        arguments.capability,
        signatures=list(data),
        histogram=arguments.needs_histogram,
        moments=arguments.weight_rounding != "nearest",
        choices=choices_of(
            switches,
            form=FORMS[arguments.backend],
            folding=smoothquant is None or smoothquant.folding is not False,
        ),
        skipped=skipped_ends(switches),
        trainer=trainer,
        example_inputs=example_inputs,
    )
    try:
        tuned = tune(adaptor, Candidate(source), data, _on_callable(evaluate), arguments)
    except EvaluationError as error:
        partial_result = error.partial_result
        if partial_result is not None:
            partial_result.model = _tuned_model(source, partial_result.model, partial_result)
        raise
    warn_of_shortcomings(tuned.result, stacklevel=3)
    return _tuned_model(source, tuned.model, tuned.result)


def apply_recipe(model: Any, recipe: Recipe | str | Path, *, signatures: Signatures | None = None) -> TunedModel:
    """Build a tuned model from its fp32 model and a recipe, without data.

    Args:
        model: the fp32 model, see `autotune`. It is not changed.
        recipe: `tuned.recipe`, or the path of a recipe in YAML, such as `assets.extra/recipe.yaml` of a saved model.
        signatures: see `autotune`; the same as there.

    Raises:
        ArgumentError: `recipe` is not a recipe.
        ModelError: the model is not an fp32 model.
        RecipeError: the recipe is for another framework, or names operators the model does not have.
    """
    if isinstance(recipe, str | PathLike):
        recipe = Recipe.load(check_path(recipe, "recipe"))
    if not isinstance(recipe, Recipe):
        raise ArgumentError(
            f"recipe: a {type(recipe).__name__}. Allowed: tuned.recipe, or the path of a recipe in YAML."
        )
    source = load_source(model, signatures)
    with applying(recipe):
        tuned = TunedModel(source, recipe_for_here(source, rounded_as_known(recipe)))
        _ = tuned.model  # what does not fit is found now
    return tuned


def _tuned_model(source: SourceModel, found: Candidate | Trained, result: TuningResult) -> JustTuned:
    """The fp32 model, or what training made of it, with its recipe."""
    assert result.recipe is not None
    if isinstance(found, Trained):
        result.recipe = with_trained(result.recipe, found)
        source = found.source
    return JustTuned(source, result.recipe, result)


def _on_callable(evaluate: Callable[[SignatureModel], Any] | None) -> Callable[[Candidate], Any] | None:
    """The user's function is given callables, the tuner passes candidates."""
    if evaluate is None:
        return None
    function = evaluate

    def on_callable(candidate: Candidate) -> Any:
        scores = function(candidate.callable)
        if isinstance(scores, Iterator):
            return _steps(scores, candidate.callable)
        candidate.callable.check_weights()
        return scores

    return on_callable


def _steps(scores: Iterator[Any], model: SignatureModel) -> Iterator[Any]:
    with closing_iterator(scores):
        yield from scores
    model.check_weights()
