"""A few seeded inputs of each kind, in this process. `python -m benchmarks.fuzz` tries as many as one likes."""

from __future__ import annotations

from importlib.util import find_spec
from random import Random

import pytest

from inc_autotune.core.errors import RecipeError
from tests.fuzz.mutators import mutate_bytes, mutate_document
from tests.fuzz.outcome import KINDS, attempt_of, outcome

FRAMEWORKS = {"torch_kinds": "torch", "ort_kinds": "onnxruntime", "tf_kinds": "tensorflow"}
COUNTS = {"core_kinds": 40, "torch_kinds": 20, "ort_kinds": 20, "tf_kinds": 8, "tf_recipe": 40}
"""Inputs of a kind, or of the kinds of a module: models of TensorFlow take ten times as long as others."""


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", KINDS)
def test_inputs_are_refused_by_errors_of_ours_or_taken_rightly(kind, tmp_path):
    module = KINDS[kind]
    if module in FRAMEWORKS and find_spec(FRAMEWORKS[module]) is None:
        pytest.skip(f"needs {FRAMEWORKS[module]}")
    attempt = attempt_of(kind, tmp_path)
    found = [outcome(attempt, kind, 0, index) for index in range(COUNTS.get(kind, COUNTS[module]))]
    assert [each for each in found if each.answer in ("wrong", "raw")] == []
    assert {each.answer for each in found} == {"refused", "right"}


def test_the_same_seed_makes_the_same_input():
    document = {"a": [1, 2.5, {"b": "text"}], "c": True}
    made = [(mutate_bytes(bytes(50), Random("x")), mutate_document(document, Random("x"))) for _ in range(2)]
    assert repr(made[0]) == repr(made[1])
    assert document == {"a": [1, 2.5, {"b": "text"}], "c": True}
    assert len({repr(mutate_document(document, Random(seed))) for seed in range(20)}) > 10


def test_answers_are_told_apart():
    def attempt(generator):
        if generator.random() < 0.5:
            raise RecipeError("ours")
        raise KeyError("theirs")

    assert {outcome(attempt, "kind", 0, index).answer for index in range(20)} == {"refused", "raw"}
    assert outcome(lambda _: None, "kind", 0, 0).answer == "right"
