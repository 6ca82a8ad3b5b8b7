"""GraphDefs, SavedModels and recipes of TensorFlow."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import tensorflow as tf
import yaml
from tensorflow.core.framework.graph_pb2 import GraphDef
from tensorflow.core.protobuf.saved_model_pb2 import SavedModel
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from inc_autotune import tf_ext
from inc_autotune.tf_ext.model.signatures import SignatureModel
from tests.fuzz.core_kinds import mutated_yaml
from tests.fuzz.mutators import mutate_bytes, mutate_message
from tests.fuzz.outcome import LARGEST_EXACT, Attempt, WrongResultError, are_extreme
from tests.tf.small_models import chain_data, convolutions, dense_chain, frozen_graph, image_data, two_signatures

tf.get_logger().setLevel(logging.ERROR)


def tuned_of(model: Any, data: Any, **arguments: Any) -> tf_ext.TunedModel:
    return tf_ext.autotune(model, data, objective="modelsize", progress=False, **arguments)


def all_weights(graph: Any) -> list[Any]:
    """Weights of a signature, small ones too, which are constants of its graph."""
    constants = [node.attr["value"].tensor for node in graph.graph_def.node if node.op == "Const"]
    return [*graph.weights.values(), *map(tf.make_ndarray, constants)]


def check_close(expected: dict[str, Any], found: dict[str, Any], weights: Iterable[Any]) -> None:
    """Whether outputs are those of the fp32 model, up to rounding.

    Raises:
        WrongResultError: other names or shapes, or an error as large as the outputs.
    """
    if {name: each.shape for name, each in expected.items()} != {name: each.shape for name, each in found.items()}:
        raise WrongResultError(f"outputs {found.keys()} of other shapes")
    if are_extreme(weights):
        return
    for name, one in expected.items():
        exact = one.numpy()
        if exact.dtype != np.float32 or not exact.size or not np.abs(exact).max() < LARGEST_EXACT:
            continue
        scale = float(np.square(exact.astype(np.float64)).mean()) or 1.0
        error = float(np.square(exact.astype(np.float64) - found[name].numpy()).mean()) / scale
        if not error < 0.5:
            raise WrongResultError(f"the error at the output is {error:.2g} of its size")


def frozen(model: Any, shape: list[int | None]) -> Any:
    """A Keras model as a GraphDef, which keeps no variables of it."""
    function = tf.function(model).get_concrete_function(tf.TensorSpec(shape, tf.float32, name="x"))
    return convert_variables_to_constants_v2(function).graph.as_graph_def()


def graph_def(folder: Path) -> Attempt:
    """Frozen graphs with other bytes or fields."""
    cases = [(frozen_graph(), chain_data(2)), (frozen(convolutions(), [None, 16, 16, 3]), image_data(2))]

    def attempt(generator: Random) -> None:
        original, data = generator.choice(cases)
        path = folder / "model.pb"
        if generator.random() < 0.3:
            path.write_bytes(mutate_bytes(original.SerializeToString(), generator))
        else:
            graph = GraphDef()
            graph.CopyFrom(original)
            mutate_message(graph, generator)
            path.write_bytes(graph.SerializeToString())
        tuned = tuned_of(path, data)
        name = next(iter(tuned.source.signatures))
        (given,) = (each.name for each in tuned.source.signatures[name].inputs)
        fp32 = SignatureModel(tuned.source)
        check_close(
            fp32.signatures[name](**{given: tf.constant(data)}),
            tf_ext.convert(tuned).signatures[name](**{given: tf.constant(data)}),
            all_weights(tuned.source.signatures[name]),
        )

    return attempt


def saved_model(folder: Path) -> Attempt:
    """SavedModels whose graph, or a file of whose weights, is another."""
    saved = folder / "saved"
    two_signatures(saved)
    data = {"value": chain_data(2), "scale": np.ones((2, 1), np.float32)}

    def attempt(generator: Random) -> None:
        place = folder / "changed"
        _mutated_copy(saved, place, generator)
        tuned = tuned_of(place, data, signatures="serving_default")
        fp32 = SignatureModel(tuned.source)
        inputs = {name: tf.constant(each) for name, each in data.items()}
        check_close(
            fp32.signatures["serving_default"](**inputs),
            tf_ext.convert(tuned).signatures["serving_default"](**inputs),
            all_weights(tuned.source.signatures["serving_default"]),
        )

    return attempt


def tf_recipe(folder: Path) -> Attempt:
    """Recipes applied to their model."""
    data = chain_data(2)
    model = frozen(dense_chain(), [None, 32])
    document = yaml.safe_load(tuned_of(model, data).recipe.to_yaml())

    def attempt(generator: Random) -> None:
        path = folder / "recipe.yaml"
        path.write_bytes(mutated_yaml(document, generator))
        tf_ext.convert(tf_ext.apply_recipe(model, path))(tf.constant(data))

    return attempt


def tf_load(folder: Path) -> Attempt:
    """Saved quantized models with other graphs or weights."""
    saved = folder / "saved"
    tf_ext.save(tuned_of(frozen_graph(), chain_data(2)), saved)

    def attempt(generator: Random) -> None:
        place = folder / "changed"
        _mutated_copy(saved, place, generator)
        loaded = tf_ext.load(place)
        for each in loaded.signatures.values():
            _use(each)

    return attempt


def _use(signature: Any) -> None:
    """Run what was loaded; what TensorFlow says of a graph that cannot be run is its own affair."""
    inputs = signature.structured_input_signature[1]
    with suppress(tf.errors.OpError, TypeError, ValueError):
        signature(**{name: tf.zeros([size or 2 for size in each.shape], each.dtype) for name, each in inputs.items()})


def _mutated_copy(saved: Path, place: Path, generator: Random) -> None:
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(saved, place)
    graph = place / "saved_model.pb"
    kind = generator.random()
    if kind < 0.6:
        model = SavedModel.FromString(graph.read_bytes())
        mutate_message(model, generator)
        graph.write_bytes(model.SerializeToString())
        return
    files = [each for each in sorted(place.rglob("*")) if each.is_file() and each.suffix != ".yaml"]
    path = generator.choice(files)
    if kind < 0.9:
        path.write_bytes(mutate_bytes(path.read_bytes(), generator))
    else:
        path.unlink()
