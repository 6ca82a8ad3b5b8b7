"""Functions as models, and models with every operator at its default."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from inc_autotune import tf_ext
from inc_autotune.tf_ext.adaptor import TensorFlowAdaptor
from inc_autotune.tf_ext.emission.routes import Primitive, Route, route_of_node
from inc_autotune.tf_ext.graph.graph import Graph
from inc_autotune.tf_ext.measurement.kernel_trial import KERNELS, KernelSupport
from inc_autotune.tf_ext.model.candidate import Candidate
from inc_autotune.tf_ext.model.source import load_source
from inc_autotune.tf_ext.target.choices import GraphChoices

WITHOUT_VNNI = KernelSupport(
    saturating=frozenset(
        {Route(Primitive.MATMUL, True), *(Route(each, False) for each in Primitive if each != Primitive.DEPTHWISE)}
    ),
    halving=frozenset(Route(each, True) for each in Primitive if each != Primitive.MATMUL),
)
"""What a processor with AVX512 and without VNNI has."""

FULL, REDUCED, EVEN = "8 bits", "7 bits", "7 bits, doubled"
"""Forms of weights."""


def expected_form(route, support):
    """How weights of a route are written."""
    if route in support.reduced:
        return EVEN if route in support.halving else REDUCED
    return FULL


def forms_in(model):
    """Route and form of the weight of every integer operator of a model."""
    found = []
    for signature in model.signatures.values():
        graph = Graph(signature)
        for node in graph.nodes:
            if node.op in KERNELS:
                weight = graph.constant(graph.producer(node.input[1]).input[0]).astype(int)
                found.append((route_of_node(node, weight.shape), _form(weight)))
    return found


def _form(weight):
    if np.abs(weight).max() <= 64:
        return REDUCED
    return FULL if (weight % 2).any() else EVEN


def source_of(function, *specs):
    return load_source(tf.function(function, input_signature=list(specs), autograph=False).get_concrete_function())


def graph_of(source):
    return Graph(next(iter(source.signatures.values())))


def random(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def quantized(source, data, **choices):
    """Every operator at its default."""
    adaptor = TensorFlowAdaptor(choices=GraphChoices(**choices))
    model = Candidate(source)
    adaptor.calibrate(model, data, (100,))
    options = {operator: each[0] for operator, each in adaptor.query_fw_capability(model)["opwise"].items()}
    return adaptor.quantize({"op": options, "calib_iteration": 100, "recipe_cfgs": {}}, model, None)


def operators_in(candidate):
    return [node.op for node in next(iter(candidate.model.signatures.values())).graph_def.node]


def check_files(tuned, model, data, folder, name="x"):
    """A saved model, and one that its recipe makes again, give the very numbers of the tuned one.

    Args:
        tuned: of `model`, which has one input and one output.
        folder: is written.
        name: of the input.
    """
    got = tf_ext.convert(tuned)(data)
    tf_ext.save(tuned, folder)
    (saved,) = tf_ext.load(folder).signatures["serving_default"](**{name: tf.constant(data)}).values()
    np.testing.assert_array_equal(saved, got)
    again = tf_ext.apply_recipe(model, folder / "assets.extra" / "recipe.yaml")
    np.testing.assert_array_equal(tf_ext.convert(again)(data), got)
