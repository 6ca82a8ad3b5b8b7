"""Forms of a model that compute something else than the model are refused, or told."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn

import tests.ipex.extension  # noqa: F401  skips this file where there is none
from inc_autotune.core.errors import ModelError
from inc_autotune.torch_ext.ipex import adaptor
from tests.ipex.small_models import CalledByName
from tests.torch.small_models import outlier_mlp, tune, vectors

tune_ipex = partial(tune, backend="ipex")


@pytest.mark.parametrize("name", ["", "head"])
def test_hooks_that_the_extension_drops_are_an_error(name):
    model = outlier_mlp()
    model.get_submodule(name).register_forward_hook(lambda module, args, result: 2 * result)
    with pytest.raises(ModelError, match=f"change what it computes.*those of {name or 'the model'}, do not run"):
        tune_ipex(model, vectors())


def test_hooks_that_change_nothing_are_none_of_our_business():
    model, seen = outlier_mlp(), []
    model.register_forward_hook(lambda module, args, result: seen.append(result))
    assert "int8" in {each.dtype for each in tune_ipex(model, vectors()).tuning_result.operators}


def test_a_module_called_by_keyword_is_an_error():
    """The extension's converted models call the function with the first positional input, and there is none."""
    with pytest.raises(ModelError, match=r"does not run.*first: its input is passed by keyword"):
        tune_ipex(CalledByName().eval(), vectors())


class Doubled(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        return 2 * self.model(*inputs)


@pytest.mark.parametrize("trace", [adaptor.traced_model, lambda model, batch: Doubled(model)], ids=["right", "wrong"])
def test_a_traced_model_that_loses_more_than_the_evaluated_one_is_told(trace, monkeypatch):
    is_wrong = trace is not adaptor.traced_model
    monkeypatch.setattr(adaptor, "traced_model", trace)
    for options in ({}, {"eval_func": lambda model: 1.0, "tuning_time": 1, "max_trials": 2}):
        notes = tune_ipex(outlier_mlp(), vectors(), **options).tuning_result.notes
        assert any("Evaluate the traced model" in note for note in notes) is is_wrong
