"""Names of arguments that other tools have: some are taken, of all others an error says what they are called here."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from inc_autotune.core.errors import ArgumentError, UnknownArgumentError, did_you_mean
from inc_autotune.core.vocabulary import listing

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")

_LOADERS = {
    "calib_dataloader": "calib_dataset",
    "eval_dataloader": "eval_dataset",
    "calib_dataset": "calib_dataloader",
    "eval_dataset": "eval_dataloader",
}
"""The word of one framework for what is called otherwise in another; taken where only the latter is there."""

_KEEP_FP32 = "op_name_dict={'layer.*': {'weight': {'dtype': ['fp32']}}}"
_TYPES_FP32 = "op_type_dict={'Conv.*': {'weight': {'dtype': ['fp32']}}}"
_TYPES = "op_type_dict={'.*': {'weight': {'dtype': ['int8']}, 'activation': {'dtype': ['uint8']}}}"
_INC, _NNCF, _ORT, _LITE = "Neural Compressor", "NNCF", "onnxruntime.quantization", "TensorFlow Lite"

FOREIGN: Mapping[str, tuple[str, str]] = {
    "conf": (_INC, "its fields are arguments here, such as approach='static'"),
    "config": (_INC, "its fields are arguments here, such as approach='static'"),
    "tune_config": (_INC, "its fields are arguments here, such as strategy='mse'"),
    "tuning_criterion": (_INC, "strategy='auto', tuning_time=0, max_trials=100, objective='performance'"),
    "calibration_sampling_size": (_INC, "sampling_sizes=[100]"),
    "timeout": (_INC, "tuning_time=60, in seconds"),
    "tolerable_loss": (_INC, "accuracy_criterion={'relative': 0.01}"),
    "criterion": (_INC, "accuracy_criterion={'relative': 0.01}"),
    "higher_is_better": (_INC, "accuracy_criterion={'relative': 0.01, 'higher_is_better': False}"),
    "quant_level": (_INC, "strategy='auto', or 'conservative' for level 0"),
    "strategy_kwargs": (_INC, "no strategy needs any; leave them out"),
    "quant_format": (_INC, "form='qdq' of save(), convert() and session() in ONNX Runtime"),
    "domain": (_INC, "nothing depends on it; leave it out"),
    "diagnosis": (_INC, "compare(fp32, tuned, data) after tuning"),
    "reduce_range": (_INC, "nothing: weights get 7 bits where this processor needs them. Leave it out"),
    "use_distributed_tuning": (_INC, "the same storage=... in several processes"),
    "inputs": (_INC, "signatures={'serving_default': {'inputs': [...], 'outputs': [...]}} of TensorFlow"),
    "outputs": (_INC, "signatures={'serving_default': {'inputs': [...], 'outputs': [...]}} of TensorFlow"),
    "ni_workload_name": (_INC, "study_name"),
    "accuracy_loss": (_INC, "accuracy_criterion={'relative': 0.01}"),
    "calibration_dataset": (_NNCF, "{calibration}"),
    "validation_dataset": (_NNCF, "{evaluation} with eval_metric, or eval_func"),
    "validation_fn": (_NNCF, "eval_func, a function of the model alone"),
    "max_drop": (_NNCF, "accuracy_criterion={'relative': 0.01}"),
    "drop_type": (_NNCF, "accuracy_criterion={'relative': 0.01}, or 'absolute'"),
    "subset_size": (_NNCF, "sampling_sizes=[300]"),
    "preset": (_NNCF, "nothing: schemes are chosen by kernel; rules choose others. Leave it out"),
    "target_device": (_NNCF, "backend"),
    "model_type": (_NNCF, "nothing: smoothing is compared at the output. Leave it out"),
    "fast_bias_correction": (_NNCF, "recipes={'fast_bias_correction': True}"),
    "ignored_scope": (_NNCF, _KEEP_FP32),
    "advanced_parameters": (_NNCF, "smoothquant_args, op_type_dict, recipes"),
    "calibration_data_reader": (_ORT, "{calibration}, which may be such a reader"),
    "data_reader": (_ORT, "{calibration}, which may be such a reader"),
    "model_input": (_ORT, "model"),
    "model_output": (_ORT, "save(tuned, path) afterwards"),
    "nodes_to_exclude": (_ORT, _KEEP_FP32),
    "nodes_to_quantize": (_ORT, "op_name_dict with fp32 for the others"),
    "op_types_to_quantize": (_ORT, _TYPES_FP32),
    "per_channel": (_ORT, "op_type_dict={'.*': {'weight': {'granularity': ['per_tensor']}}} for one scale each"),
    "weight_type": (_ORT, _TYPES),
    "activation_type": (_ORT, _TYPES),
    "calibrate_method": (_ORT, "op_type_dict={'.*': {'activation': {'algorithm': ['percentile']}}}"),
    "extra_options": (_ORT, "recipes, smoothquant_args and op_type_dict"),
    "provider_options": ("onnxruntime", "providers=[('CPUExecutionProvider', {...})]"),
    "representative_dataset": (_LITE, "{calibration}"),
    "optimizations": (_LITE, "objective='performance' or 'modelsize'"),
    "inference_input_type": (_LITE, "nothing: inputs and outputs stay float. Leave it out"),
    "qconfig_mapping": ("torch.ao", "op_type_dict and op_name_dict"),
    "qconfig_dict": ("torch.ao", "op_type_dict and op_name_dict"),
    "qconfig_spec": ("torch.ao", "op_type_dict and op_name_dict"),
    "inplace": ("torch.ao", "nothing: the model is never changed. Leave it out"),
    "dtype": ("torch.ao", "op_type_dict={'Linear': {'weight': {'dtype': ['int8']}}}"),
    "quantizer": ("torch.ao", "op_type_dict and op_name_dict"),
    "alpha": ("SmoothQuant", "smoothquant_args={'alpha': 0.5}"),
    "smooth_quant": ("SmoothQuant", "recipes={'smooth_quant': True}"),
    "metric": ("other tools", "eval_metric"),
    "eval_fn": ("other tools", "eval_func"),
    "dataloader": ("other tools", "{calibration}"),
    "calib_loader": ("other tools", "{calibration}"),
    "example_input": ("other tools", "example_inputs"),
}
"""By the name of an argument: whose it is, and what to give here instead."""


FOREIGN_VERBS: Mapping[str, tuple[str, str]] = {
    "quantize": ("NNCF", "autotune(model, data)"),
    "quantize_with_accuracy_control": ("NNCF", "autotune(model, data, eval_func)"),
    "compress_weights": ("NNCF", "autotune(model, data, approach='weight_only')"),
    "fit": (_INC, "autotune(model, data, eval_func)"),
    "PostTrainingQuantConfig": (_INC, "its fields are arguments of autotune"),
    "quantize_static": (_ORT, "autotune(model, data), and save(tuned, path)"),
    "quantize_dynamic": ("other tools", "autotune(model, data, approach='dynamic')"),
    "quantize_": ("torchao", "autotune(model, data, approach='dynamic')"),
    "prepare_pt2e": ("torchao", "autotune(model, data)"),
    "convert_pt2e": ("torchao", "convert(tuned)"),
    "InferenceSession": ("onnxruntime", "session(tuned, options, providers=[...])"),
    "TFLiteConverter": (_LITE, "to_litert(tuned, data, path)"),
}
"""By the name of a verb: whose it is, and what there is here instead."""

DATA_NAMES = dict.fromkeys(("calib_dataloader", "calib_dataset", "dataloader", "dataset", "inputs"), "data")
"""What users call the data of a verb that takes no other."""


def missing_attribute(module: str, verbs: Iterable[str]) -> Callable[[str], Any]:
    """What is called for an attribute that a module lacks: it says which verb does what was looked for.

    Args:
        module: its name.
        verbs: that it has.
    """
    known = tuple(verbs)

    def missing(name: str) -> Any:
        text = f"module {module!r} has no attribute {name!r}."
        whose, instead = FOREIGN_VERBS.get(name, ("", ""))
        hint = f" It is one of {whose}; here: {instead}." if whose else did_you_mean(name, known)
        raise AttributeError(f"{text}{hint}")

    return missing


def takes_foreign_names(
    taken: Mapping[str, str] | None = None,
) -> Callable[[Callable[Parameters, Result]], Callable[Parameters, Result]]:
    """Let a verb take some names of its framework's own, and explain all others that it does not have.

    Args:
        taken: the framework's name of an argument to the one here, such as `sess_options` to `session_options`.
    """

    def decorate(function: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
        call: Callable[..., Result] = function
        known = inspect.signature(function).parameters
        aliases = {**{name: ours for name, ours in _LOADERS.items() if name not in known}, **(taken or {})}

        @wraps(function)
        def understood(*args: Any, **given: Any) -> Result:
            named: dict[str, Any] = {}
            for name, value in given.items():
                ours = aliases.get(name, name)
                if ours not in known:
                    raise UnknownArgumentError(_explained(function.__name__, name, known))
                if ours in named or (ours != name and ours in given):
                    raise ArgumentError(f"{ours}: is given twice, also as {name!r}. Give it once.")
                named[ours] = value
            return call(*args, **named)

        return understood

    return decorate


def _explained(verb: str, name: str, known: Mapping[str, Any]) -> str:
    """Why there is no argument of this name, and what there is."""
    text = f"{verb}() has no argument {name!r}."
    if name in FOREIGN:
        whose, instead = FOREIGN[name]
        words = {
            "{calibration}": next((each for each in known if each.startswith("calib_data")), "the data"),
            "{evaluation}": next((each for each in known if each.startswith("eval_data")), "the data"),
        }
        for word, meant in words.items():
            instead = instead.replace(word, meant)
        text += f" It is one of {whose}; here: {instead}."
    else:
        text += did_you_mean(name, known)
    return f"{text}\nAllowed: {listing(known)}."
