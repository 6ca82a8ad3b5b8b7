"""What recurrences multiply with the weights of their states, beside what onnxruntime computes of it."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from inc_autotune.ort_ext.calibration.hidden_states import with_hidden_states
from inc_autotune.ort_ext.graph import Graph
from inc_autotune.ort_ext.model import make_session
from inc_autotune.ort_ext.model.source import load_source
from inc_autotune.ort_ext.operators import directions, find_operators, recurrent_products
from tests.ort.recurrent_models import BATCH, DATA, FEATURES, GATES, HIDDEN, STEPS, tagger
from tests.ort.small_models import Array, GraphWriter

CASES: dict[str, dict[str, Any]] = {
    "forward": {},
    "reverse": {"direction": "reverse", "bias": True},
    "bidirectional": {"direction": "bidirectional", "bias": True, "states": True},
    "softsign": {"activations": ["Sigmoid", "Softsign"], "states": True},
    "linear": {"direction": "bidirectional", "bias": True, "states": True, "linear_before_reset": 1},
}


def factors(model: onnx.ModelProto, *others: str) -> tuple[list[Array], list[Array]]:
    """What the recurrence multiplies, in the order of its products, and other tensors."""
    graph = Graph(load_source(model))
    found = with_hidden_states(graph, find_operators(graph).found)
    wanted = [*found.factors["rnn"], *others]
    session = make_session(found.model, extra_outputs=[each for each in wanted if each != "x"])
    names = [each.name for each in session.get_outputs()]
    made = {"x": DATA[0], **dict(zip(names, session.run(None, {"x": DATA[0]}), strict=True))}
    values = [made[each] for each in wanted]
    return values[: len(wanted) - len(others)], values[len(wanted) - len(others) :]


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


@pytest.mark.parametrize("case", CASES)
def test_a_gru_of_these_products_has_the_states_that_onnxruntime_computes(case: str) -> None:
    model = tagger("GRU", **CASES[case])
    graph = Graph(load_source(model))
    node = graph.by_name["rnn"]
    found, (states,) = factors(model, "rnn.out")
    products = list(zip(recurrent_products(graph, node), found, strict=True))
    bias = graph.constant("rnn.bias") if CASES[case].get("bias") else np.zeros((2, 6 * HIDDEN), np.float32)
    bend = (lambda x: x / (1 + np.abs(x))) if case == "softsign" else np.tanh
    for place, direction in enumerate(directions(node)):
        own = {each.factor: (value, each.matrix(graph)) for each, value in products if each.place == place}
        count = len(own["state"][0])
        # Without a first state nothing is known of the first step.
        kept = slice(None) if count == STEPS else slice(0, -1) if direction == "reverse" else slice(1, None)
        made = {factor: value @ matrix.T for factor, (value, matrix) in own.items()}
        of_input, of_state = np.split(bias[place], 2)
        x, h = made["input"][kept] + of_input, made["state"] + of_state[: made["state"].shape[-1]]
        update, reset = (sigmoid(x[..., part] + h[..., part]) for part in (slice(HIDDEN), slice(HIDDEN, 2 * HIDDEN)))
        last = slice(2 * HIDDEN, None)
        inner = reset * h[..., last] if case == "linear" else made["reset state"] + of_state[last]
        result = (1 - update) * bend(x[..., last] + inner) + update * own["state"][0]
        np.testing.assert_allclose(result, states[kept, place], atol=1e-5)


@pytest.mark.parametrize("op_type", ["LSTM", "RNN"])
def test_the_states_of_others_are_those_of_the_step_before_behind_the_first_one(op_type: str) -> None:
    model = tagger(op_type, direction="bidirectional", states=True)
    (_, forward, _, reverse), (states,) = factors(model, "rnn.out")
    first = next(numpy_helper.to_array(each) for each in model.graph.initializer if each.name == "rnn.first")
    np.testing.assert_array_equal(forward, np.concatenate([first[:1], states[:-1, 0]]))
    np.testing.assert_array_equal(reverse, np.concatenate([states[1:, 1], first[1:]]))


def test_nothing_but_zeros_stands_behind_the_end_of_a_sequence() -> None:
    (_, forward, _, reverse), _ = factors(tagger("GRU", direction="bidirectional", lengths=True, linear_before_reset=1))
    for states in (forward, reverse):
        assert states.shape == (STEPS - 1, BATCH, HIDDEN)
        assert states[:, 0].any(axis=-1).all()
        assert not states[1:, 2].any()  # its length is 1


def test_all_states_are_computed_where_the_model_reads_the_last_alone() -> None:
    found = []
    for output in ("rnn.out", ""):
        graph = GraphWriter()
        weights = [graph.random(f"rnn.{size}", 1, GATES["LSTM"] * HIDDEN, size) for size in (FEATURES, HIDDEN)]
        graph.add("LSTM", "x", *weights, name="rnn", outputs=2, hidden_size=HIDDEN)
        graph.nodes[-1].output[0] = output
        graph.add("Identity", "rnn.out1", name="last")
        (_, states), _ = factors(graph.model({"x": (TensorProto.FLOAT, [STEPS, BATCH, FEATURES])}, 3))
        found.append(states)
    assert found[0].shape == (STEPS - 1, BATCH, HIDDEN)
    np.testing.assert_array_equal(*found)


def test_a_model_without_recurrences_stays_as_it_is() -> None:
    writer = GraphWriter()
    writer.linear("x", "one", FEATURES, 4)
    graph = Graph(load_source(writer.model({"x": (TensorProto.FLOAT, ["batch", FEATURES])}, 2)))
    found = with_hidden_states(graph, find_operators(graph).found)
    assert found.model is graph.model
    assert found.factors == {}
