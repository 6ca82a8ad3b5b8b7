"""Functions as models, and models with every operator at its default."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from inc_autotune.tf_ext.adaptor import TensorFlowAdaptor
from inc_autotune.tf_ext.calibration.plan import GraphChoices
from inc_autotune.tf_ext.graph.graph import Graph
from inc_autotune.tf_ext.model.candidate import Candidate
from inc_autotune.tf_ext.model.source import load_source


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
