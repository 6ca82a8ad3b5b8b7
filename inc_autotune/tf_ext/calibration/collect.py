"""Runs of the fp32 model, with tensors inside it among its outputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import tensorflow as tf

from inc_autotune.core.arrays import Array
from inc_autotune.graphs import Feed, Values, batch_error
from inc_autotune.tf_ext.calibration.inner_tensors import with_inner_tensors
from inc_autotune.tf_ext.graph import SignatureGraph, TensorDescription, node_name
from inc_autotune.tf_ext.model import SignatureCallable


def watching(
    signature: SignatureGraph, function: SignatureCallable, tensors: Sequence[str]
) -> Callable[[Feed, int], Values]:
    """A signature as `calibrate` runs it.

    Args:
        signature: of the fp32 model.
        function: what `with_tensors` made of it.
        tensors: inside the signature, that `function` returns too.
    """

    def run(feed: Feed, samples: int) -> Values:
        try:
            outputs = {name: value.numpy() for name, value in function(**feed.inputs).items()}
        except tf.errors.OpError as error:
            raise batch_error("calib_dataset", feed, samples, error) from error
        own = [outputs[output.name] for output in signature.outputs]
        return Values(own, {tensor: outputs[_key(tensor)] for tensor in tensors})

    return run


def run_inside(signature: SignatureGraph, tensors: Sequence[str], feed: Feed) -> Mapping[str, Array]:
    """What float32 tensors of a signature are for some inputs; see `run_steps` for those inside functions."""
    outputs = with_tensors(signature, tensors)(**feed.inputs)
    return {tensor: outputs[_key(tensor)].numpy() for tensor in tensors}


def run_steps(signature: SignatureGraph, tensors: Sequence[str], feed: Feed) -> Mapping[str, Sequence[Array]]:
    """What float32 tensors inside functions are for some inputs, as [rows, channels], at each run of the function."""
    inner, found = with_inner_tensors(signature, tensors)
    returned = {f"{key} {index}": each for key, pair in found.items() for index, each in enumerate(pair)}
    outputs = _returning(inner, returned)(**feed.inputs)
    return {
        tensor: np.split(outputs[f"{tensor} 0"].numpy(), np.cumsum(outputs[f"{tensor} 1"].numpy())[:-1])
        for tensor in tensors
    }


def with_tensors(signature: SignatureGraph, tensors: Sequence[str]) -> SignatureCallable:
    """The signature with tensors inside it among its outputs; of those inside functions the rows of all runs."""
    known = {node.name for node in signature.graph_def.node}
    inner = [each for each in tensors if node_name(each) not in known]
    names = {each: each if ":" in each else f"{each}:0" for each in tensors}
    if inner:
        signature, found = with_inner_tensors(signature, inner)
        names |= {tensor: rows for tensor, (rows, _) in found.items()}
    return _returning(signature, {_key(each): name for each, name in names.items()})


def _returning(signature: SignatureGraph, tensors: Mapping[str, str]) -> SignatureCallable:
    """The signature with more outputs, by name."""
    extra = (TensorDescription(name, tf.float32, None, tensor) for name, tensor in tensors.items())
    variables = {name: tf.Variable(value, trainable=False) for name, value in signature.weights.items()}
    return SignatureCallable(replace(signature, outputs=(*signature.outputs, *extra)), variables)


def outputs_or_none(signature: SignatureGraph, function: SignatureCallable, feed: Feed) -> list[Array] | None:
    """The signature's own outputs for a feed; None where it does not take it.

    Args:
        signature: of the fp32 model.
        function: what `with_tensors` made of it.
        feed: inputs that the user may not have given like that.
    """
    try:
        outputs = function(**feed.inputs)
    except tf.errors.OpError:
        return None
    return [outputs[output.name].numpy() for output in signature.outputs]


def _key(tensor: str) -> str:
    """A name among the outputs that no output of a signature has."""
    return f"inside {tensor}"
