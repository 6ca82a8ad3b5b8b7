"""Whatever a model holds, the answer is a model or one of our errors."""

from __future__ import annotations

import random

import pytest
from onnx import ModelProto

from inc_autotune import ort_ext
from inc_autotune.core.errors import AutotuneError
from tests.ort.small_models import conv_net, linear_chain, transformer_block, vectors


def node(model: ModelProto, op_type: str):
    return next(each for each in model.graph.node if each.op_type == op_type)


def recursive(model):
    function = model.functions.add(name="F", domain="l", input=["i"], output=["o"])
    function.node.add(op_type="F", domain="l", input=["i"], output=["o"])
    for imported in (function.opset_import.add(), model.opset_import.add()):
        imported.domain, imported.version = "l", 1


def three_operands(model):
    node(model, "MatMul").input.append("fc1.bias")


def vector_for_a_matrix(model):
    node(model, "Gemm").input[1] = node(model, "Gemm").input[2]


def unknown_element_type(model):
    model.graph.input[0].type.tensor_type.elem_type = 99


def opset_from_the_future(model):
    model.opset_import[0].version = 2**40


@pytest.mark.parametrize(
    "damage", [recursive, three_operands, vector_for_a_matrix, unknown_element_type, opset_from_the_future]
)
def test_what_a_model_cannot_have_is_an_error_of_ours(damage):
    model = linear_chain(gemm=damage is vector_for_a_matrix)
    damage(model)
    with pytest.raises(AutotuneError, match="model: "):
        ort_ext.autotune(model, vectors(2, 4), objective="modelsize", progress=False)


def mutate(model: ModelProto, generator: random.Random) -> None:
    """Change one thing of the graph: a name, a type, a shape, an attribute, an operand."""
    graph, kind = model.graph, generator.randrange(8)
    one = generator.choice(graph.node)
    tensor = generator.choice(graph.initializer)
    if kind == 0 and one.input:
        one.input[generator.randrange(len(one.input))] = generator.choice(
            ["", "x", "nowhere", one.output[0], tensor.name]
        )
    elif kind == 1 and one.input:
        del one.input[generator.randrange(len(one.input))]
    elif kind == 2:
        one.op_type = generator.choice(["Conv", "Gemm", "MatMul", "Reshape", "Unknown", "Concat", "If", ""])
    elif kind == 3 and tensor.dims:
        tensor.dims[generator.randrange(len(tensor.dims))] = generator.choice([0, 1, -1, 7, 2**40])
    elif kind == 4:
        tensor.data_type = generator.randrange(24)
    elif kind == 5 and one.attribute:
        attribute = generator.choice(one.attribute)
        attribute.type, attribute.i = generator.randrange(1, 12), generator.choice([0, -1, 2**40])
    elif kind == 6:
        tensor.raw_data = tensor.raw_data[: generator.randrange(len(tensor.raw_data) + 1)]
    else:
        model.opset_import[0].version = generator.choice([0, -1, 1, 6, 12, 99])


@pytest.mark.parametrize("make", [linear_chain, conv_net, transformer_block])
def test_mutated_graphs_are_tuned_or_refused(make):
    generator = random.Random(0)
    shape = (3, 8, 8) if make is conv_net else (6, 32) if make is transformer_block else (32,)
    tuned, refused = 0, 0
    for _ in range(25):
        model = make()
        for _ in range(generator.randint(1, 2)):
            mutate(model, generator)
        try:
            ort_ext.autotune(model, vectors(1, 2, *shape), objective="modelsize", progress=False)
            tuned += 1
        except AutotuneError:
            refused += 1
    assert tuned + refused == 25
    assert refused
