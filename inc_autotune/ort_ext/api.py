"""The verbs an ONNX Runtime user calls: autotune, apply_recipe, session."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial, wraps
from os import PathLike
from pathlib import Path
from typing import Any, Protocol, overload

import onnxruntime

from inc_autotune.core.arguments import AutotuneArguments, check_path, takes_foreign_names, validate_arguments
from inc_autotune.core.errors import ArgumentError, EvaluationError
from inc_autotune.core.evaluation import check_evaluation_arguments, with_direction_of
from inc_autotune.core.result import Recipe, TuningResult, applying, warn_of_shortcomings
from inc_autotune.core.search.strategy import STRATEGIES
from inc_autotune.core.search.study import Trial
from inc_autotune.core.tuner import tune
from inc_autotune.graphs import rounded_as_known
from inc_autotune.ort_ext.adaptor import OrtAdaptor
from inc_autotune.ort_ext.data import evaluation_function
from inc_autotune.ort_ext.model import (
    Candidate,
    Provider,
    SessionOptions,
    SourceModel,
    check_providers,
    first_provider,
    load_source,
    make_session,
)
from inc_autotune.ort_ext.recipe_match import TORCH_FRAMEWORK, from_torch_recipe
from inc_autotune.ort_ext.target import BACKENDS, QDQ, RECIPE_NAMES, Backend, ModelSettings, find_backend, read_recipes
from inc_autotune.ort_ext.tuned_model import JustTuned, TunedModel, warn_where_too_wide


@takes_foreign_names({"sess_options": "session_options"})
def autotune(
    model: Any,
    calib_dataloader: Any = None,
    eval_func: Callable[[onnxruntime.InferenceSession], Any] | None = None,
    *,
    eval_dataloader: Any = None,
    eval_metric: Any = None,
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
    train_func: None = None,
    backend: str = "default",
    providers: Sequence[Provider] | None = None,
    session_options: SessionOptions = None,
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
    """Find an INT8 form of an ONNX model that is as accurate as asked.

    Args:
        model: an fp32 model of opset 7 or newer: a path (external data beside it is fine), a `ModelProto`, its bytes,
            or what `torch.onnx.export(dynamo=True)` returns. It is not changed.
        calib_dataloader: yields calibration batches: a dict by input name, a tuple or list of inputs in the model's
            order, an array or tensor where there is one input, or `(inputs, label)`. A DataLoader, a list, a generator,
            or an `onnxruntime.quantization.CalibrationDataReader`; read once.
        eval_func: takes an `onnxruntime.InferenceSession` and returns its score: one finite number, or a 1-D array
            of per-sample scores whose mean is the score, or a generator that yields such scores bit by bit. With
            per-sample scores, which must be of the same samples in the same order for every model, the verdict is a
            paired test with a confidence interval, and a generator (in a random but fixed order) is stopped as soon
            as the verdict is clear. Without it (and without `eval_dataloader` and `eval_metric`) the model is quantized
            with tuned alphas and no claim is made.
        eval_dataloader: yields `(inputs, label)`, with `eval_metric` instead of `eval_func`.
        eval_metric: a function of (predictions, labels), an object with `update` and `compute` (or `result`), a name
            such as "accuracy" or "f1", or one with options: `{"topk": {"k": 5}}`; docs/arguments.md lists them.
        op_type_dict: rules by operator type, a regular expression: `{"Conv": {"weight": {"dtype": ["fp32"]}}}`.
        op_name_dict: the same by the name of the node; wins over types. Nodes without a name are called `MatMul_3`,
            the fourth MatMul of the graph, and so on.
        smoothquant_args: `{"alpha": "auto" | number | list, "auto_alpha_args": {...}, "folding": bool}`; None: the
            strategy may smooth with alphas of its own choice. `folding=False` leaves the operators before as they are
            and multiplies instead.
        recipes: those of Intel Neural Compressor, such as `{"first_conv_or_matmul_quantization": False}`; see
            `recipes.GraphRecipes`, and `smooth_quant`, `smooth_quant_args`; `fast_bias_correction` and
            `weight_correction`: True, False, or "auto" (default), which compares them at the output; and
            `weight_rounding`: "nearest", "second_moment" or "auto" (default), which compares them at the output.
        sampling_sizes: numbers of calibration samples to try, in this order. Default [100].
        accuracy_criterion: `{"relative": 0.01}` or `{"absolute": x}`, and `"higher_is_better"`. Default relative 0.01.
        tuning_time: seconds to look for the fastest model that meets the goal; 0: stop at the first that does.
        max_trials: candidates to evaluate at most.
        strategy: how candidates are chosen.
        approach: "auto", "static", "dynamic" or "weight_only".
        train_func: not here: an error that says how to train the PyTorch model instead.
        backend: the execution provider the model is for: "onnxrt_cpu_ep", which "default" stands for,
            "onnxrt_cuda_ep", "onnxrt_trt_ep", "onnxrt_dnnl_ep", "onnxrt_dml_ep", "onnxrt_openvino_ep" or
            "onnxrt_qnn_ep". The first and OpenVINO's, on the CPU, are verified on hardware.
        providers: execution providers of the sessions that are evaluated. Default: that of `backend` where this
            installation of onnxruntime has it, else the CPU.
        session_options: `SessionOptions` of these sessions, or, which is faster, a function that makes them; also by
            the name `sess_options`.
        capability: a framework YAML, or a dict, that extends the one shipped.
        excluded_precisions: dtypes that must not be used.
        objective: "performance", or "modelsize": embeddings are quantized too, and the smallest model is preferred.
        storage: an Optuna storage URL that keeps trials over a crash, such as `sqlite:///run.db`.
        study_name: prefix of the study's name there.
        seed: of everything random.
        progress: whether to show progress bars.
        on_trial: is given each `Trial` of this process when it has ended and is recorded; `inc_autotune.tracking` has
            ready ones.
        example_inputs: inputs for measuring speed, in any form a loader's item may have. Default: the first
            calibration samples.

    Returns:
        The tuned model, for `session`, `save` and `convert`. Its `tuning_result` says what was found;
        `print(tuned.tuning_result)` is a table.

    Raises:
        ArgumentError, ModelError, DataError, CapabilityError: bad input, found as early as it can be.
        EvaluationError: `eval_func` raised or returned no number. Finished trials and the best model so far are in
            its `partial_result`.
    """
    arguments = validate_arguments(
        strategies=STRATEGIES,
        backends=("default", *BACKENDS),
        recipe_names=RECIPE_NAMES,
        untrainable=OrtAdaptor.untrainable,
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
            "objective='footprint': onnxruntime does not tell how much memory a run takes: its arena grows in steps, "
            "and it packs copies of weights. Allowed: 'performance', 'modelsize' (embeddings are quantized too)."
        )
    settings = ModelSettings(find_backend(arguments.backend), read_recipes(arguments.recipes))
    given_providers = _providers(providers, settings.backend)
    data = _calibration_data(calib_dataloader, example_inputs, arguments)
    source = load_source(model)
    arguments = with_direction_of(eval_metric, arguments)
    evaluate = check_evaluation_arguments(
        eval_func,
        eval_dataloader,
        eval_metric,
        partial(evaluation_function, inputs=source.inputs),
        higher_is_better=arguments.accuracy_criterion.higher_is_better,
    )
    smoothquant = arguments.smoothquant_args
    adaptor = OrtAdaptor(
        arguments.capability,
        histogram=arguments.needs_histogram,
        moments=arguments.weight_rounding != "nearest",
        settings=settings,
        folding=smoothquant is None or smoothquant.folding is not False,
        providers=given_providers,
        session_options=session_options,
        graph_optimization_level=settings.recipes.graph_optimization_level,
        example_inputs=example_inputs,
    )
    try:
        tuned = tune(adaptor, adaptor.candidate(source), data, _on_session(evaluate), arguments)
    except EvaluationError as error:
        found = error.partial_result
        if found is not None:
            found.model = _tuned_model(found, settings, source)
        raise
    warn_of_shortcomings(tuned.result, stacklevel=3)
    return _tuned_model(tuned.result, settings, source)


def apply_recipe(model: Any, recipe: Recipe | str | Path) -> TunedModel:
    """Build a tuned model from its fp32 model and a recipe, without data. Written, it has the same bytes every time.

    A recipe tuned in PyTorch applies to the ONNX export of the same model where names allow: the log and
    `recipe.metadata["not_matched"]` say which modules stay in fp32, and why.

    Weights are as wide as where the recipe was tuned; where this processor cannot multiply them exactly by its usual
    kernels, a warning in the log says what that means.

    Args:
        model: the fp32 model, see `autotune`. It is not changed.
        recipe: `tuned.recipe`, or the path of a YAML file beside a saved model.

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
    source = load_source(model)
    with applying(recipe):
        if recipe.framework == TORCH_FRAMEWORK:
            recipe = from_torch_recipe(recipe, source)
        tuned = TunedModel(rounded_as_known(recipe), None, source)
        warn_where_too_wide(tuned, QDQ.name)  # what does not fit is found now, when the model is built
    return tuned


class Session(Protocol):
    """What a type checker knows of `session`: options may stand where onnxruntime has them."""

    @overload
    def __call__(
        self,
        tuned: TunedModel,
        providers: Sequence[Provider] | None = None,
        session_options: SessionOptions = None,
        *,
        form: str | None = None,
        graph_optimization_level: str | None = None,
    ) -> onnxruntime.InferenceSession: ...

    @overload
    def __call__(
        self,
        tuned: TunedModel,
        sess_options: SessionOptions,
        providers: Sequence[Provider] | None = None,
        *,
        form: str | None = None,
        graph_optimization_level: str | None = None,
    ) -> onnxruntime.InferenceSession: ...


def _options_may_come_first(function: Callable[..., onnxruntime.InferenceSession]) -> Session:
    """Understand `session(tuned, options, providers)` too, as onnxruntime has them the other way round."""

    @wraps(function)
    def understood(*given: Any, **named: Any) -> onnxruntime.InferenceSession:
        if len(given) < 2 or not isinstance(given[1], onnxruntime.SessionOptions):
            return function(*given, **named)
        for name in ("session_options", "sess_options"):
            if name in named:
                raise ArgumentError(f"session_options: is given twice, also as {name!r}. Give it once.")
        if len(given) == 3:
            if "providers" in named:
                raise ArgumentError("providers: is given twice. Give it once.")
            named["providers"] = given[2]
        return function(given[0], *given[3:], session_options=given[1], **named)

    return understood


@_options_may_come_first
@takes_foreign_names({"sess_options": "session_options"})
def session(
    tuned: TunedModel,
    providers: Sequence[Provider] | None = None,
    session_options: SessionOptions = None,
    *,
    form: str | None = None,
    graph_optimization_level: str | None = None,
) -> onnxruntime.InferenceSession:
    """A session of the quantized model.

    Args:
        tuned: what `autotune`, `apply_recipe` or `load` returned.
        providers: execution providers, in order of preference. Default: the one the model was tuned for, where this
            installation of onnxruntime has it, else the CPU.
        session_options: `SessionOptions`, never changed, or, which is faster, a function that makes them; also by the
            name `sess_options`, and before `providers`, as onnxruntime takes them.
        form: "cpu" or "qdq", see `convert`. None: "cpu" for the CPU provider, "qdq" for others, or the form of a
            loaded model.
        graph_optimization_level: "DISABLE_ALL", "ENABLE_BASIC", ...; None: what the options say, else the recipe the
            model was tuned with.

    Raises:
        ArgumentError: `tuned` is no tuned model, a provider is not available, or there is no such form.
    """
    if not isinstance(tuned, TunedModel):
        raise ArgumentError(
            f"tuned: a {type(tuned).__name__}. Allowed: what autotune(), apply_recipe() or load() returned."
        )
    settings = tuned.settings
    given = _providers(providers, settings.backend)
    if form is None:
        form = tuned.saved_form or settings.usual_form(first_provider(given)).name
    if graph_optimization_level is None and not isinstance(session_options, onnxruntime.SessionOptions):
        graph_optimization_level = settings.recipes.graph_optimization_level
    return make_session(tuned.model(form), given, session_options, graph_optimization_level=graph_optimization_level)


def _providers(given: Sequence[Provider] | None, backend: Backend) -> list[Provider]:
    """The user's execution providers, else those that suit the backend.

    Raises:
        ArgumentError: one is not available.
    """
    if given is None:
        return list(backend.evaluation_providers(onnxruntime.get_available_providers()))
    return check_providers(given)


def _tuned_model(result: TuningResult, settings: ModelSettings, source: SourceModel) -> JustTuned:
    """The result in a form that can be written, its recipe with the settings."""
    assert result.recipe is not None
    result.recipe = replace(result.recipe, settings=settings.to_dict())
    return JustTuned(result.recipe, result, source)


def _on_session(eval_func: Callable[[onnxruntime.InferenceSession], Any] | None) -> Callable[[Candidate], Any] | None:
    """The user's function is given sessions, the tuner passes candidates."""
    if eval_func is None:
        return None
    function = eval_func
    return lambda candidate: function(candidate.session)


def _calibration_data(calib_dataloader: Any, example_inputs: Any, arguments: AutotuneArguments) -> Any:
    """What the adaptor calibrates from."""
    if calib_dataloader is not None:
        return calib_dataloader
    if arguments.approach in ("dynamic", "weight_only") and example_inputs is not None:
        return [example_inputs]
    raise ArgumentError(
        "calib_dataloader is None. Give calibration batches. With approach='dynamic' or 'weight_only', "
        "example_inputs is enough."
    )
