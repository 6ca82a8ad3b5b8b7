"""Several threads may tune, one model or several, and leave the process and the models as they were."""

from __future__ import annotations

import pytest
import torch

from inc_autotune import torch_ext
from tests.process_state import process_state, run_in_threads
from tests.torch.small_models import outlier_mlp, vectors


def model_state(model):
    """What others could have left on a module: attributes, hooks, modes."""
    tables = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_parameters", "_buffers", "_modules")
    return {
        name: (type(each), sorted(each.__dict__), each.training, [list(each.__dict__[table]) for table in tables])
        for name, each in model.named_modules()
    }


def score(model):
    """That of a model which runs."""
    return 1.0 if model(vectors()[0]).isfinite().all() else 0.0


def tune(model, evaluation=None):
    return torch_ext.autotune(model, vectors(), evaluation, objective="modelsize", progress=False)


def test_threads_may_tune_one_model():
    model, state = outlier_mlp(), process_state()
    expected = tune(model)(vectors()[0])
    before = model_state(model)
    found = []

    def work():
        for _ in range(3):
            found.append(tune(model, score)(vectors()[0]))

    assert run_in_threads(work) == []
    assert all(torch.equal(each, expected) for each in found)
    assert model_state(model) == before
    after = process_state()
    assert {name for name in state if state[name] != after[name]} == set()
    assert torch.equal(tune(model)(vectors()[0]), expected)


@pytest.mark.parametrize("strategy", ["auto", "tpe"])
def test_threads_may_tune_models_of_their_own(strategy):
    models, state = [outlier_mlp() for _ in range(6)], process_state()

    def work():
        torch_ext.autotune(
            models.pop(),
            vectors(),
            score,
            strategy=strategy,
            max_trials=2,
            tuning_time=5,
            objective="modelsize",
            progress=False,
        )

    for _ in range(2):
        assert run_in_threads(work) == []
    after = process_state()
    assert {name for name in state if state[name] != after[name]} == set()


def test_one_run_leaves_the_process_as_it_was():
    model, state = outlier_mlp(), process_state()
    torch_ext.convert(tune(model))
    after = process_state()
    assert {name for name in state if state[name] != after[name]} == set()
