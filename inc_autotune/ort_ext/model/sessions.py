"""Makes inference sessions that share weights, of models of any size."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeAlias

import numpy as np
import onnxruntime as ort
from onnx import helper

from inc_autotune.core.arguments import reading_argument, shown
from inc_autotune.core.arrays import Array
from inc_autotune.core.data import describe
from inc_autotune.core.errors import ArgumentError, ModelError, QuantizationError, did_you_mean, foreign_errors_as
from inc_autotune.ort_ext.graph import (
    GraphModel,
    MappedWeights,
    embedded,
    embedded_bytes,
    headers,
    is_in_file,
    without_unused,
)
from inc_autotune.ort_ext.model.unsigned_weights import with_unsigned_weights
from inc_autotune.ort_ext.model.writing import LARGEST_EMBEDDED, write_model
from inc_autotune.ort_ext.target import CPU_PROVIDER, OPTIMIZATION_LEVELS

Provider: TypeAlias = "str | tuple[str, dict[str, Any]]"
SessionOptions: TypeAlias = "ort.SessionOptions | Callable[[], ort.SessionOptions] | None"


_ERRORS_ONLY = 3
_FOLDER_OF_DATA = "session.model_external_initializers_file_folder_path"


def make_session(
    model: GraphModel,
    providers: Sequence[Provider] | None = None,
    session_options: SessionOptions = None,
    *,
    extra_outputs: Sequence[str] = (),
    graph_optimization_level: str | None = None,
    one_thread: bool = False,
    largest_embedded: int = LARGEST_EMBEDDED,
) -> ort.InferenceSession:
    """A session of a model.

    On the CPU weights of int8 whose products would saturate there become uint8, see `with_unsigned_weights`.

    Options that this function makes, or that a function given for them makes, get the weights as they lie in memory:
    the graph alone is serialized. An object with options cannot be copied and would remember the weights, which makes
    it useless for any other model. It is used as it is, and the weights are serialized with the graph, or written to
    a temporary folder when they are too large for that.

    Args:
        model: the graph and its weights; not changed.
        providers: execution providers, each a name or (name, options), in order of preference. None: the CPU.
        session_options: the caller's options, never changed; or a function that makes new ones for each session, which
            is faster.
        extra_outputs: tensors inside the graph that become outputs too, after its own; without effect where they are.
        graph_optimization_level: one of `OPTIMIZATION_LEVELS`; None leaves what the options say.
        one_thread: whether it computes in the calling thread alone, whatever the options say.
        largest_embedded: bytes of a model that can be one proto.

    Raises:
        ArgumentError: a provider is not available, options are no options, or the level is unknown or contradicts them.
        ModelError: onnxruntime cannot load the model.
    """
    providers = check_providers(providers)
    level = check_optimization_level(graph_optimization_level)
    proto = without_unused(model.proto)
    own = {output.name for output in proto.graph.output}
    proto.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in extra_outputs if name not in own)
    part = GraphModel(proto, model.weights, model.folder)
    if first_provider(providers) == CPU_PROVIDER:
        part = with_unsigned_weights(part)
    if isinstance(session_options, ort.SessionOptions):
        _check_same_level(session_options, level)
        with _in_one_thread(session_options) if one_thread else nullcontext():
            return _self_contained(part, providers, session_options, largest_embedded)
    options = _new_options(session_options)
    if level is not None:
        options.graph_optimization_level = level
    values = _shared_weights(part)
    _add_weights(options, values, model.folder)
    with _in_one_thread(options) if one_thread else nullcontext():
        return _load(part.proto.SerializeToString(), providers, options)  # reads the values, which live until here


def run_session(session: ort.InferenceSession, inputs: Mapping[str, Array], what: str) -> list[Array]:
    """The outputs of a quantized model.

    Args:
        session: of the model.
        inputs: by name, such that the fp32 model takes them.
        what: was quantized, for the message.

    Raises:
        QuantizationError: onnxruntime fails on them.
    """
    try:
        outputs: list[Array] = session.run(None, inputs)
    except Exception as error:  # kernels raise errors of many types
        raise QuantizationError(
            f"{what} cannot run on {describe(dict(inputs))}, onnxruntime {ort.__version__} raises "
            f"{type(error).__name__}: {error}\nKeep the operators around the node it names in fp32: "
            'op_name_dict={name: {"weight": {"dtype": ["fp32"]}}}.'
        ) from error
    return outputs


def has_one_thread(options: ort.SessionOptions) -> bool:
    """Whether a session with these options computes in the calling thread alone."""
    # Where an onnxruntime has no such option, every session has threads of its own.
    own_threads = getattr(options, "use_per_session_threads", True)
    return options.intra_op_num_threads == 1 and own_threads and _is_sequential(options)


def check_providers(providers: Sequence[Provider] | None) -> list[Provider]:
    """The execution providers as a list; the CPU for None.

    Raises:
        ArgumentError: it is no list of names or (name, options), or this onnxruntime has no such provider.
    """
    if providers is None:
        return [CPU_PROVIDER]
    with reading_argument("providers", providers):
        return _checked_providers(providers)


def _checked_providers(providers: Sequence[Provider]) -> list[Provider]:
    available = ort.get_available_providers()
    allowed = f"Available in this installation of onnxruntime: {', '.join(available)}"
    if isinstance(providers, str) or not isinstance(providers, Sequence) or not providers:
        raise ArgumentError(f"providers={shown(providers)}: not a list of execution providers. {allowed}.")
    for provider in providers:
        name, settings = provider if isinstance(provider, tuple) and len(provider) == 2 else (provider, {})
        if not isinstance(name, str) or not isinstance(settings, dict):
            raise ArgumentError(
                f"providers: {shown(provider)} is neither a name nor (name, options), options a dict. {allowed}."
            )
        if name not in available:
            raise ArgumentError(
                f"providers: {name!r} is not available. {allowed}. Install the package of onnxruntime that has it, or "
                f"leave it out.{did_you_mean(name, available)}"
            )
    return list(providers)


def first_provider(providers: Sequence[Provider] | None) -> str:
    """Name of the execution provider that is preferred; the CPU for None."""
    provider = providers[0] if providers else CPU_PROVIDER
    return provider if isinstance(provider, str) else provider[0]


def check_optimization_level(level: str | None) -> ort.GraphOptimizationLevel | None:
    """The level of graph optimization as onnxruntime knows it; None for None.

    Raises:
        ArgumentError: it is none of `OPTIMIZATION_LEVELS`.
    """
    if level is None:
        return None
    name = level.upper().removeprefix("ORT_") if isinstance(level, str) else None
    if name not in OPTIMIZATION_LEVELS:
        raise ArgumentError(
            f"graph_optimization_level={shown(level)}: unknown. Allowed: {', '.join(OPTIMIZATION_LEVELS)}, or None."
            f"{did_you_mean(name, OPTIMIZATION_LEVELS)}"
        )
    return getattr(ort.GraphOptimizationLevel, f"ORT_{name}")


@contextmanager
def _in_one_thread(options: ort.SessionOptions) -> Iterator[None]:
    """Let sessions made with these options compute in the calling thread; a session keeps what they were then."""
    wanted = {
        "intra_op_num_threads": 1,
        "use_per_session_threads": True,  # which older ones do not have, since it always is so there
        "execution_mode": ort.ExecutionMode.ORT_SEQUENTIAL,
    }
    own = {name: getattr(options, name) for name in wanted if hasattr(options, name)}
    try:
        for name in own:
            setattr(options, name, wanted[name])
        yield
    finally:
        for name, value in own.items():
            setattr(options, name, value)


def _is_sequential(options: ort.SessionOptions) -> bool:
    return bool(options.execution_mode == ort.ExecutionMode.ORT_SEQUENTIAL)


def _check_same_level(options: ort.SessionOptions, level: ort.GraphOptimizationLevel | None) -> None:
    if level is not None and options.graph_optimization_level != level:
        raise ArgumentError(
            f"graph_optimization_level={level.name} and session_options with {options.graph_optimization_level.name} "
            "contradict each other. Set session_options.graph_optimization_level, or leave one of the two out."
        )


def _new_options(session_options: SessionOptions) -> ort.SessionOptions:
    if session_options is None:
        options = ort.SessionOptions()
        options.log_severity_level = _ERRORS_ONLY  # it would print warnings about a graph that the user did not write
        return options
    options = session_options
    if callable(session_options):
        with foreign_errors_as(_options_failed):
            options = session_options()
    if not isinstance(options, ort.SessionOptions):
        raise ArgumentError(
            f"session_options={shown(session_options)}: {'returned' if callable(session_options) else 'is'} a "
            f"{type(options).__name__}. Allowed: onnxruntime.SessionOptions, a function that makes them, or None."
        )
    return options


def _options_failed(error: Exception) -> ArgumentError:
    return ArgumentError(
        f"session_options: the function raised {type(error).__name__}: {error}. Allowed: onnxruntime.SessionOptions, a "
        "function without arguments that makes them, or None."
    )


def _shared_weights(model: GraphModel) -> dict[str, ort.OrtValue]:
    """The weights that a session gets from memory, without a copy where they are contiguous."""
    every = headers(model.proto)
    names = [tensor.name for tensor in every if model.folder is None or not is_in_file(tensor)]
    if isinstance(model.weights, MappedWeights):
        model.weights.check({tensor.name for tensor in every} - set(names))  # onnxruntime reads these by itself
    return {name: ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(model.weights[name])) for name in names}


def _add_weights(options: ort.SessionOptions, values: dict[str, ort.OrtValue], folder: Path | None) -> None:
    try:
        options.add_external_initializers(list(values), list(values.values()))
    except RuntimeError as error:
        raise ArgumentError(
            "session_options: the function returned options that a session was made with before. It must make new ones "
            "at each call. To use one object again and again, pass the object itself."
        ) from error
    if folder is not None:
        options.add_session_config_entry(_FOLDER_OF_DATA, str(folder.resolve()))


def _self_contained(
    model: GraphModel, providers: list[Provider], options: ort.SessionOptions, largest: int
) -> ort.InferenceSession:
    """A session whose model brings its weights with it, so that the options need not."""
    if embedded_bytes(model) <= largest:
        return _load(embedded(model).SerializeToString(), providers, options)
    with TemporaryDirectory(prefix="inc_autotune_", ignore_cleanup_errors=True) as folder:
        path = Path(folder) / "model.onnx"
        write_model(model.proto, model.weights, path, largest_embedded=largest)
        return _load(str(path), providers, options)


def _load(model: bytes | str, providers: list[Provider], options: ort.SessionOptions) -> ort.InferenceSession:
    with foreign_errors_as(_not_loaded):  # of many types, since text of a damaged model may be none
        return ort.InferenceSession(model, options, providers=providers)


def _not_loaded(error: Exception) -> ModelError:
    advice = ""
    if re.search(r"opset|IR version", str(error), re.IGNORECASE):
        advice = (
            " Convert the model with onnx.version_converter.convert_version, or install a newer onnxruntime, if it "
            "does not support the opset or the IR version."
        )
    return ModelError(f"model: onnxruntime {ort.__version__} cannot load it: {error}{advice}")
