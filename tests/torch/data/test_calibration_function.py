"""Calibration by a function: what is wrong with it, and whose error goes through."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import nn

from inc_autotune.core.errors import ArgumentError, DataError
from tests.torch.small_models import tune

DATA = torch.randn(4, 16)


def linear() -> nn.Module:
    return nn.Linear(16, 4).eval()


def two_arguments(model, data):
    model(data)


@pytest.mark.parametrize("function", [two_arguments, lambda: None, lambda *, model: None])
def test_a_function_of_other_arguments_is_named_before_it_runs(function):
    with pytest.raises(ArgumentError, match=r"calib_func\(.*\): .* Allowed: a function of one argument"):
        tune(linear(), calib_func=function)


class Caller:
    """A callable object with arguments of its own."""

    def __call__(self, model, *more, data=DATA):
        model(data)


@pytest.mark.parametrize("function", [functools.partial(two_arguments, data=DATA), Caller(), Caller().__call__])
def test_callables_of_any_kind_calibrate(function):
    assert tune(linear(), calib_func=function).tuning_result.sampling_size == 4


@pytest.mark.parametrize("first", [[], [DATA]])
def test_a_batch_the_model_does_not_take_is_described(first):
    def calib_func(model):
        for batch in [*first, torch.randn(4, 9)]:
            model(batch)

    words = rf"calib_func: the model fails on the batch \(Tensor float32 \[4, 9\]\), .* after {4 * len(first)} samples"
    with pytest.raises(DataError, match=words) as caught:
        tune(linear(), calib_func=calib_func)
    assert isinstance(caught.value.__cause__, RuntimeError)


def test_an_error_of_the_function_goes_through_after_the_model_ran():
    def calib_func(model):
        model(DATA)
        raise KeyError("texts")

    with pytest.raises(KeyError, match="texts"):
        tune(linear(), calib_func=calib_func)


def test_a_batch_on_the_meta_device_is_named():
    with pytest.raises(DataError, match=r"Tensor float32 \[4, 16\] on the meta device, which has no values"):
        tune(linear(), [DATA.to("meta")])
