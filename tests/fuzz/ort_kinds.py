"""ONNX models, fp32 and saved ones, and recipes for them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import onnxruntime
import yaml
from onnx import ModelProto
from onnxruntime.capi import onnxruntime_pybind11_state as state

from inc_autotune import ort_ext
from tests.fuzz.core_kinds import mutated_yaml
from tests.fuzz.mutators import mutate_bytes, mutate_message
from tests.fuzz.outcome import LARGEST_EXACT, Attempt, WrongResultError, are_extreme
from tests.ort.small_models import conv_net, embedding_classifier, linear_chain, sentences, transformer_block, vectors

_DATA: dict[Callable[[], ModelProto], list[Any]] = {
    linear_chain: vectors(1, 2),
    conv_net: vectors(1, 2, 3, 8, 8),
    transformer_block: vectors(1, 2, 6, 32),
    embedding_classifier: sentences(1, 2),
}


RUNTIME_ERRORS = (
    RuntimeError,
    ValueError,
    *(each for each in vars(state).values() if isinstance(each, type) and issubclass(each, Exception)),
)


def tuned_of(model: Any, data: list[Any]) -> ort_ext.TunedModel:
    return ort_ext.autotune(model, data, objective="modelsize", progress=False)


def run(session: onnxruntime.InferenceSession, data: list[Any]) -> list[Any]:
    first = data[0] if isinstance(data[0], dict) else {session.get_inputs()[0].name: data[0]}
    return session.run(None, first)


def check_tuned(tuned: ort_ext.TunedModel, fp32: bytes, data: list[Any]) -> None:
    """Whether a model computes what the fp32 one does, up to rounding.

    Raises:
        WrongResultError: other shapes, or an error as large as the outputs.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = ort_ext.session(tuned)
    try:
        expected = run(onnxruntime.InferenceSession(fp32, options, providers=["CPUExecutionProvider"]), data)
    except RUNTIME_ERRORS:
        return  # the library mends more than onnxruntime takes, such as two nodes of one name
    found = run(session, data)
    if [each.shape for each in expected] != [each.shape for each in found]:
        raise WrongResultError(f"shapes {[each.shape for each in found]}, not {[each.shape for each in expected]}")
    if are_extreme(tuned.source.weights.values()):
        return
    for one, other in zip(expected, found, strict=True):
        if one.dtype != np.float32 or not one.size or not np.abs(one).max() < LARGEST_EXACT:
            continue
        scale = float(np.square(one.astype(np.float64)).mean()) or 1.0
        error = float(np.square(one.astype(np.float64) - other).mean()) / scale
        if not error < 0.5:
            raise WrongResultError(f"the error at the output is {error:.2g} of its size")


def onnx_bytes(folder: Path) -> Attempt:
    """Files of fp32 models with other bytes."""
    models = {make: make().SerializeToString() for make in _DATA}

    def attempt(generator: Random) -> None:
        make = generator.choice(list(models))
        path = folder / "model.onnx"
        path.write_bytes(mutate_bytes(models[make], generator))
        check_tuned(tuned_of(path, _DATA[make]), path.read_bytes(), _DATA[make])

    return attempt


def onnx_structure(folder: Path) -> Attempt:
    """fp32 models of which any field is another."""
    models = {make: make() for make in _DATA}

    def attempt(generator: Random) -> None:
        make = generator.choice(list(models))
        model = ModelProto()
        model.CopyFrom(models[make])
        mutate_message(model, generator)
        check_tuned(tuned_of(model, _DATA[make]), model.SerializeToString(), _DATA[make])

    return attempt


def onnx_recipe(folder: Path) -> Attempt:
    """Recipes applied to their model."""
    cases = []
    for make in (linear_chain, conv_net, transformer_block):
        tuned = tuned_of(make(), _DATA[make])
        cases.append((make(), _DATA[make], yaml.safe_load(tuned.recipe.to_yaml())))

    def attempt(generator: Random) -> None:
        model, data, document = generator.choice(cases)
        path = folder / "recipe.yaml"
        path.write_bytes(mutated_yaml(document, generator))
        tuned = ort_ext.apply_recipe(model, path)
        for form in ("qdq", "cpu") if tuned.settings.backend.name == "onnxrt_cpu_ep" else ("qdq",):
            run(ort_ext.session(tuned, form=form), data)

    return attempt


def onnx_load(folder: Path) -> Attempt:
    """Saved quantized models with other bytes or fields."""
    cases = []
    for make in (linear_chain, conv_net):
        path = folder / "saved.onnx"
        ort_ext.save(tuned_of(make(), _DATA[make]), path)
        cases.append((path.read_bytes(), _DATA[make]))

    def attempt(generator: Random) -> None:
        data, inputs = generator.choice(cases)
        path = folder / "changed.onnx"
        if generator.random() < 0.3:
            path.write_bytes(mutate_bytes(data, generator))
        else:
            model = ModelProto.FromString(data)
            mutate_message(model, generator)
            path.write_bytes(model.SerializeToString())
        session = ort_ext.session(ort_ext.load(path))
        with suppress(*RUNTIME_ERRORS):  # what a runtime says of inputs that a model does not take is its own affair
            run(session, inputs)

    return attempt
