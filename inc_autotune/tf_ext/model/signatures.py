"""Graphs as callables with the names and types of the model's signatures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf
from tensorflow.core.framework.graph_pb2 import GraphDef
from tensorflow.python.eager import context

from inc_autotune.core.errors import DataError, EvaluationError, did_you_mean
from inc_autotune.core.result import Recipe
from inc_autotune.tf_ext.graph import GraphModel, SignatureGraph, TensorDescription
from inc_autotune.tf_ext.model.variables import Variables

BATCH_SIZE = 32
"""Of `predict`, as of Keras."""

SAMPLED_ROWS = 4
"""Of each weight, compared with what they should be after an evaluation."""


class SignatureCallable:
    """One signature of a model: tensors or arrays in by name, tensors out by name.

    Attributes:
        name: of the signature.
        inputs: what it takes, in its order.
        outputs: what it returns, in its order.
        ordered: whether the order of several inputs means something.
        tables: objects that hold the lookup tables it reads.
        function: the same as a ConcreteFunction, which takes tensors in the order of `inputs`.
    """

    def __init__(self, graph: SignatureGraph, variables: Mapping[str, tf.Variable]) -> None:
        self.name = graph.name
        self.inputs: tuple[TensorDescription, ...] = graph.inputs
        self.outputs: tuple[TensorDescription, ...] = graph.outputs
        self.ordered = graph.ordered or len(graph.inputs) == 1
        self.function = _traced(graph, variables)
        self._variables = variables  # a function of TensorFlow does not keep those it reads
        self.tables = tuple(table.holder for table in graph.tables.values())

    def __call__(self, *args: Any, **kwargs: Any) -> dict[str, tf.Tensor]:
        """Run it.

        Args:
            args: inputs in the order of `inputs`, where it means something, or one list of them, or one dict by name.
            kwargs: inputs by name.

        Returns:
            Output tensors by name, in the order of `outputs`.

        Raises:
            DataError: an input is missing, unknown or given twice.
        """
        values = self._by_name(args, kwargs)
        results = self.function(*(tf.convert_to_tensor(values[each.name], each.dtype) for each in self.inputs))
        return {each.name: results[each.name] for each in self.outputs}

    def _by_name(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Mapping[str, Any]:
        names = [each.name for each in self.inputs]
        if len(args) == 1 and len(names) > 1 and isinstance(args[0], list | tuple):
            args = tuple(args[0])
        if len(args) == 1 and isinstance(args[0], Mapping):
            by_position = dict(args[0])
        else:
            by_position = dict(zip(names, args, strict=False))
        given = {**by_position, **kwargs}
        problems = {
            "missing": [name for name in names if name not in given],
            "unknown": [name for name in given if name not in names],
            "given twice": [name for name in kwargs if name in by_position],
        }
        found = [f"{problem}: {', '.join(map(repr, names))}" for problem, names in problems.items() if names]
        if by_position and not self.ordered and not isinstance(args[0], Mapping):
            found.append("the order of its inputs is not known: give them by name")
        if found or len(args) > max(len(names), 1):
            hint = did_you_mean(problems["unknown"][0], names) if problems["unknown"] else ""
            raise DataError(
                f"signature {self.name!r} takes {'; '.join(map(str, self.inputs))}, but was called with {len(args)} "
                f"positional and {len(kwargs)} named inputs ({'; '.join(found) or 'too many'}).{hint}"
            )
        return given


class SignatureModel:
    """A model as a callable: what `eval_func` gets and what is saved.

    `model.signatures["serving_default"](x=...)` returns a dict of outputs by name, like a SavedModel that was loaded.
    `model(x)` calls the default signature and returns its tensor, or the dict where it has several outputs.

    Args:
        model: its graphs and weights.
        variables: those of other models, to be shared; None: none.
        recipe: what the model was made by; None where there is none.
    """

    def __init__(self, model: GraphModel, variables: Variables | None = None, recipe: Recipe | None = None) -> None:
        self.recipe = recipe
        made = Variables() if variables is None else variables
        arrays = {id(array): array for graph in model.signatures.values() for array in graph.weights.values()}
        self._held = {key: made.of(array) for key, array in arrays.items()}
        self._callables: dict[str, SignatureCallable] = {}
        for name, graph in model.signatures.items():
            own = {key: self._held[id(array)].variable for key, array in graph.weights.items()}
            self._callables |= dict.fromkeys((name, *graph.aliases), SignatureCallable(graph, own))

    @property
    def weights(self) -> tuple[tf.Variable, ...]:
        """The variables that the signatures share, one for each distinct array."""
        return tuple(each.variable for each in self._held.values())

    def check_weights(self) -> None:
        """Look whether an evaluation wrote into the weights, which all candidates share: some values of each.

        Raises:
            EvaluationError: it did.
        """
        for each in self._held.values():
            if each.array.ndim == 0 or each.array.size == 0 or each.array.dtype.kind != "f":
                continue
            rows = np.linspace(0, len(each.array) - 1, min(len(each.array), SAMPLED_ROWS)).astype(np.int64)
            if not np.array_equal(each.array[rows], tf.gather(each.variable, rows).numpy(), equal_nan=True):
                raise EvaluationError(
                    f"eval_func wrote into a weight of shape {each.array.shape} of the model it was given, which other "
                    "candidates share. Let it change a model of its own, such as one that it loads."
                )

    @property
    def signatures(self) -> Mapping[str, SignatureCallable]:
        """The signatures by name; the first one is the default."""
        return MappingProxyType(self._callables)

    @property
    def default(self) -> SignatureCallable:
        """The signature that calling the model calls."""
        return next(iter(self._callables.values()))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        results = self.default(*args, **kwargs)
        return next(iter(results.values())) if len(results) == 1 else results

    def predict(self, x: Any, batch_size: int | None = None, verbose: object = 0, steps: int | None = None) -> Any:
        """The outputs of all samples as arrays, as `predict` of Keras gives them.

        Args:
            x: samples along the first dimension: an array, a list of one for each input, or a dict of them by name; or
                batches of these, in a `tf.data.Dataset` or another iterable, where of a tuple only the first counts.
            batch_size: of arrays; None: 32, or what the signature fixes.
            verbose: nothing is printed whatever it says.
            steps: batches that are read; None: all.

        Returns:
            An array [samples, ...], or a dict of them by name where there are several outputs.

        Raises:
            DataError: there is no batch, or an input is missing or unknown.
        """
        shape = self.default.inputs[0].spec.shape
        size = batch_size or (shape[0] if shape.rank else None) or BATCH_SIZE
        made = [self(each) for each in islice(_batches(x, size), steps)]
        if not made:
            raise DataError("predict: there is no batch. Give samples along the first dimension, or batches.")
        if not isinstance(made[0], Mapping):
            return np.concatenate([np.asarray(each) for each in made])
        return {name: np.concatenate([np.asarray(each[name]) for each in made]) for name in made[0]}

    if not TYPE_CHECKING:  # which knows better what there is

        def __getattr__(self, name: str) -> Any:
            raise AttributeError(
                f"{type(self).__name__} has no attribute {name!r}: it is made of graphs, and is no Keras model. "
                "Compute the score from model(x), or from model.predict(x)."
            )


def _batches(x: Any, size: int) -> Iterator[Any]:
    """Arrays cut into batches, or the inputs of what are batches already."""
    if isinstance(x, Mapping):
        for start in range(0, len(next(iter(x.values()), ())), size):
            yield {name: value[start : start + size] for name, value in x.items()}
    elif hasattr(x, "shape"):
        for start in range(0, len(x), size):
            yield x[start : start + size]
    elif isinstance(x, list | tuple) and x and all(hasattr(each, "shape") for each in x):
        for start in range(0, len(x[0]), size):
            yield [each[start : start + size] for each in x]
    else:
        yield from (each[0] if isinstance(each, tuple) else each for each in x)


def _traced(graph: SignatureGraph, variables: Mapping[str, tf.Variable]) -> Any:
    given = {each.tensor for each in graph.inputs} | {f"{name}:0" for name in (*graph.weights, *graph.tables)}
    body = GraphDef(versions=graph.graph_def.versions, library=graph.graph_def.library)
    body.node.extend(node for node in graph.graph_def.node if f"{node.name}:0" not in given)
    for node in body.node:
        # What is given is there before anything runs.
        node.input[:] = [each for each in node.input if not (each[0] == "^" and f"{each[1:]}:0" in given)]
    read = {each if ":" in each else f"{each}:0" for node in body.node for each in node.input}
    computed = [each.tensor for each in graph.outputs if each.tensor not in given]

    for function in body.library.function:  # importing puts them into the graph, but they run from the context
        context.context().add_function_def(function)

    def serve(*arguments: tf.Tensor) -> dict[str, tf.Tensor]:
        values = {each.tensor: value for each, value in zip(graph.inputs, arguments, strict=True)}
        values |= {f"{name}:0": variables[name].read_value() for name in graph.weights}
        capture = tf.compat.v1.get_default_graph().capture
        values |= {f"{name}:0": capture(table.handle) for name, table in graph.tables.items()}
        used = {tensor: value for tensor, value in values.items() if tensor in read}
        made = tf.graph_util.import_graph_def(body, input_map=used, return_elements=computed, name="")
        values |= dict(zip(computed, made, strict=True))
        return {each.name: _declared(tf.identity(values[each.tensor]), each) for each in graph.outputs}

    specs = [each.spec for each in graph.inputs]
    return tf.function(serve, input_signature=specs, autograph=False).get_concrete_function()


def _declared(tensor: tf.Tensor, output: TensorDescription) -> tf.Tensor:
    """The tensor with what the fp32 model knew of its shape: TensorFlow cannot infer it behind some operators."""
    shape = tf.TensorShape(output.shape)
    if tensor.shape.is_compatible_with(shape):
        tensor.set_shape(shape)
    return tensor
